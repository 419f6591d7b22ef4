/** Certificates for tests of TLS: a throw-away authority for each call. */
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import {
  BasicConstraintsExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
  type JsonGeneralName,
} from '@peculiar/x509';
import type { TlsCredentials } from '../../agent/src/platform/tls-options.js';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const crypto = webcrypto as unknown as typeof globalThis.crypto;
type KeyPair = webcrypto.CryptoKeyPair;

export interface CertificateRequest {
  /** As in `CN=name`. */
  readonly subject: string;
  readonly alternativeNames?: readonly JsonGeneralName[];
}

/** An authority and a function that gives out certificates of it. */
export async function createAuthority(): Promise<(request: CertificateRequest) => Promise<TlsCredentials>> {
  const authorityKeys = await generateKeys();
  const authority = await X509CertificateGenerator.createSelfSigned(
    {
      name: 'CN=test authority',
      keys: authorityKeys,
      signingAlgorithm: algorithm,
      extensions: [new BasicConstraintsExtension(true, undefined, true)],
    },
    crypto,
  );
  let serial = 1;
  return async ({ subject, alternativeNames = [] }) => {
    const keys = await generateKeys();
    const certificate = await X509CertificateGenerator.create(
      {
        serialNumber: (serial++).toString(16).padStart(2, '0'),
        subject,
        issuer: authority.subject,
        publicKey: keys.publicKey,
        signingKey: authorityKeys.privateKey,
        signingAlgorithm: algorithm,
        extensions: alternativeNames.length > 0 ? [new SubjectAlternativeNameExtension([...alternativeNames])] : [],
      },
      crypto,
    );
    const key = await crypto.subtle.exportKey('pkcs8', keys.privateKey);
    return {
      ca: authority.toString('pem'),
      cert: certificate.toString('pem'),
      key: PemConverter.encode(key, 'PRIVATE KEY'),
    };
  };
}

function generateKeys(): Promise<KeyPair> {
  return crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']) as Promise<KeyPair>;
}

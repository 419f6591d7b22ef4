/**
 * A small certificate authority, for trying Tidemark out and for tests: ECDSA P-256, one level, no revocation. The CN of
 * a certificate is the name of the agent or person; what that name may do is said by the agent's configuration.
 */
import 'reflect-metadata';
import type { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';
import { TidemarkError } from '../core/errors.js';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const dayMs = 86_400_000;
/** Certificates begin this much in the past, for clocks that are not quite right. */
const backdateMs = 5 * 60_000;

/** PEM texts. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

export interface IssueOptions {
  /** Names and addresses that clients dial; the name itself, localhost and the loopback addresses are always in. */
  readonly hosts?: readonly string[];
  readonly days?: number;
}

/** A new authority, by default for ten years. */
export async function createAuthority(name = 'Tidemark authority', days = 3650): Promise<KeyPair> {
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    ...validity(days),
    serialNumber: serial(),
    name: distinguishedName(name),
    keys,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { certificate: pem(certificate), key: await pemKey(keys.privateKey) };
}

/** A certificate for both sides of TLS: agents dial and listen. By default for 825 days. */
export async function issueCertificate(authority: KeyPair, name: string, options: IssueOptions = {}): Promise<KeyPair> {
  const issuer = new x509.X509Certificate(authority.certificate);
  const signingKey = await importKey(authority.key);
  const keys = await crypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const hosts = [
    ...new Set([...(isDnsName(name) ? [name] : []), 'localhost', '127.0.0.1', '::1', ...(options.hosts ?? [])]),
  ];
  const certificate = await x509.X509CertificateGenerator.create({
    ...validity(options.days ?? 825),
    serialNumber: serial(),
    subject: distinguishedName(name),
    issuer: issuer.subject,
    publicKey: keys.publicKey,
    signingKey,
    signingAlgorithm: algorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth, x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension(hosts.map((value) => ({ type: isIP(value) ? 'ip' : 'dns', value }))),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return { certificate: pem(certificate), key: await pemKey(keys.privateKey) };
}

function distinguishedName(name: string): string {
  if (!/^[A-Za-z0-9 ._-]{1,64}$/.test(name))
    throw new TidemarkError(
      'request-invalid',
      `a certificate name has 1 to 64 of A-Z a-z 0-9 space . _ -: ${JSON.stringify(name)}`,
      { path: 'name' },
    );
  return `CN=${name}`;
}

function isDnsName(name: string): boolean {
  return /^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$/i.test(name);
}

function validity(days: number): { notBefore: Date; notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - backdateMs), notAfter: new Date(now + days * dayMs) };
}

/** 16 random bytes, positive. */
function serial(): string {
  const bytes = Buffer.from(crypto.getRandomValues(new Uint8Array(16)));
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
}

function pem(certificate: x509.X509Certificate): string {
  return `${certificate.toString('pem').trim()}\n`;
}

async function pemKey(key: webcrypto.CryptoKey): Promise<string> {
  return `${x509.PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY').trim()}\n`;
}

async function importKey(text: string): Promise<webcrypto.CryptoKey> {
  const bytes = x509.PemConverter.decodeFirst(text);
  return crypto.subtle.importKey('pkcs8', bytes, algorithm, false, ['sign']);
}

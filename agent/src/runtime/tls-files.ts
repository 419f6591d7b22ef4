/** The agent's certificate, key and authorities, read from the files that the configuration names. */
import { readFile } from 'node:fs/promises';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { createSecureContext } from 'node:tls';
import type { AgentConfig } from '../config/schema.js';
import { TidemarkError } from '../core/errors.js';
import { peerName } from '../platform/tls-identity.js';

/** PEM texts. */
export interface TlsMaterial {
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
}

/** Throws `config-invalid` when a file is missing or broken, or when the certificate is of another agent. */
export async function readTlsFiles(config: Pick<AgentConfig, 'agent' | 'tls'>): Promise<TlsMaterial> {
  const { tls } = config;
  const [certificate, key, authority] = await Promise.all([
    readPem(tls.certificate, 'tls.certificate'),
    readPem(tls.key, 'tls.key'),
    readPem(tls.authority, 'tls.authority'),
  ]);
  const own = attempt('tls.certificate', () => new X509Certificate(certificate));
  const name = peerName(own);
  if (name !== config.agent) {
    throw new TidemarkError('config-invalid', `agent: the certificate is of ${name ?? 'nobody'}, not ${config.agent}`, {
      path: 'agent',
    });
  }
  if (!own.checkPrivateKey(attempt('tls.key', () => createPrivateKey(key)))) {
    throw new TidemarkError('config-invalid', 'tls.key: not the key of the certificate', { path: 'tls.key' });
  }
  attempt('tls.authority', () => new X509Certificate(authority));
  attempt('tls', () => createSecureContext({ cert: certificate, key, ca: authority }));
  return { certificate, key, authority };
}

async function readPem(file: string, path: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new TidemarkError('config-invalid', `${path}: ${(cause as Error).message}`, { path, cause });
  }
}

function attempt<T>(path: string, parse: () => T): T {
  try {
    return parse();
  } catch (cause) {
    throw new TidemarkError('config-invalid', `${path}: ${(cause as Error).message}`, { path, cause });
  }
}

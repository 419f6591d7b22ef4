/**
 * Who a verified certificate says the peer is: its one `tidemark://NAME` URI among the subject alternative names, or,
 * when it has none, its one subject common name. Two candidates are refused, not chosen from.
 */
import type { X509Certificate } from 'node:crypto';

const namePattern = /^[a-z0-9][a-z0-9._-]{0,62}$/;
const uriPrefix = 'tidemark://';
/** One `TYPE:value` of node's list; a value with special characters comes as a JSON string. */
const alternativeName = /([A-Za-z0-9 ]+):("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)/gy;

/** The peer's name, or undefined when the certificate does not give exactly one well-formed name. */
export function peerName(certificate: X509Certificate): string | undefined {
  const uris = alternativeUris(certificate.subjectAltName ?? '').filter((uri) => uri.startsWith(uriPrefix));
  const candidates =
    uris.length > 0 ? uris.map((uri) => uri.slice(uriPrefix.length)) : commonNames(certificate.subject);
  const [name] = candidates;
  return candidates.length === 1 && name !== undefined && namePattern.test(name) ? name : undefined;
}

function alternativeUris(list: string): string[] {
  const uris: string[] = [];
  for (const [, type, value] of list.matchAll(alternativeName)) {
    if (type === 'URI' && value !== undefined) uris.push(value.startsWith('"') ? (JSON.parse(value) as string) : value);
  }
  return uris;
}

function commonNames(subject: string): string[] {
  return subject.split('\n').flatMap((line) => (line.startsWith('CN=') ? [line.slice('CN='.length)] : []));
}

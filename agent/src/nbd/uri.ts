/** NBD URIs (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md), the part that Tidemark uses. */
import { TidemarkError } from '../core/errors.js';

export interface NbdAddress {
  readonly exportName: string;
  readonly tls: boolean;
  readonly at: { readonly socketPath: string } | { readonly host: string; readonly port: number };
}

const portDefault = 10809;

/** `nbd+unix:///EXPORT?socket=PATH`, `nbd://HOST[:PORT]/EXPORT`, `nbds://…`. Throws `config-invalid`. */
export function parseNbdUri(uri: string): NbdAddress {
  const refuse = (why: string): TidemarkError => new TidemarkError('config-invalid', `"${uri}": ${why}`, { path: uri });
  const url = URL.parse(uri);
  if (url === null || !/^nbds?(\+unix)?:$/.test(url.protocol)) throw refuse('not an NBD URI');
  const exportName = decodeURIComponent(url.pathname.replace(/^\//, ''));
  const tls = url.protocol.startsWith('nbds');
  if (!url.protocol.endsWith('+unix:')) {
    if (url.hostname === '') throw refuse('no host');
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    return { exportName, tls, at: { host, port: url.port === '' ? portDefault : Number(url.port) } };
  }
  const socketPath = url.searchParams.get('socket');
  if (socketPath === null || socketPath === '') throw refuse('no socket=PATH');
  return { exportName, tls, at: { socketPath } };
}

/** The URI of an export on a unix socket of this host. */
export function unixUri(socketPath: string, exportName: string): string {
  return `nbd+unix:///${encodeURIComponent(exportName)}?socket=${encodeURIComponent(socketPath)}`;
}

/** The edge of the server's transmission phase: every field of a request is checked here and nowhere else. */
import type { ExportBackend, NbdErrorName } from './backend.js';
import type { Request } from './codec.js';
import { command, commandFlag, payloadBytesMax } from './protocol.js';

/** FUA is allowed everywhere: the protocol obliges a server that announced it to accept it with any command. */
const flagsOf: readonly (number | undefined)[] = Object.assign(Array<number | undefined>(8).fill(undefined), {
  [command.read]: commandFlag.fua | commandFlag.dontFragment,
  [command.write]: commandFlag.fua,
  [command.flush]: commandFlag.fua,
  [command.trim]: commandFlag.fua,
  [command.writeZeroes]: commandFlag.fua | commandFlag.noHole,
  [command.blockStatus]: commandFlag.fua | commandFlag.reqOne,
});

/**
 * Undefined when the request may go to the backend, else the error that answers it. Not for DISC, nor for a payload over
 * `payloadBytesMax`: those end the connection.
 */
export function validateRequest(
  request: Request,
  backend: ExportBackend,
  blockStatus: boolean,
): NbdErrorName | undefined {
  const kind = request.command;
  const flags = flagsOf[kind];
  if (flags === undefined || (request.flags & ~flags) !== 0) return 'EINVAL';
  if (kind === command.flush) return request.lengthBytes === 0 && request.offsetBytes === 0 ? undefined : 'EINVAL';
  const writes = kind === command.write || kind === command.trim || kind === command.writeZeroes;
  if (writes && backend.readOnly) return 'EPERM';
  if (kind === command.blockStatus && !blockStatus) return 'EINVAL';
  if (kind === command.read && request.lengthBytes > payloadBytesMax) return 'EOVERFLOW';
  if (request.lengthBytes === 0) return 'EINVAL';
  if (request.offsetBytes + request.lengthBytes > backend.sizeBytes) {
    return kind === command.write || kind === command.writeZeroes ? 'ENOSPC' : 'EINVAL';
  }
  const block = backend.minimumBlockBytes;
  return request.offsetBytes % block === 0 && request.lengthBytes % block === 0 ? undefined : 'EINVAL';
}

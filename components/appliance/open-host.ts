/** From what a program says of a host to the host. A new kind of machine is a new branch of both. */
import { z } from 'zod';
import type { Host } from './host.js';
import { localHost } from './local-host.js';
import { connectSsh } from './ssh-host.js';

export const thisMachineSchema = z
  .strictObject({ kind: z.literal('this-machine') })
  .describe('The machine that runs Pulumi, for trying out');

export const sshHostSchema = z
  .strictObject({
    kind: z.literal('ssh'),
    address: z
      .string()
      .max(253)
      .regex(/^[A-Za-z0-9.:_-]+$/, 'a name or an IP address')
      .describe('Name or IP address'),
    port: z.number().int().min(1).max(65_535).default(22),
    user: z
      .string()
      .regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'a user name')
      .default('root'),
    sudo: z.boolean().default(false).describe('Commands run by sudo -n; needed unless the user is root'),
    hostKey: z
      .string()
      .regex(
        /^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+=*$/,
        'TYPE BASE64, the line of ssh-keyscan without the host name',
      )
      .describe('Public key of the host: TYPE BASE64. Another key is never trusted'),
    privateKey: z
      .string()
      .min(1)
      .max(65_536)
      .optional()
      .meta({ secret: true })
      .describe('Private key that the user is let in with, in OpenSSH or PEM form'),
    agentSocket: z.string().min(1).max(107).optional().describe('Socket of an SSH agent that holds the key instead'),
  })
  .superRefine(({ privateKey, agentSocket }, context) => {
    if ((privateKey === undefined) === (agentSocket === undefined))
      context.addIssue({ code: 'custom', path: ['privateKey'], message: 'give privateKey or agentSocket' });
  })
  .describe('An existing Linux host');

export const hostSchema = z.discriminatedUnion('kind', [thisMachineSchema, sshHostSchema]);
export type HostInput = z.infer<typeof hostSchema>;

/** Throws `host-unreachable`, `host-key-mismatch`, `host-refused`. */
export async function openHost(input: HostInput): Promise<Host> {
  return input.kind === 'ssh' ? connectSsh(input) : localHost;
}

/** Under which name or address others reach it when nothing else was said. */
export function addressOf(input: HostInput): string {
  return input.kind === 'ssh' ? input.address : '127.0.0.1';
}

/** Says that it is the same machine: neither an address nor a login is. */
export function identityOf(input: HostInput): string {
  return input.kind === 'ssh' ? input.hostKey : input.kind;
}

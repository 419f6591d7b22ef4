/**
 * Application checkpoints of target groups with several source agents: the target holds the VMs of all of them around its
 * barrier (hooks/joint-hold.ts), and judges the mark itself. One at a time for each group; who asks for the same at the same
 * time gets the same one.
 */
import type { AgentClient } from '../client/agent-client.js';
import type { Clock } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { EventSink } from '../core/events.js';
import { randomHex } from '../core/ids.js';
import type { Random } from '../core/random.js';
import { jointHold, type HoldMember } from '../hooks/joint-hold.js';
import type { TargetGroup } from '../target/group.js';
import { coordinatorStream, type Checkpoint } from '../target/manifest-records.js';
import { crashAlert, type Alert } from './crash-alert.js';
import type { PeerClients } from './peer-clients.js';

export interface JointCheckpointsOptions {
  readonly peers: PeerClients;
  readonly clock: Clock;
  readonly random: Random;
  readonly events: EventSink;
}

const durableMs = 30_000;

export class JointCheckpoints {
  private readonly running = new Map<string, { readonly label: string | undefined; readonly run: Promise<string> }>();
  private readonly alerts = new Map<string, Alert>();
  private readonly closing = new AbortController();

  constructor(private readonly options: JointCheckpointsOptions) {}

  /**
   * The id of the checkpoint, durable here with its verdict; as `crash` when a hold could not be proven. Throws `hooks-none`,
   * `operation-running`, `peer-api-unknown`, `peer-unreachable`, `barrier-broken`.
   */
  async take(group: TargetGroup, label: string | undefined): Promise<Checkpoint['id']> {
    const known = this.running.get(group.name);
    if (known !== undefined) {
      if (known.label === label) return known.run;
      throw new TidemarkError('operation-running', `An application checkpoint of ${group.name} is being made.`);
    }
    if (this.closing.signal.aborted) throw new TidemarkError('shutting-down', 'The agent is stopping.');
    const agents = [...group.context.manifest.state.streams.values()];
    for (const agent of agents) this.options.peers.check(agent);
    const run = this.connected(agents, [], (members) => this.attempt(group, label, members));
    this.running.set(group.name, { label, run });
    try {
      return await run;
    } finally {
      this.running.delete(group.name);
    }
  }

  /** The newest failure, until one succeeds. */
  alertsOf(group: string): Alert[] {
    const alert = this.alerts.get(group);
    return alert === undefined ? [] : [alert];
  }

  /** Calls off what runs; resolves when every agent was told, or could not be. */
  async close(): Promise<void> {
    this.closing.abort(new TidemarkError('shutting-down', 'The agent is stopping.'));
    await Promise.allSettled([...this.running.values()].map(({ run }) => run));
  }

  /** Keeps one connection to each agent for the whole hold: no step waits for a handshake. */
  private connected<T>(
    [agent, ...others]: readonly string[],
    clients: readonly (readonly [string, AgentClient])[],
    call: (clients: readonly (readonly [string, AgentClient])[]) => Promise<T>,
  ): Promise<T> {
    if (agent === undefined) return call(clients);
    return this.options.peers.use(agent, (client) => this.connected(others, [...clients, [agent, client]], call));
  }

  private async attempt(
    group: TargetGroup,
    label: string | undefined,
    clients: readonly (readonly [string, AgentClient])[],
  ): Promise<string> {
    const { clock, random, events } = this.options;
    const { name } = group;
    const id = randomHex(random, 8);
    const members = clients.map(([agent, client]): HoldMember => ({
      agent,
      step: (request) => client.holdStep(name, id, request),
    }));
    const mark = (): Promise<string> => group.takeBarrier('application', label);
    const outcome = await jointHold({ members, group: name, clock, mark, signal: this.closing.signal });
    const { mark: checkpoint, reasons, ...told } = outcome;
    const proven = reasons.length === 0;
    const attributes = { proven, ...told, agents: clients.map(([agent]) => agent), ...(proven ? {} : { reasons }) };
    await group.keepVerdict(coordinatorStream, { checkpoint, proven, attributes });
    if (proven) {
      events.emit('application-checkpoint', { group: name, checkpoint, ...told });
      this.alerts.delete(name);
    } else {
      events.emit('application-checkpoint-crash', { group: name, checkpoint, reasons });
      this.alerts.set(name, crashAlert(name, reasons, clock.wallMs()));
    }
    await group.waitForCheckpoint(checkpoint, durableMs);
    return checkpoint;
  }
}

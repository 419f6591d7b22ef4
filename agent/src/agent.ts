/**
 * The agent: opens what is on its disks, listens, and holds the sides together until it is told to end.
 *
 * Start: certificates → data directory locked → target groups recovered, then declared → stream listener → source groups
 * → NBD → API → ready. End: exports closed and sources drained (bounded), then API, streams, groups, NBD, catalogue.
 */
import type { RunAgent, RunOptions } from './cli/agent-process.js';
import { preferAcknowledging } from './platform/priority.js';
import { roleOf, type AgentConfig } from './config/schema.js';
import type { SourceGroupConfig } from './config/schema-groups.js';
import { WorkerCatalogue } from './control/catalogue/worker-catalogue.js';
import { startApiServer, type ApiServer } from './control/server.js';
import { TidemarkError } from './core/errors.js';
import { randomHex } from './core/ids.js';
import { Mutex } from './core/mutex.js';
import { AttachPermits } from './guard/attach-permits.js';
import { libvirtFencing, monitorFencing, type FencingDriver } from './fencing/fenced-vm.js';
import { fencedDirectory, FenceRecords } from './fencing/fence-record.js';
import { SourceFences } from './fencing/source-fences.js';
import { GuardKeeper } from './guard/guard-keeper.js';
import { Virsh } from './hypervisor/virsh.js';
import { Throttle } from './link/throttle.js';
import { payloadBytesMax } from './nbd/protocol.js';
import { NbdServer } from './nbd/server.js';
import { SlabPool } from './nbd/slab.js';
import { nodeClock } from './platform/node-clock.js';
import { nodeRandom } from './platform/node-random.js';
import { NodeStorage } from './platform/node-storage.js';
import { TlsDialer } from './platform/tls-dialer.js';
import { TlsListener } from './platform/tls-listener.js';
import { parseAddress, type TlsCredentials } from './platform/tls-options.js';
import { LibvirtDriver } from './recovery/libvirt-driver.js';
import { registerDataPath } from './runtime/agent-metrics.js';
import { ApplicationCheckpoints } from './runtime/application-checkpoints.js';
import { CatalogueSync } from './runtime/catalogue-sync.js';
import { CheckpointSchedules } from './runtime/checkpoint-schedules.js';
import { lockDirectory } from './runtime/data-lock.js';
import { declaredPeerSchema, DeclaredPeers, peersNow, type DeclaredPeer } from './runtime/declared-peers.js';
import { DeclaredRecords } from './runtime/declared-records.js';
import {
  declaredGroups,
  DeclaredSources,
  declaredSourceSchema,
  type DeclaredSource,
} from './runtime/declared-sources.js';
import { openDevice } from './runtime/devices.js';
import { eventSink } from './runtime/events.js';
import { every } from './runtime/every.js';
import { viewExportName } from './runtime/exports.js';
import { GuestProbes } from './runtime/guest-probes.js';
import { HealthChecks } from './runtime/health.js';
import { HoldRecords } from './runtime/hold-records.js';
import { HoldShares } from './runtime/hold-shares.js';
import { JointCheckpoints } from './runtime/joint-checkpoints.js';
import { KeyFiles } from './runtime/key-files.js';
import { idleShareMeter, throttleSchedule, turnScheduler } from './runtime/machine.js';
import { ZstdThread } from './runtime/zstd-thread.js';
import { NbdExports } from './runtime/nbd-exports.js';
import { PeerClients } from './runtime/peer-clients.js';
import { Service } from './runtime/service.js';
import { DirectionRecords } from './runtime/direction-records.js';
import { reversals, sourceGroupsNow } from './runtime/reversals.js';
import { rpoNow, RpoSamples } from './runtime/rpo-samples.js';
import { SourceOperations } from './runtime/source-operations.js';
import { sourcePeers } from './runtime/source-peers.js';
import { SourceSide } from './runtime/source-side.js';
import { SourceStops } from './runtime/source-stops.js';
import { OldDisks } from './runtime/old-disks.js';
import { SourceVms } from './runtime/source-vms.js';
import { StopRecords } from './runtime/stop-records.js';
import { TakeOvers } from './runtime/take-overs.js';
import { TargetSide } from './runtime/target-side.js';
import { readTlsFiles, type TlsMaterial } from './runtime/tls-files.js';
import { EventRing } from './service/event-ring.js';

const slabBytes = 1024 * 1024;
const upkeepMs = 1000;
const probeMs = 10_000;
const rpoMs = 5000;
const purgeMs = 60_000;

export const runAgent: RunAgent = async (config, options) => {
  const storage = new NodeStorage();
  const tls = await readTlsFiles(config);
  await storage.makeDirectory(config.dataDirectory);
  const lock = await lockDirectory(config.dataDirectory);
  try {
    const agent = new Agent(config, options, storage, tls);
    try {
      await agent.start();
      await aborted(options.signal);
    } finally {
      await agent.stop();
    }
  } finally {
    lock.release();
  }
};

class Agent {
  private readonly boot = randomHex(nodeRandom, 8);
  private readonly ring = new EventRing(nodeClock, this.boot);
  private readonly slabs: SlabPool;
  private readonly nbd: NbdServer;
  private readonly exports: NbdExports;
  private readonly dialer: TlsDialer;
  private readonly throttle: Throttle;
  private readonly keys: KeyFiles;
  private readonly catalogue: CatalogueSync;
  private readonly vms: SourceVms;
  private readonly sources: SourceSide;
  private readonly targets: TargetSide;
  private readonly health: HealthChecks;
  private readonly compressor = new ZstdThread();
  private readonly guard: GuardKeeper;
  /** Whether the disks of a group may be attached, after let-goes. */
  private readonly permits: AttachPermits;
  private readonly fences: SourceFences;
  private readonly sourceOperations = new SourceOperations(nodeClock);
  private readonly stops: SourceStops;
  private readonly applications: ApplicationCheckpoints;
  private readonly shares: HoldShares;
  private readonly joint: JointCheckpoints;
  private readonly schedules: CheckpointSchedules;
  private readonly probes: GuestProbes;
  private readonly peers: PeerClients;
  /** Which way groups go here when that is not as the configuration says. */
  private readonly directions: DirectionRecords;
  private readonly oldDisks: OldDisks;
  private readonly takeOvers: TakeOvers;
  private readonly sourceRecords: DeclaredRecords<DeclaredSource>;
  private readonly peerRecords: DeclaredRecords<DeclaredPeer>;
  private readonly declaredSources: DeclaredSources;
  private readonly declaredPeers: DeclaredPeers;
  /** Resolved when the NBD socket is served: no VM can be started before. */
  private readonly serving = Promise.withResolvers<void>();
  private nextPurgeMs = 0;
  private sourcesStarted = false;
  private readonly starting = new Mutex();
  private listener: TlsListener | undefined;
  private api: ApiServer | undefined;
  private stopUpkeep: (() => Promise<void>) | undefined;
  private stopProbes: (() => Promise<void>) | undefined;
  private stopSchedules: (() => Promise<void>) | undefined;
  private stopFences: (() => Promise<void>) | undefined;
  private stopRpo: (() => Promise<void>) | undefined;
  private readonly rpo = new RpoSamples();

  constructor(
    private config: AgentConfig,
    private readonly options: RunOptions,
    private readonly storage: NodeStorage,
    private tls: TlsMaterial,
  ) {
    const { dataDirectory, listen, buffers } = config;
    const { log, version } = options;
    const events = eventSink(this.ring, log);
    const shared = { storage, events, clock: nodeClock, random: nodeRandom };
    this.slabs = new SlabPool({ limitBytes: buffers.bufferBytes + payloadBytesMax + slabBytes, slabBytes });
    const onFault = (error: unknown): void => log.error({ event: 'nbd-fault', err: error }, 'an NBD backend failed');
    this.nbd = new NbdServer({
      ...{ slabs: this.slabs, clock: nodeClock, onFault },
      onGuarded: (connection) => this.guard.hold(connection),
    });
    const guardDirectory = `${dataDirectory}/guard`;
    this.guard = new GuardKeeper({
      letGoMs: config.guard.letGoMs,
      directory: guardDirectory,
      logFields: { site: config.site, agent: config.agent, version },
      clock: nodeClock,
      events,
      oldestMs: () => this.nbd.oldestGuardedMs(),
    });
    this.permits = new AttachPermits({ storage, directory: guardDirectory, clock: nodeClock, events });
    this.exports = new NbdExports(this.nbd, listen.nbd.socketDirectory, listen.nbd.tcp, () => this.guard.start());
    this.dialer = new TlsDialer(credentials(tls));
    this.throttle = new Throttle(nodeClock, throttleSchedule(config.throttle));
    this.keys = new KeyFiles(storage, dataDirectory);
    const catalogueFile = `${dataDirectory}/catalogue.db`;
    this.catalogue = new CatalogueSync(
      () => new WorkerCatalogue(catalogueFile),
      () => storage.exists(catalogueFile),
      this.boot,
    );
    this.sourceRecords = new DeclaredRecords(storage, `${dataDirectory}/sources`, declaredSourceSchema);
    this.peerRecords = new DeclaredRecords(storage, `${dataDirectory}/peers`, declaredPeerSchema);
    this.peers = new PeerClients({ peers: () => this.now.peers, tls: () => this.tls });
    this.vms = new SourceVms({
      ...shared,
      agent: config.agent,
      hypervisors: config.hypervisors,
      directory: `${dataDirectory}/attach`,
      socketDirectory: listen.nbd.socketDirectory,
      captureSocket: this.exports.socketPath,
      mayAttach: (group) => this.permits.mayAttach(group),
      attachAgain: (group) => this.permits.attachAgain(group),
      clientCount: (exportName) => this.exports.clientCount(exportName),
    });
    this.directions = new DirectionRecords(storage, `${dataDirectory}/directions`);
    const spoolDirectory = buffers.spoolDirectory ?? `${dataDirectory}/spool`;
    const asked = sourcePeers(this.peers, nodeClock);
    const addressOf = (peer: string): string | undefined => this.now.peers.find(({ name }) => name === peer)?.address;
    this.targets = new TargetSide({
      ...shared,
      sources: asked,
      reversal: reversals({
        ...{ records: this.directions, peers: asked, vms: this.vms, events, addressOf, storage, spoolDirectory },
        declared: () => this.declaredSourceGroups(),
        targets: () => this.targets,
        changed: () => this.startSources(),
      }),
      exports: this.exports,
      directory: `${dataDirectory}/groups`,
      keys: this.keys,
      recovery: {
        agent: config.agent,
        driver: (name) => this.recoveryDriver(name),
        socketPath: this.exports.socketPath,
        exportName: viewExportName,
        directory: `${dataDirectory}/machines`,
        serving: this.serving.promise,
      },
      rebuildCatalogue: (group) => this.catalogue.rebuild(group),
    });
    this.sources = new SourceSide({
      agent: config.agent,
      vms: this.vms,
      environment: {
        ...shared,
        dialer: this.dialer,
        scheduler: turnScheduler,
        compressor: this.compressor,
        cpuIdleShare: idleShareMeter(),
        throttle: this.throttle,
        software: version,
      },
      exports: this.exports,
      directory: spoolDirectory,
      bufferBytes: buffers.bufferBytes,
      spoolBytes: buffers.spoolBytes,
      openDevice: (location, access) => openDevice(location, access, { clock: nodeClock, tls: () => this.tls }),
      addressOf,
      declaredAs: (group) => {
        const { owner = null, policyRevision = 0 } = this.sourceRecords.get(group) ?? {};
        return { owner, policyRevision };
      },
      alertsOf: (group) => [
        ...this.permits.alertsOf(group),
        ...this.fences.alertsOf(group),
        ...this.applications.alertsOf(group),
        ...this.probes.alertsOf(group),
      ],
      hooksOf: (group) => this.schedules.status(group),
    });
    this.applications = new ApplicationCheckpoints({
      records: new HoldRecords(storage, `${dataDirectory}/holds`),
      ...{ sources: this.sources, vms: this.vms, clock: nodeClock, random: nodeRandom, events, peers: this.peers },
    });
    this.shares = new HoldShares({ applications: this.applications, vms: this.vms, clock: nodeClock });
    this.joint = new JointCheckpoints({ peers: this.peers, clock: nodeClock, random: nodeRandom, events });
    this.probes = new GuestProbes({
      ...{ sources: this.sources, vms: this.vms, clock: nodeClock },
      isBusy: (group) => this.applications.isRunning(group),
    });
    this.schedules = new CheckpointSchedules({
      ...{ ...shared, sources: this.sources, applications: this.applications, directory: `${dataDirectory}/schedules` },
    });
    this.stops = new SourceStops({
      records: new StopRecords(storage, `${dataDirectory}/stops`, events),
      operations: this.sourceOperations,
      sources: this.sources,
      vms: this.vms,
      clock: nodeClock,
      events,
    });
    this.fences = new SourceFences({
      records: new FenceRecords(storage, fencedDirectory(dataDirectory)),
      clock: nodeClock,
      events,
      groups: () => this.staleGroups(),
      policyOf: (name) => this.sources.find(name)?.config.fencing ?? 'leave',
      driver: (name) => this.fencingDriver(name),
    });
    const driver = (name: string): LibvirtDriver => this.recoveryDriver(name);
    const machines = `${dataDirectory}/machines`;
    this.oldDisks = new OldDisks({
      ...{ storage, events, driver, directory: machines },
      isSeed: ({ group }) => this.targets.notOpened.has(group) || this.targets.find(group)?.seeding.active === true,
    });
    this.takeOvers = new TakeOvers({
      ...{ records: this.directions, sources: this.sources, targets: this.targets, vms: this.vms },
      ...{ oldDisks: this.oldDisks, spoolDirectory, driver, directory: machines },
      ...{ fences: this.fences, storage, clock: nodeClock, events, site: config.site },
      configured: (group) => this.sourceGroups().find(({ name }) => name === group),
      listens: listen.stream !== undefined,
    });
    this.declaredSources = new DeclaredSources({
      ...{ records: this.sourceRecords, directions: this.directions, sources: this.sources, vms: this.vms },
      ...{ storage, events, spoolDirectory, config: () => this.now },
      isTarget: (name) => this.targets.find(name) !== undefined,
      changed: () => this.startSources(),
    });
    this.declaredPeers = new DeclaredPeers({
      ...{ records: this.peerRecords, agent: config.agent, events },
      ofFile: () => this.config.peers,
      groupsOf: (peer) => this.groupsOf(peer),
      changed: () => this.peersChanged(),
    });
    this.slabs.onPressure = () => this.sources.relieve();
    this.health = new HealthChecks(this.sources, this.targets, storage, dataDirectory);
  }

  async start(): Promise<void> {
    const { config, storage } = this;
    await storage.makeDirectory(config.listen.nbd.socketDirectory);
    await this.keys.load();
    await this.permits.load();
    await this.fences.load();
    await this.stops.load();
    await this.directions.load();
    await this.sourceRecords.load();
    await this.peerRecords.load();
    this.takeKeyFiles(config);
    await this.targets.open();
    await this.targets.declareAll(config.targetGroups);
    if (config.listen.stream !== undefined) await this.listenStream(config.listen.stream);
    this.sourcesStarted = true;
    await this.takeOvers.resume();
    await this.startSources();
    await this.nbd.listenUnix(this.exports.socketPath);
    this.serving.resolve();
    if (config.listen.nbd.tcp !== undefined) {
      await this.nbd.listenTcp(parseAddress(config.listen.nbd.tcp), nbdTls(this.tls));
    }
    this.api = await this.startApi(config.listen.api);
    await this.upkeep();
    this.stopUpkeep = every(nodeClock, upkeepMs, () => this.upkeep());
    this.stopSchedules = every(nodeClock, upkeepMs, () => this.schedules.tend());
    this.stopProbes = every(nodeClock, probeMs, () => this.probes.tend());
    this.stopFences = every(nodeClock, upkeepMs, () => this.fences.round());
    this.stopRpo = every(nodeClock, rpoMs, async () =>
      this.rpo.note(nodeClock.wallMs(), rpoNow(this.sources, this.targets)),
    );
    this.options.onReload((after) => this.reload(after));
    this.stops.resume();
    this.health.started = true;
    if (this.sources.list().length > 0) preferAcknowledging(this.options.log);
    this.options.onReady();
  }

  /** Of as much as was started. */
  async stop(): Promise<void> {
    this.health.started = false;
    await this.stopProbes?.();
    await this.stopSchedules?.();
    await this.schedules.close();
    await this.joint.close();
    await this.applications.close();
    await this.stops.close();
    await this.sources.drain(AbortSignal.timeout(this.config.drainSeconds * 1000));
    await this.stopUpkeep?.();
    await this.stopFences?.();
    await this.stopRpo?.();
    await this.api?.close();
    await this.listener?.close();
    await this.targets.close();
    await this.nbd.close({ graceMs: 0 });
    this.guard.close();
    await this.catalogue.close();
    await this.compressor.close();
  }

  /** Opens what the configuration and the reversals say; nothing before it is its turn at the agent's start. */
  private async startSources(): Promise<void> {
    if (!this.sourcesStarted) return;
    await this.starting.run(() => this.sources.start({ sourceGroups: this.sourceGroups() }));
    if (this.sources.list().length > 0 && this.health.started) preferAcknowledging(this.options.log);
  }

  /** The configuration with the peers that the API declared. */
  private get now(): AgentConfig {
    return { ...this.config, peers: peersNow(this.config.peers, this.peerRecords) };
  }

  private declaredSourceGroups(): SourceGroupConfig[] {
    return [...this.config.sourceGroups, ...declaredGroups(this.sourceRecords, this.config)];
  }

  private sourceGroups(): SourceGroupConfig[] {
    return sourceGroupsNow(this.declaredSourceGroups(), this.directions);
  }

  private groupsOf(peer: string): string[] {
    const sources = this.sourceGroups().filter(({ targets }) => targets.some((target) => target.peer === peer));
    const targets = this.targets.list().filter(({ name }) => this.targets.policy(name).spec.streams.includes(peer));
    return [...sources, ...targets].map(({ name }) => name);
  }

  private async peersChanged(): Promise<void> {
    this.targets.dismiss((name) => this.now.peers.some((peer) => peer.name === name));
    await this.startSources();
  }

  private staleGroups(): ReturnType<ConstructorParameters<typeof SourceFences>[0]['groups']> {
    return this.sources.list().map(({ group, config }) => {
      const { links, sourceTimeMs } = group.status;
      const vms = config.vms.map(({ vm, hypervisor }) => ({ vm, hypervisor }));
      return { name: group.name, links, sourceTimeMs, vms };
    });
  }

  private fencingDriver(name: string): FencingDriver {
    const found = this.config.hypervisors.find((hypervisor) => hypervisor.name === name);
    if (found === undefined)
      throw new TidemarkError('config-invalid', `${name} is not in hypervisors.`, { path: 'hypervisors' });
    const hypervisor = this.vms.hypervisor(name);
    if (found.kind === 'qmp') return monitorFencing(hypervisor);
    return libvirtFencing(hypervisor, new Virsh({ uri: found.uri }));
  }

  /** Throws `config-invalid` when the configuration has no libvirt of that name. */
  private recoveryDriver(name: string): LibvirtDriver {
    const found = this.config.hypervisors.find((hypervisor) => hypervisor.name === name);
    if (found?.kind !== 'libvirt')
      throw new TidemarkError('config-invalid', `${name} is not a libvirt of this agent's hypervisors.`, {
        path: 'recovery.hypervisor',
      });
    return new LibvirtDriver({ name, agent: this.config.agent, virsh: new Virsh({ uri: found.uri }) });
  }

  private async listenStream(address: string): Promise<void> {
    const { log } = this.options;
    this.listener = await TlsListener.listen({
      address,
      credentials: credentials(this.tls),
      onRefused: (from, reason) => log.warn({ event: 'peer-refused', from, reason }, 'a peer was turned away'),
    });
    this.listener.onConnection((connection) => {
      const { name, address: from } = connection.peer;
      if (this.now.peers.some((peer) => peer.name === name)) {
        this.targets.accept(connection);
        return;
      }
      log.warn({ event: 'peer-refused', from, reason: `${name} is not in peers` }, 'a peer was turned away');
      connection.close('not a peer');
    });
  }

  private async startApi(address: string): Promise<ApiServer> {
    const { ring, boot, sources, targets, exports, catalogue, health, config, options } = this;
    const service = new Service({
      clock: nodeClock,
      info: { site: config.site, name: config.agent, version: options.version, boot },
      peers: () => this.now.peers,
      sources,
      sourceOperations: this.sourceOperations,
      declaredSources: this.declaredSources,
      declaredPeers: this.declaredPeers,
      stops: this.stops,
      applications: this.applications,
      shares: this.shares,
      joint: this.joint,
      peerClients: this.peers,
      takeOvers: this.takeOvers,
      vms: this.vms,
      targets,
      exports,
      catalogue,
      ring,
      rpo: this.rpo,
      health: () => health.report(),
    });
    const roles = (name: string): ReturnType<typeof roleOf> => roleOf(this.now, name);
    const api = await startApiServer({ service, address, tls: this.tls, roleOf: roles, log: options.log }).catch(
      (cause: Error) => {
        throw new TidemarkError('config-invalid', `listen.api: ${cause.message}`, { path: 'listen.api', cause });
      },
    );
    const { slabs, nbd, guard, permits } = this;
    registerDataPath(api.metrics.registry, { slabs, nbd, sources, targets, guard, permits });
    return api;
  }

  /** The catalogue is only an index: that it fails is told, and stops nothing. */
  private async upkeep(): Promise<void> {
    this.applications.tend();
    await this.health.refresh();
    await this.purgeRetired();
    try {
      for (const group of this.targets.list()) await this.catalogue.update(group);
      this.health.catalogueFailure = undefined;
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      if (this.health.catalogueFailure === undefined)
        this.options.log.error({ event: 'catalogue-failed', err: error }, 'the catalogue does not follow');
      this.health.catalogueFailure = error.message;
    }
  }

  private async purgeRetired(): Promise<void> {
    if (nodeClock.monotonicMs() < this.nextPurgeMs) return;
    this.nextPurgeMs = nodeClock.monotonicMs() + purgeMs;
    await this.targets.purge();
    await this.takeOvers.resume();
    await this.oldDisks.purge(nodeClock.wallMs());
  }

  /** All that can be refused is checked before anything changes. */
  private async reload(after: AgentConfig): Promise<void> {
    const tls = await readTlsFiles(after);
    this.tls = tls;
    this.config = after;
    this.dialer.updateCredentials(credentials(tls));
    this.listener?.updateCredentials(credentials(tls));
    this.api?.setTls(tls);
    if (after.listen.nbd.tcp !== undefined) this.nbd.setTls(nbdTls(tls));
    this.throttle.setRate(throttleSchedule(after.throttle));
    this.takeKeyFiles(after);
    await this.targets.declareAll(after.targetGroups);
    await this.peersChanged();
  }

  private takeKeyFiles(config: AgentConfig): void {
    for (const { name, encryptionKeyFile } of config.targetGroups)
      if (encryptionKeyFile !== undefined) this.keys.set(name, encryptionKeyFile);
  }
}

function credentials({ certificate, key, authority }: TlsMaterial): TlsCredentials {
  return { cert: certificate, key, ca: authority };
}

const nbdTls = credentials;

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

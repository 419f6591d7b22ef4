/** What the agent checks about itself; `ready` is the conjunction. */
import type { Storage } from '../core/storage.js';
import type { Health } from '../service/agent-schemas.js';
import type { SourceSide } from './source-side.js';
import type { TargetSide } from './target-side.js';

/** Less free than this and manifests, epoch files and the catalogue cannot be written for long. */
const freeBytesMin = 64 * 1024 * 1024;

type Check = Health['checks'][number];

export class HealthChecks {
  /** Set when the start is complete; cleared when the agent begins to stop. */
  started = false;
  /** Why the catalogue does not follow; undefined: it does. */
  catalogueFailure: string | undefined;
  private freeBytes: number | undefined;

  constructor(
    private readonly sources: SourceSide,
    private readonly targets: TargetSide,
    private readonly storage: Storage,
    private readonly directory: string,
  ) {}

  /** Looks at what takes a system call; called once a second. */
  async refresh(): Promise<void> {
    this.freeBytes = await this.storage.freeBytes(this.directory).catch(() => undefined);
  }

  report(): Health {
    const checks = [this.start(), this.space(), this.groups('source-groups', this.sources)];
    checks.push(this.groups('target-groups', this.targets), this.catalogue());
    return { ready: checks.every(({ ok }) => ok), checks };
  }

  private start(): Check {
    const message = this.started ? 'listeners are up, groups were recovered' : 'starting or stopping';
    return { name: 'started', ok: this.started, message };
  }

  private space(): Check {
    const { freeBytes } = this;
    const message = freeBytes === undefined ? 'cannot be asked' : `${Math.floor(freeBytes / 1024 / 1024)} MiB free`;
    return { name: 'data-directory', ok: freeBytes !== undefined && freeBytes >= freeBytesMin, message };
  }

  private groups(name: string, side: { list(): unknown[]; readonly notOpened: ReadonlyMap<string, string> }): Check {
    const wrong = [...side.notOpened].map(([group, message]) => `${group}: ${message}`);
    return { name, ok: wrong.length === 0, message: wrong.join('; ') || `${side.list().length} open` };
  }

  private catalogue(): Check {
    const { catalogueFailure: failure } = this;
    return { name: 'catalogue', ok: failure === undefined, message: failure ?? 'follows the groups' };
  }
}

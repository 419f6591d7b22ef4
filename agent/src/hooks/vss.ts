/**
 * windows, sqlserver, exchange, sharepoint: what VSS writers have in common. The freeze itself is fsfreeze's: on Windows the
 * guest agent asks VSS for a shadow copy of all fixed volumes, with all components of all writers, and its own provider keeps
 * VSS waiting until the thaw. A module here looks that the writers of its product are there and sound before, and sound
 * and the same after. VSS lets go by itself after 10 seconds: it is the dead man of such a guest.
 */
import { sleep } from '../core/clock.js';
import { TidemarkError } from '../core/errors.js';
import type { Finding, Hook, HookModule, HookStep, Prepared, Verified } from './hook.js';
import { powershell } from './powershell.js';
import type { HookSettingsOf } from './settings.js';
import { vssDocument, type VssProduct } from './vss-document.js';
import { isWaiting, pathsOf, problemOf, writersOf, type Writer } from './vss-writers.js';

type Kind = 'windows' | 'sqlserver' | 'exchange' | 'sharepoint';

const writersScript = 'vssadmin list writers; exit $LASTEXITCODE';
const detailScript = `'list writers detailed', 'exit' | diskshadow; exit $LASTEXITCODE`;
const againMs = 500;

const products: { readonly [Each in Kind]: VssProduct } = {
  windows: { name: 'Windows', needed: [], also: /./, hasFiles: false },
  sqlserver: { name: 'SQL Server', needed: ['SqlServerWriter'], also: /^SqlServerWriter$/, hasFiles: true },
  exchange: {
    name: 'Exchange Server',
    needed: ['Microsoft Exchange Writer'],
    also: /^Microsoft Exchange (Replica )?Writer$/,
    hasFiles: true,
  },
  sharepoint: {
    name: 'SharePoint',
    needed: ['SharePoint Services Writer'],
    also: /^(SharePoint Services Writer|OSearch\d* VSS Writer|SPSearch\d* VSS Writer)$/,
    // Its own components are databases of SQL Server, and indexes that can be made again.
    hasFiles: false,
  },
};

class Vss implements Hook {
  #before: readonly Writer[] | undefined;

  constructor(
    private readonly settings: { readonly noErrorText: string },
    private readonly product: VssProduct,
  ) {}

  async prepare(step: HookStep): Promise<Prepared> {
    const writers = await this.#writers(step);
    const findings = this.#findingsOf(writers);
    if (findings.length > 0) return { findings };
    if (this.product.hasFiles) {
      const isOurs = (name: string): boolean => this.product.also.test(name);
      const paths = pathsOf(await powershell(step.guest, detailScript, step.leftMs()), isOurs);
      if (paths.length === 0)
        findings.push({ code: 'data-unprotected', reason: `the files of ${this.product.name} cannot be seen` });
      else findings.push(...(await step.unprotected(paths)));
    }
    this.#before = writers;
    return { findings };
  }

  async quiesce(): Promise<void> {
    // fsfreeze, which comes last, freezes by VSS.
  }

  async release(): Promise<void> {
    // As quiesce.
  }

  async verify(step: HookStep): Promise<Verified> {
    const before = this.#before;
    if (before === undefined) throw new TidemarkError('hook-failed', 'Its writers were never looked at.');
    let writers = await this.#writers(step);
    while (writers.some(isWaiting) && step.leftMs() > 4 * againMs) {
      await sleep(step.clock, againMs, step.signal);
      writers = await this.#writers(step);
    }
    const findings = this.#findingsOf(writers);
    for (const { name, instance } of before)
      if (!writers.some((writer) => writer.name === name && writer.instance === instance))
        findings.push({ code: 'writer-restarted', reason: `${name} was started anew in the middle of the hold` });
    if (findings.length > 0) return { findings, verifiedBy: [] };
    return { findings, verifiedBy: [`VSS writers stable: ${writers.map(({ name }) => name).join(', ')}`] };
  }

  async undo(): Promise<string[]> {
    // VSS lets go by itself; fsfreeze resets the state of the guest agent.
    return [];
  }

  async afterRecovery(): Promise<void> {
    // The product recovers by its logs when it starts.
  }

  /** Of the product. */
  async #writers(step: HookStep): Promise<Writer[]> {
    const writers = writersOf(await powershell(step.guest, writersScript, step.leftMs()));
    if (writers.length === 0)
      throw new TidemarkError('hook-failed', `vssadmin in ${step.vm} lists no writer in a form that is known.`);
    return writers.filter(({ name }) => this.product.also.test(name));
  }

  #findingsOf(writers: readonly Writer[]): Finding[] {
    const { name: product, needed } = this.product;
    const missing = needed.filter((name) => !writers.some((writer) => writer.name === name));
    const problems = writers.flatMap((writer) => problemOf(writer, this.settings.noErrorText) ?? []);
    return [
      ...missing.map((name) => ({ code: 'writer-missing', reason: `${product} has no VSS writer ${name} here` })),
      ...problems.map((reason) => ({ code: 'writer-failed', reason })),
    ];
  }
}

function moduleOf<Each extends Kind>(kind: Each): HookModule<Each> {
  const product = products[kind];
  return {
    kind,
    document: vssDocument(product),
    create: (settings: HookSettingsOf<Each>) => new Vss(settings, product),
  };
}

export const windows = moduleOf('windows');
export const sqlserver = moduleOf('sqlserver');
export const exchange = moduleOf('exchange');
export const sharepoint = moduleOf('sharepoint');

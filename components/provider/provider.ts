/** The provider without the protocol: dispatches to the kinds of resources, keeps secrets, ends what waits on cancel. */
import type { Struct } from 'google-protobuf/google/protobuf/struct_pb.js';
import type { z } from 'zod';
import { checkInputs, type Failure } from './check.js';
import { detailedDiff, type ChangeKind } from './detailed-diff.js';
import { Engine, type Teller } from './engine.js';
import type { FunctionKind } from './functions.js';
import { providerConfigSchema } from './inputs.js';
import { PartialFailure, type Call, type ResourceKind } from './resource.js';
import { withSecrets } from './schema-secrets.js';
import { Sites } from './sites.js';
import { encode, secretPaths, secretTexts, type Decoded, type Properties } from './values.js';

export interface Subject {
  readonly urn: string;
  readonly preview: boolean;
  /** 0: no limit. */
  readonly timeoutSeconds: number;
}

export interface ProviderOptions {
  readonly version: string;
  readonly schema: () => string;
  readonly resources: readonly ResourceKind[];
  readonly functions: readonly FunctionKind[];
}

const silent: Teller = { say: () => Promise.resolve(), status: () => undefined };

export class Provider {
  readonly #options: ProviderOptions;
  readonly #sites = new Sites();
  readonly #cancelled = new AbortController();
  /** URNs that the engine showed old inputs of: they exist. */
  readonly #existing = new Set<string>();
  readonly #partialSecrets = new WeakMap<PartialFailure, ReadonlySet<string>>();
  #engine: Engine | undefined;

  constructor(options: ProviderOptions) {
    this.#options = options;
  }

  get version(): string {
    return this.#options.version;
  }

  schema(): string {
    return this.#options.schema();
  }

  attach(engineAddress: string): void {
    this.#engine?.close();
    this.#engine = engineAddress === '' ? undefined : new Engine(engineAddress);
  }

  cancel(): void {
    this.#cancelled.abort(new Error('Cancelled. What runs at the agents goes on; the next update continues it.'));
  }

  close(): void {
    this.#sites.close();
    this.#engine?.close();
  }

  redact(text: string): string {
    return this.#engine?.redact(text) ?? text;
  }

  checkConfig(news: Decoded): Failure[] {
    return checkInputs(providerConfigSchema, withoutVersion(news.values));
  }

  diffConfig(before: Decoded, news: Decoded): ReadonlyMap<string, ChangeKind> {
    return detailedDiff(withoutVersion(before.values), withoutVersion(news.values));
  }

  /** Connects to nothing. */
  configure(config: Decoded): void {
    this.#hide(config, ['key']);
    this.#sites.configure(providerConfigSchema.parse(withoutVersion(config.values)));
  }

  check(urn: string, olds: Decoded, news: Decoded): Failure[] {
    const kind = this.#kind(urn);
    this.#hide(withSecrets(news, kind.schema));
    const existed = Object.keys(olds.values).length > 0;
    if (existed) this.#existing.add(urn);
    const failures = checkInputs(kind.schema, news.values);
    if (failures.length > 0) return failures;
    return kind.check?.(news.values, existed ? olds.values : undefined) ?? [];
  }

  /** What of the inputs is secret, however it was given. */
  secretInputs(urn: string, news: Decoded): ReadonlySet<string> {
    return withSecrets(news, this.#kind(urn).schema).secrets;
  }

  diff(
    urn: string,
    { before, outputs, news }: { before: Decoded; outputs: Decoded; news: Decoded },
    ignored: readonly string[],
  ): ReadonlyMap<string, ChangeKind> {
    const kind = this.#kind(urn);
    const written = detailedDiff(before.values, news.values);
    const changes = written.size === 0 || saySame(kind.schema, before.values, news.values) ? [] : [...written];
    return new Map(
      [...changes, ...(kind.changes?.(urn, outputs.values) ?? [])].filter(
        ([path]) =>
          !ignored.some((prefix) => path === prefix || path.startsWith(`${prefix}.`) || path.startsWith(`${prefix}[`)),
      ),
    );
  }

  async create(subject: Subject, inputs: Decoded): Promise<{ id: string; properties: Struct }> {
    return this.#run(subject, inputs, async (call) => {
      const existed = this.#existing.has(subject.urn);
      const { id, outputs } = await this.#kind(subject.urn).create(inputs.values, { ...call, existed });
      return { id, properties: encode(outputs, this.#secrets(subject, outputs, inputs)) };
    });
  }

  update(subject: Subject, id: string, before: Decoded, inputs: Decoded): Promise<Struct> {
    return this.#run(subject, inputs, async (call) => {
      const outputs = await this.#kind(subject.urn).update(id, before.values, inputs.values, call);
      return encode(outputs, this.#secrets(subject, outputs, inputs));
    });
  }

  read(
    subject: Subject,
    id: string,
    before: Decoded,
    inputs: Decoded,
  ): Promise<{ id: string; properties: Struct; inputs: Struct } | undefined> {
    return this.#run(subject, inputs, async (call) => {
      const known = Object.keys(inputs.values).length > 0 ? inputs.values : undefined;
      const found = await this.#kind(subject.urn).read(id, before.values, known, call);
      if (found === undefined) return undefined;
      const secrets = new Set([...inputs.secrets, ...before.secrets]);
      return {
        id: found.state.id,
        properties: encode(found.state.outputs, this.#secrets(subject, found.state.outputs, { ...inputs, secrets })),
        inputs: encode(found.inputs, this.secretInputs(subject.urn, { ...inputs, values: found.inputs })),
      };
    });
  }

  delete(subject: Subject, id: string, before: Decoded): Promise<void> {
    return this.#run(subject, before, (call) => this.#kind(subject.urn).delete(id, before.values, call));
  }

  async invoke(token: string, args: Decoded): Promise<{ failures: Failure[]; values?: Properties }> {
    this.#hide(args);
    const kind = this.#options.functions.find((candidate) => candidate.token === token);
    if (kind === undefined) throw new Error(`There is no function ${token}.`);
    const failures = checkInputs(kind.schema, args.values);
    return failures.length > 0 ? { failures } : { failures, values: await kind.run(args.values, this.#sites) };
  }

  /** Which paths of the state that a partial failure saves are secret. */
  secretsOf(failure: PartialFailure): ReadonlySet<string> {
    return this.#partialSecrets.get(failure) ?? new Set();
  }

  async #run<Value>(subject: Subject, inputs: Decoded, work: (call: Call) => Promise<Value>): Promise<Value> {
    this.#hide(withSecrets(inputs, this.#kind(subject.urn).schema));
    const { urn, preview, timeoutSeconds } = subject;
    const limit = timeoutSeconds > 0 ? [AbortSignal.timeout(timeoutSeconds * 1000)] : [];
    const signal = AbortSignal.any([this.#cancelled.signal, ...limit]);
    const tell = this.#engine?.about(urn) ?? silent;
    try {
      return await work({ urn, preview, tell, signal, sites: this.#sites });
    } catch (error) {
      if (error instanceof PartialFailure)
        this.#partialSecrets.set(error, this.#secrets(subject, error.state.outputs, inputs));
      throw error;
    }
  }

  #secrets({ urn }: Subject, outputs: Properties, inputs: Decoded): ReadonlySet<string> {
    const { schema, outputs: made } = this.#kind(urn);
    const ofSchema = withSecrets({ values: outputs, secrets: new Set() }, schema, made);
    this.#hide(ofSchema);
    return new Set([...ofSchema.secrets, ...secretPaths(outputs, withSecrets(inputs, schema))]);
  }

  #kind(urn: string): ResourceKind {
    const token = urn.split('::')[2]?.split('$').at(-1);
    const kind = this.#options.resources.find((candidate) => candidate.token === token);
    if (kind === undefined) throw new Error(`There is no resource ${token}.`);
    return kind;
  }

  #hide(decoded: Decoded, always: readonly string[] = []): void {
    const texts = always.flatMap((name) => (typeof decoded.values[name] === 'string' ? [decoded.values[name]] : []));
    this.#engine?.hide([...secretTexts(decoded), ...texts]);
  }
}

/** 1GiB and 1073741824 say the same; so does a default that is written out. */
function saySame(schema: z.ZodType, before: Properties, news: Properties): boolean {
  const old = schema.safeParse(before);
  const young = schema.safeParse(news);
  return old.success && young.success && detailedDiff(old.data, young.data).size === 0;
}

/** The engine puts its own properties beside those of the configuration. */
function withoutVersion(values: Properties): Properties {
  const { version: _version, pluginDownloadURL: _url, pluginChecksums: _sums, ...config } = values;
  return Object.fromEntries(Object.entries(config).filter(([name]) => !name.startsWith('__')));
}

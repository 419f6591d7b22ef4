/**
 * Changes a group: takes a retired one back, declares the policy that differs, runs the transition that is asked for. Each is
 * computed from the epoch and revision of the state; when the group moved since, nothing is changed.
 */
import { transitions } from '../../agent/src/target/state-machine.js';
import { isTidemarkError, TidemarkError, type GroupStatus } from '../agent-client.js';
import { refuseUnnamed } from './authority.js';
import { policyText } from './forecast-text.js';
import { unheardText } from './group-create.js';
import {
  addressesAt,
  groupOutputs,
  readFacts,
  requestsOf,
  sourceSite,
  unknownFacts,
  type GroupFacts,
} from './group-outputs.js';
import { declare, planDeclaration } from './group-policy.js';
import { protectionGroupSchema, type ProtectionGroupInputs } from './inputs.js';
import { PartialFailure, type Call } from './resource.js';
import { retiredOf } from './retired.js';
import { failureText, findRun, foresee, run, type Transition } from './transition.js';
import { unknown, type Properties } from './values.js';

export async function updateGroup(id: string, before: Properties, given: Properties, call: Call): Promise<Properties> {
  const inputs = protectionGroupSchema.parse(given);
  const { name, recovery } = inputs;
  const wasRetired = before['state'] === 'retired';
  if (wasRetired && (await restore(inputs, call)) === 'planned') return { ...given, ...unknownFacts };
  const facts = await readFacts(call.sites, inputs, before);
  refuseUnnamed(facts);
  const { client, formerly, site, reversed } = facts;
  const asked = recovery !== undefined && !requestsOf(before).includes(recovery.request) ? recovery : undefined;
  // A request that named another action is refused, also one that has run.
  const found = recovery === undefined ? undefined : await findRun([client, formerly], name, recovery);
  const known = asked === undefined ? undefined : found;
  if (asked !== undefined && known === undefined && (before['imported'] === true || wasRetired)) {
    const reason = unheardText(name, asked);
    if (call.preview || !wasRetired) throw new Error(reason);
    // It is back, whatever comes of the request.
    const outputs = { ...groupOutputs(inputs, given, facts, before), imported: true };
    throw new PartialFailure({ id, outputs }, reason);
  }
  // What an interrupted update of ours did is not somebody else's change; of a retired group nothing was known.
  if (!wasRetired && (known === undefined || facts.last?.id !== known.id)) refuseStale(before, facts);
  const declaration = await planDeclaration(facts, inputs, given, before, call.urn);
  const pending: Transition | undefined =
    asked === undefined || (known !== undefined && known.state !== 'running')
      ? undefined
      : { facts, group: name, site, home: homeSite(facts, inputs), inputs, recovery: asked };
  if (call.preview) {
    const { forecast, needed, owner } = declaration;
    if (forecast?.changes === true)
      await call.tell.say('info', policyText(name, facts.status.policyRevision, forecast));
    const isNew = pending !== undefined && known === undefined;
    if (isNew) await foresee(pending, call);
    return {
      ...groupOutputs(inputs, given, facts, before),
      ...(needed ? { policyRevision: unknown, owner } : {}),
      ...(isNew ? predicted(pending, inputs, reversed) : {}),
    };
  }
  const now = declaration.needed ? await declare(facts, declaration, before) : facts.status;
  // What was asked for once has run, whatever comes of it.
  const ran = asked === undefined ? [] : [asked.request];
  const outputs = async (requests: readonly string[]): Promise<Properties> =>
    groupOutputs(inputs, given, await readFacts(call.sites, inputs, before), before, requests);
  if (known?.state === 'failed' || known?.state === 'cancelled') await call.tell.say('warning', failureText(known));
  if (pending === undefined) return outputs(ran);
  return runTransition(pending, now, { id, declared: declaration.needed, outputs, before, given, call });
}

interface Running {
  readonly id: string;
  readonly declared: boolean;
  readonly outputs: (requests: readonly string[]) => Promise<Properties>;
  readonly before: Properties;
  readonly given: Properties;
  readonly call: Call;
}

async function runTransition(
  transition: Transition,
  now: GroupStatus,
  { id, declared, outputs, before, given, call }: Running,
): Promise<Properties> {
  const ran = [transition.recovery.request];
  try {
    const operation = await run(transition, now, call);
    if (operation.state !== 'succeeded')
      throw new PartialFailure({ id, outputs: await outputs(ran) }, failureText(operation));
    if (transition.recovery.action === 'reverse') await settle(transition.inputs, given, before, call);
    return await outputs(ran);
  } catch (error) {
    if (error instanceof PartialFailure || !declared) throw error;
    // The policy is in force: a state that says otherwise would be stale.
    throw new PartialFailure({ id, outputs: await outputs([]) }, (error as Error).message);
  }
}

/** Behind a reversal: the agent that holds the journal now learns whose the group is, and what the program says. */
async function settle(inputs: ProtectionGroupInputs, given: Properties, before: Properties, call: Call): Promise<void> {
  const facts = await readFacts(call.sites, inputs, before);
  const declaration = await planDeclaration(facts, inputs, given, before, call.urn);
  if (declaration.needed) await declare(facts, declaration, before);
}

/** Of a group that was removed and is kept; it is no error that somebody has taken it back already. */
async function restore(
  { name, target }: ProtectionGroupInputs,
  { sites, tell, preview }: Call,
): Promise<'planned' | 'done'> {
  const client = sites.client(target);
  const kept = await retiredOf(client, name);
  if (kept === undefined) return 'done';
  if (preview) {
    const until = new Date(kept.untilMs).toISOString();
    await tell.say('info', `takes ${name} back with its history; it would be deleted on ${until}`);
    return 'planned';
  }
  try {
    await client.restoreGroup(name, { untilMs: kept.untilMs });
  } catch (error) {
    if (!isTidemarkError(error, 'group-exists')) throw error;
  }
  return 'done';
}

/** Somebody else moved the group or changed its policy since the state was written. */
function refuseStale(before: Properties, { status, last }: GroupFacts): void {
  const { epoch, policyRevision } = before;
  const now = status.epoch?.epoch;
  const by = last === undefined ? '' : ` (${last.id} by ${last.drivenBy})`;
  if (typeof epoch === 'number' && epoch !== now)
    throw new TidemarkError(
      'stale-epoch',
      `This update was computed at epoch ${epoch}, and ${status.name} is at epoch ${now}${by}; nothing was changed. Run pulumi refresh, look, and decide.`,
    );
  if (typeof policyRevision === 'number' && policyRevision !== status.policyRevision)
    throw new TidemarkError(
      'stale-revision',
      `This update was computed at policy revision ${policyRevision}, and ${status.name} is at ${status.policyRevision}; nothing was changed.`,
    );
}

/** Site to which a rollback or a reverse goes; undefined while it cannot be asked. */
function homeSite({ reversed, targetSite }: GroupFacts, inputs: ProtectionGroupInputs): string | undefined {
  return reversed ? targetSite : sourceSite(inputs);
}

/** What is known beforehand of the group after its transition; the rest is unknown, never an old value. */
function predicted(
  { recovery: { action, request }, site, home, group }: Transition,
  inputs: ProtectionGroupInputs,
  reversed: boolean,
): Properties {
  const goesBack = action === 'rollback';
  const where = goesBack === reversed ? 'target' : 'source';
  return {
    state: action === 'reverse' ? 'protecting' : transitions[action].to,
    activeSite: (goesBack ? home : reversed ? sourceSite(inputs) : site) ?? unknown,
    addresses: addressesAt(inputs, where, reversed),
    ...(action === 'reverse' ? { reversed: !reversed, stateSite: unknown, policyRevision: unknown } : {}),
    ...(action === 'commit' ? {} : { epoch: unknown }),
    lastOperation: `${group}:${request}`,
    drivenBy: unknown,
    lastCheckpoint: unknown,
    requests: unknown,
  };
}

/** From what a person declares to what a target group runs by. */
import type { TargetGroupSpec } from '../service/group-spec.js';
import { disksKept } from '../target/disk-set.js';
import type { ManifestState } from '../target/manifest.js';
import { groupSettingsSchema, type GroupSettings } from '../target/settings.js';

/** Tiers of the declaration say where each begins; the group's say where each ends. */
export function settingsOf(
  spec: TargetGroupSpec,
  extra: { owner: string | null; policyRevision: number },
): GroupSettings {
  const { history } = spec;
  const windowMs = history.windowSeconds * 1000;
  const starts = history.tiers.filter((tier) => tier.olderThanSeconds * 1000 < windowMs);
  const tiers = [{ olderThanSeconds: 0, everySeconds: 0 }, ...starts].map((tier, index, all) => ({
    untilAgeMs: (all[index + 1]?.olderThanSeconds ?? history.windowSeconds) * 1000,
    everyMs: tier.everySeconds * 1000,
  }));
  return groupSettingsSchema.parse({
    checkpointIntervalMs: spec.checkpointIntervalSeconds * 1000,
    holdMsMax: spec.holdMsMax,
    tiers,
    namedAgeMs: (history.namedWindowSeconds ?? history.windowSeconds) * 1000,
    hardLimitBytes: history.hardLimitBytes,
    scratchLimitBytes: history.scratchLimitBytes,
    scrubPassDays: history.scrubPassDays,
    rollbackKeepHours: history.rollbackKeepHours,
    failoverReserve: history.failoverReserve,
    newDisks: spec.newDisks,
    diskSizeMax: spec.diskSizeMax,
    declaredDisks: spec.disks.map(({ name }) => name),
    recovery: spec.recovery ?? null,
    ...extra,
  });
}

/** The inverse of {@link settingsOf}, with the disks that the group has now. */
export function specOf(
  settings: GroupSettings,
  state: ManifestState,
  encryptionKeyFile: string | undefined,
): TargetGroupSpec {
  const { tiers, namedAgeMs } = settings;
  const windowMs = tiers.at(-1)?.untilAgeMs ?? namedAgeMs;
  return {
    streams: [...state.streams.values()],
    disks: disksKept(state).map(({ name, sizeBytes, stream }) => ({
      name,
      sizeBytes,
      stream: state.streams.get(stream) ?? '',
    })),
    newDisks: settings.newDisks,
    diskSizeMax: settings.diskSizeMax,
    history: {
      windowSeconds: windowMs / 1000,
      ...(namedAgeMs === windowMs ? {} : { namedWindowSeconds: namedAgeMs / 1000 }),
      tiers: tiers.slice(1).map(({ everyMs }, index) => ({
        olderThanSeconds: tiers[index]!.untilAgeMs / 1000,
        everySeconds: everyMs / 1000,
      })),
      hardLimitBytes: settings.hardLimitBytes,
      failoverReserve: settings.failoverReserve,
      scratchLimitBytes: settings.scratchLimitBytes,
      scrubPassDays: settings.scrubPassDays,
      rollbackKeepHours: settings.rollbackKeepHours,
    },
    checkpointIntervalSeconds: settings.checkpointIntervalMs / 1000,
    holdMsMax: settings.holdMsMax,
    ...(settings.recovery === null ? {} : { recovery: settings.recovery }),
    ...(encryptionKeyFile === undefined ? {} : { encryptionKeyFile }),
  };
}

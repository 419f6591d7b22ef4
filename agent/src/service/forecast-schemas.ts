/** What a failover, a drill or a change of the policy would do, told before it happens. Nothing is changed by asking. */
import { z } from 'zod';
import { checkpointSchema, checkpointSelectorSchema } from './checkpoint-schemas.js';
import { apiErrorSchema } from './error-schema.js';
import { targetGroupSpecSchema } from './group-spec.js';
import { operationKindSchema } from './operation-schemas.js';
import { addressingSchema, drillChecksSchema, readinessSchema } from './recovery-spec.js';
import { bytesSchema, countSchema, operationIdSchema, secondsSchema, timeMsSchema } from './scalars.js';

/** Give `action` to hear of an operation, `spec` to hear of a change of the policy. */
export const forecastRequestSchema = z.strictObject({
  action: operationKindSchema.optional().describe('A transition or a drill'),
  operation: operationIdSchema.optional().describe('Id that the operation would have: one that ran says so'),
  at: checkpointSelectorSchema.default({ by: 'latest' }),
  vms: z.array(z.string().min(1).max(256)).min(1).max(256).optional().describe('Of a drill. Default: all'),
  checks: drillChecksSchema.optional().describe('Of a drill'),
  sourceMayBeAlive: z.boolean().default(false),
  maxDataLossSeconds: secondsSchema.optional(),
  spec: targetGroupSpecSchema.optional(),
});
export type ForecastRequest = z.infer<typeof forecastRequestSchema>;

export const vmForecastSchema = z.object({
  vm: z.string(),
  wave: countSchema.describe('Boots when the wave before is ready'),
  delaySeconds: secondsSchema,
  lossSeconds: secondsSchema.describe('Seconds of its newest writes that would be missing'),
  networks: z.array(z.object({ from: z.string(), to: z.string() })),
  addresses: z.array(z.object({ nic: countSchema, to: addressingSchema })),
  checks: z
    .array(readinessSchema)
    .default([])
    .describe('All must hold: the readiness of the policy, and what a drill asks for; earlier versions do not say it'),
});

export const actionForecastSchema = z.object({
  action: operationKindSchema,
  legal: z.boolean().describe('In the state that the group has now'),
  legalActions: z.array(operationKindSchema),
  known: z.boolean().describe('The operation of that id has been started before: nothing would happen'),
  refusals: z.array(apiErrorSchema).describe('Why it would be refused now'),
  checkpoint: checkpointSchema.nullable(),
  lossSeconds: secondsSchema.nullable().describe('Now minus the source time of the checkpoint'),
  vms: z.array(vmForecastSchema),
  readySeconds: secondsSchema.nullable().describe('Median of measured recoveries of the group; null: none yet'),
  measuredCount: countSchema,
  scratchLimitBytes: bytesSchema,
  scratchFullSeconds: secondsSchema
    .nullable()
    .describe('Until the scratch is full at the present rate of writes; null: nothing is written now'),
});

export const policyForecastSchema = z.object({
  changes: z.boolean().describe('The declared policy differs from what the group runs by'),
  refusals: z.array(apiErrorSchema),
  checkpointCount: countSchema.describe('Recoverable now'),
  keptCount: countSchema.describe('Of those, kept by the declared policy'),
  oldestMs: timeMsSchema.nullable(),
  oldestKeptMs: timeMsSchema.nullable(),
  journalBytes: bytesSchema,
  hardLimitBytes: bytesSchema.describe('Declared'),
  bytesPerDay: z.number().nonnegative().describe('Journal growth at the present rate of writes'),
  historySecondsAtLimit: secondsSchema
    .nullable()
    .describe('History that fits under the declared limit at the present rate; null: nothing is written now'),
});

export const forecastSchema = z.object({
  group: z.string(),
  epoch: countSchema,
  policyRevision: countSchema,
  action: actionForecastSchema.nullable(),
  policy: policyForecastSchema.nullable(),
});
export type Forecast = z.infer<typeof forecastSchema>;
export type ActionForecast = z.infer<typeof actionForecastSchema>;
export type PolicyForecast = z.infer<typeof policyForecastSchema>;

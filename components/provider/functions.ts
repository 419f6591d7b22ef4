/** Functions: what changes by itself (RPO, checkpoints, forecasts) is asked for, never kept in a state. */
import { z } from 'zod';
import { checkpointSchema } from '../../agent/src/service/checkpoint-schemas.js';
import { actionForecastSchema } from '../../agent/src/service/forecast-schemas.js';
import { bytesSchema, countSchema, secondsSchema } from '../../agent/src/service/scalars.js';
import { parseSelector } from '../../agent/src/service/selector.js';
import { lastingState } from './group-outputs.js';
import { checkpointsArgumentsSchema, forecastArgumentsSchema, statusArgumentsSchema } from './inputs.js';
import type { Sites } from './sites.js';
import type { Properties } from './values.js';

export interface FunctionKind {
  readonly token: string;
  readonly description: string;
  readonly schema: z.ZodObject;
  readonly result: z.ZodObject;
  run(args: Properties, sites: Sites): Promise<Properties>;
}

function kind<A extends z.ZodObject, R extends z.ZodObject>(parts: {
  token: string;
  description: string;
  schema: A;
  result: R;
  run: (args: z.infer<A>, sites: Sites) => Promise<z.infer<R>>;
}): FunctionKind {
  return { ...parts, run: async (args, sites) => parts.run(parts.schema.parse(args), sites) };
}

export const functions: readonly FunctionKind[] = [
  kind({
    token: 'tidemark:index:getStatus',
    description: 'State of a group now, as its target agent sees it',
    schema: statusArgumentsSchema,
    result: z.object({
      state: z.string(),
      detail: z.string().describe('With what comes and goes: initial, resyncing, disconnected, paused'),
      epoch: countSchema,
      rpoSeconds: secondsSchema.nullable().describe('Now minus the newest durable checkpoint; null: none yet'),
      newestCheckpoint: checkpointSchema.nullable(),
      journalBytes: bytesSchema,
      alerts: z.array(z.string()),
    }),
    run: async ({ target, group }, sites) => {
      const status = await sites.client(target).group(group);
      return {
        state: lastingState(status.state),
        detail: status.state,
        epoch: status.epoch?.epoch ?? 0,
        rpoSeconds: status.rpoSeconds,
        newestCheckpoint: status.newestCheckpoint,
        journalBytes: status.journal?.bytes ?? 0,
        alerts: status.alerts.map(({ code, message }) => `${message} [${code}]`),
      };
    },
  }),
  kind({
    token: 'tidemark:index:getCheckpoints',
    description: 'Checkpoints that can be recovered, newest first',
    schema: checkpointsArgumentsSchema,
    result: z.object({ checkpoints: z.array(checkpointSchema) }),
    run: async ({ target, group, limit }, sites) => {
      const { checkpoints } = await sites.client(target).checkpoints(group, { limit });
      return { checkpoints };
    },
  }),
  kind({
    token: 'tidemark:index:getForecast',
    description: 'What a transition or a drill would do now',
    schema: forecastArgumentsSchema,
    result: actionForecastSchema,
    run: async ({ target, group, action, checkpoint }, sites) => {
      const at = parseSelector(checkpoint, Date.now());
      const forecast = await sites.client(target).forecast(group, { action, at });
      if (forecast.action === null) throw new Error(`The agent of ${group} gave no forecast.`);
      return forecast.action;
    },
  }),
];

/** The policy pack `tidemark`: its rules as @pulumi/policy wants them. */
import { PolicyPack, type PolicyConfigSchema, type StackValidationPolicy } from '@pulumi/policy';
import {
  belowClass,
  databasesWithoutHooks,
  defaultConfig,
  drillTooOld,
  sharedFailureDomain,
  unencryptedJournal,
  unprotectedVms,
  type Finding,
  type PackConfig,
  type StackResource,
} from './rules.js';

type Rule = (resources: readonly StackResource[], config: PackConfig, nowMs: number) => Finding[];

const properties: NonNullable<PolicyConfigSchema['properties']> = {
  classes: {
    type: 'object',
    additionalProperties: {
      type: 'object',
      required: ['rpoSeconds', 'historyHours'],
      properties: { rpoSeconds: { type: 'number' }, historyHours: { type: 'number' } },
    },
    default: defaultConfig.classes,
  },
  tierTag: { type: 'string', default: defaultConfig.tierTag },
  tierValue: { type: 'string', default: defaultConfig.tierValue },
  tierOneVms: { type: 'array', items: { type: 'string' }, default: [...defaultConfig.tierOneVms] },
  drillDays: { type: 'number', minimum: 1, default: defaultConfig.drillDays },
};

function policy(
  name: string,
  description: string,
  rule: Rule,
  ...settings: (keyof PackConfig)[]
): StackValidationPolicy {
  const named = settings.map((setting) => [setting, properties[setting]!] as const);
  return {
    name,
    description,
    enforcementLevel: 'mandatory',
    ...(named.length === 0 ? {} : { configSchema: { properties: Object.fromEntries(named) } }),
    validateStack: ({ resources, getConfig }, report) => {
      const config = { ...defaultConfig, ...(named.length === 0 ? {} : getConfig<Partial<PackConfig>>()) };
      for (const { resource, message } of rule(resources, config, Date.now()))
        report(
          resource === undefined ? message : `${resource.name}: ${message}`,
          resources.find((candidate) => candidate === resource)?.urn,
        );
    },
  };
}

new PolicyPack('tidemark', {
  policies: [
    policy(
      'tier-one-protected',
      'A VM of tier 1 belongs to a group',
      unprotectedVms,
      'tierTag',
      'tierValue',
      'tierOneVms',
    ),
    policy('class-held', "RPO and history are at least those of the group's class", belowClass, 'classes'),
    policy('database-hooks', 'A database has a hook of its own', databasesWithoutHooks),
    policy('failure-domains', 'The two sites are in different failure domains', sharedFailureDomain),
    policy('drill-age', 'A good drill is not older than drillDays', drillTooOld, 'drillDays'),
    policy('journal-encrypted', 'Journal, replica and scratch are encrypted', unencryptedJournal),
  ],
});

/** Settings of the hook `sap-hana`. */
import { z } from 'zod';
import { stepLimits } from './settings-common.js';

export const sapHanaSettingsSchema = z
  .strictObject({
    kind: z.literal('sap-hana'),
    ...stepLimits,
    sid: z
      .string()
      .regex(/^[A-Z][A-Z0-9]{2}$/, 'a system id, e.g. HDB')
      .describe('System id; programs run as its user <sid>adm'),
    instance: z
      .string()
      .regex(/^\d{2}$/, 'two digits')
      .default('00')
      .describe('Instance number'),
    key: z
      .string()
      .regex(/^[A-Za-z0-9_.-]{1,128}$/, 'a key of hdbuserstore')
      .default('TIDEMARK')
      .describe(
        'Key in the hdbuserstore of <sid>adm in the guest: the system database, with a user that has BACKUP ADMIN and CATALOG READ. The password never leaves the guest',
      ),
    isBackup: z
      .boolean()
      .default(true)
      .describe(
        'The snapshot of an application checkpoint is closed SUCCESSFUL and stands in the backup catalog, also when the point is not kept any more; false: UNSUCCESSFUL',
      ),
  })
  .describe('SAP HANA 2.0 SPS 04 or later, one host, with any number of tenants');

/** What the hook sap-hana promises, and what it runs. */
import type { HookDocument } from './hook.js';

const help = 'https://help.sap.com/docs/SAP_HANA_PLATFORM';
const sql = `${help}/4fe29514fd584807ac9f2a04f6754767`;
const administration = `${help}/6b94445c94ae495c83a19646e7c3fd56`;
const catalogue = `${sql}/20a8437d7519101495a3fa7ad9961cf6.html`;
const snapshots = `${administration}/ac114d4b34d542b99bc390b34f8ef375.html`;
/** Create a Data Snapshot (Native SQL). */
const create = `${administration}/9fd1c8bb3b60455caa93b7491ae6d830.html`;

export const sapHanaDocument: HookDocument = {
  promise:
    'Every commit that was acknowledged before the mark is in the point, none that came after it: data area and log area are of one moment, in the order in which they were written. A start loads the last savepoint and replays the log since. In the data area is also a data snapshot of the system database and all tenants, prepared just before: with it the point serves as the data snapshot of a recovery by SAP HANA, to which log backups of later can be added. SAP asks for the data area only in a data snapshot, and leaves it to the storage that all its volumes are of one moment; the log area is in the point as well. Nobody is held.',
  findings: {
    'not-system-database': 'The key leads to a tenant: data snapshots are made through the system database only.',
    'several-hosts': 'A system of several hosts: its volumes are not of one VM.',
    'service-inactive': 'A service is not active: a data snapshot needs all configured services.',
    'snapshot-by-others': 'A data snapshot of somebody else is prepared; there is one at a time.',
    'data-unprotected': 'The data area or the log area lies on no captured disk of the group.',
    'snapshot-lost': 'The snapshot was closed by somebody else before the end of the hold.',
    restarted: 'The system database was started anew in the middle of the hold.',
  },
  statements: [
    {
      step: 'prepare',
      statement: 'SELECT … FROM M_DATABASE, M_SERVICES, SYS_DATABASES.M_SERVICES, M_DISKS',
      why: 'Findings; where data area and log area lie.',
      source: `${sql}/20c4f3a175191014b4a3e79aada4fd95.html`,
    },
    {
      step: 'prepare',
      statement:
        "SELECT BACKUP_ID, COMMENT FROM M_BACKUP_CATALOG WHERE ENTRY_TYPE_NAME = 'data snapshot' AND STATE_NAME = 'prepared'",
      why: 'A snapshot that is open; its comment tells whose it is.',
      source: catalogue,
    },
    {
      step: 'prepare',
      statement: "BACKUP DATA FOR FULL SYSTEM CREATE SNAPSHOT COMMENT 'tidemark'",
      why: 'A savepoint of all services, kept as a snapshot; in the catalog it is prepared then. Error 447: it could not be made.',
      source: create,
    },
    {
      step: 'quiesce',
      statement: 'SELECT … FROM M_BACKUP_CATALOG',
      why: 'It is still prepared. Commits need nothing: they are acknowledged when their log is on the disk.',
      source: catalogue,
    },
    {
      step: 'verify',
      statement:
        "BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID <id> SUCCESSFUL 'tidemark: application checkpoint'",
      why: 'Still prepared, by the same start of the database. Refused when a service was restarted meanwhile. UNSUCCESSFUL with isBackup false, and when the point is only crash.',
      source: create,
    },
    {
      step: 'undo',
      statement: "BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID <id> UNSUCCESSFUL 'tidemark: left behind'",
      why: 'Ends a prepared snapshot with our comment; an open one keeps pages from being freed. So does the next prepare.',
      source: create,
    },
    {
      step: 'afterRecovery',
      statement: "BACKUP DATA FOR FULL SYSTEM CLOSE SNAPSHOT BACKUP_ID <id> UNSUCCESSFUL 'tidemark: recovered'",
      why: 'The same in the recovered VM, where it is as it was at the mark. While the system database does not answer it is tried again: let the guest start it (Autostart=1).',
      source: snapshots,
    },
  ],
  testedAgainst: 'dialogue',
};

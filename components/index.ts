/** What the package `tidemark` offers to Pulumi programs. */
export * from './agent-client.js';
export * from './appliance-resources.js';
export * from './authority.js';
export { type FileDisk, type Size } from './capture.js';
export * from './protected-application.js';
export * from './replication-appliance.js';
export * from './resources.js';
export * from './site.js';

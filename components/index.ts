/** What the package `tidemark` offers to Pulumi programs. */
export * from './agent-client.js';
export * from './protected-application.js';
export * from './resources.js';
export * from './site.js';

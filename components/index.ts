/** What the package `tidemark` offers to Pulumi programs. */
export * from './agent-client.js';

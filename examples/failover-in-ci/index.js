/** What Pulumi starts. */
import { load } from '../load.js';

export const { activeSite, state, lastOperation } = await load('failover-in-ci');

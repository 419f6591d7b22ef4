/** What Pulumi starts. */
import { load } from '../load.js';

export const { activeSite, state, addresses, api, operator } = await load('quickstart');

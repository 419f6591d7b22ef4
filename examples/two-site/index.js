/** What Pulumi starts. */
import { load } from '../load.js';

export const { activeSite, state, addresses } = await load('two-site');

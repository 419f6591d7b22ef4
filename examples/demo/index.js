/** What Pulumi starts. */
import { load } from '../load.js';

export const { activeSite, addresses, state } = await load('demo');

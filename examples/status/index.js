/** What Pulumi starts. */
import { load } from '../load.js';

export const { agent, groups } = await load('status');

/** Entry of the executable `tidemark`. The guard loads next to nothing: it must be there soon and cost little memory. */
async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args[0] === 'agent' && args[1] === 'guard') (await import('./guard/guard-process.js')).runGuardProcess();
  else await (await import('./tidemark.js')).runTidemark(args);
}

void main();

/**
 * One project for each kind of test, so that `npm run jest -- --selectProjects unit` runs one of them.
 * TypeScript is transformed by esbuild and stays ESM; the machine-independent order comes from the sequencer.
 */
const folders = [
  'unit',
  'contract',
  'formats',
  'sim',
  'fuzz',
  'clients',
  'e2e',
  'components',
  'hypervisor',
  'hooks',
  'vm',
  'pulumi',
];

const shared = {
  testEnvironment: 'node',
  extensionsToTreatAsEsm: ['.ts'],
  resolver: '<rootDir>/scripts/jest/resolver.cjs',
  globalSetup: '<rootDir>/scripts/jest/workers.mjs',
  modulePathIgnorePatterns: ['<rootDir>/dist/'],
  transform: { '^.+\\.ts$': '<rootDir>/scripts/jest/transform.mjs' },
};

export default {
  maxWorkers: '100%',
  testTimeout: 60_000,
  testSequencer: '<rootDir>/scripts/jest/sequencer.cjs',
  projects: folders.map((folder) => ({
    ...shared,
    displayName: folder,
    testMatch: [`<rootDir>/test/${folder}/**/*.test.ts`],
  })),
};

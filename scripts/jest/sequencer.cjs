/** Runs test files in the order of their paths: the same on every machine and in every run. */
const Sequencer = require('@jest/test-sequencer').default;

module.exports = class PathSequencer extends Sequencer {
  sort(tests) {
    return [...tests].sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  }
};

/** Our sources import `./x.js` for `x.ts` (NodeNext); packages in node_modules are left alone. */
const { existsSync } = require('node:fs');
const { join } = require('node:path');

module.exports = (request, options) => {
  if (/^\.{1,2}\/.*\.js$/.test(request) && !options.basedir.includes('/node_modules/')) {
    const source = join(options.basedir, request.replace(/\.js$/, '.ts'));
    if (existsSync(source)) return source;
  }
  return options.defaultResolver(request, options);
};

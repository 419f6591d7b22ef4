/** Pages under docs/ that are made from the code; a test keeps them equal. */
import { readFileSync } from 'node:fs';
import { configJsonSchema, configReference } from '../config/document.js';
import { errorTable, type ErrorCode } from '../core/errors.js';
import { cliReference } from '../cli/document.js';
import { hookModules } from '../hooks/registry.js';
import { httpStatus } from './http-errors.js';
import { apiMetricNames, groupMetrics } from './metrics.js';
import { dataPathMetrics } from '../runtime/agent-metrics.js';
import { openApiDocument } from './openapi.js';

const generated = '<!-- generated: npm run run-ts -- agent/src/control/generate-docs.ts -->\n';
const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`;

/** File name under docs/ and whole text. Hand-written introductions live in docs/intro/. */
export function generatedPages(docs = `${process.env['TIDEMARK_ROOT'] ?? process.cwd()}/docs`): Map<string, string> {
  const intro = (name: string): string => readFileSync(`${docs}/intro/${name}`, 'utf8');
  return new Map([
    ['openapi.json', json(openApiDocument())],
    ['config.schema.json', json(configJsonSchema())],
    ['config.md', `${generated}${intro('config.md')}\n${configReference()}`],
    ['cli.md', `${generated}${intro('cli.md')}\n${cliReference()}`],
    ['errors.md', `${generated}${intro('errors.md')}\n${errorPage()}`],
    ['hooks.md', `${generated}${intro('hooks.md')}\n${hooksPage()}`],
    ['metrics.md', `${generated}${intro('metrics.md')}\n${metricsPage()}`],
  ]);
}

function errorPage(): string {
  const rows = Object.entries(errorTable).map(
    ([code, { retry, hint }]) =>
      `| \`${code}\` | ${httpStatus(code as ErrorCode)} | ${retry ? 'yes' : 'no'} | ${hint} |`,
  );
  return ['| code | HTTP | retry | what to do |', '|---|---|---|---|', ...rows, ''].join('\n');
}

function hooksPage(): string {
  return Object.values(hookModules)
    .map(({ kind, document }) => {
      const findings = Object.entries(document.findings).map(([code, why]) => `- \`${code}\`: ${why}`);
      const statements = document.statements.map(
        ({ step, statement, why, source }) =>
          `| ${step} | \`${statement.replaceAll('|', '\\|')}\` | ${why} | [source](${source}) |`,
      );
      return [
        ...[`## ${kind}`, '', document.promise, ''],
        document.testedAgainst === 'real'
          ? 'Tested against the product itself, in a VM.'
          : 'Tested against a scripted dialogue only: it was not run against the real product here.',
        '',
        ...(findings.length === 0 ? [] : ['A point is `crash` with these reasons:', '', ...findings, '']),
        ...['| step | statement | why | documentation |', '|---|---|---|---|', ...statements, ''],
      ].join('\n');
    })
    .join('\n');
}

function metricsPage(): string {
  const rows = [...groupMetrics, ...dataPathMetrics].map(
    ({ name, labels, help }) => `| \`${name}\` | ${labels.join(', ')} | ${help} |`,
  );
  const own = apiMetricNames.map(([name, help, label]) => `| \`${name}\` | ${label} | ${help} |`);
  return ['| metric | labels | meaning |', '|---|---|---|', ...rows, ...own, ''].join('\n');
}

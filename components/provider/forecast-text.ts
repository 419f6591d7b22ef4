/** A forecast in words, for the preview. */
import type { Forecast } from '../../agent/src/service/forecast-schemas.js';

type ActionForecast = NonNullable<Forecast['action']>;
type PolicyForecast = NonNullable<Forecast['policy']>;

export interface ActionWords {
  readonly group: string;
  readonly request: string;
  readonly site: string;
}

export function actionText(forecast: ActionForecast, { group, request, site }: ActionWords): string {
  const { action, checkpoint, lossSeconds, vms, readySeconds, measuredCount } = forecast;
  const lines = [`${action} of ${group} ${action === 'rollback' ? 'away from' : 'at'} ${site} (request ${request})`];
  if (action === 'move')
    lines.push(
      'nothing is lost: the VMs at the source are shut down first, their last writes arrive, or it is refused',
    );
  else if (checkpoint !== null && lossSeconds !== null) {
    const label = checkpoint.label === null ? '' : ` "${checkpoint.label}"`;
    lines.push(
      `checkpoint ${checkpoint.id} (${checkpoint.kind}${label}) of ${time(checkpoint.sourceTimeMs)}`,
      action === 'drill'
        ? `the drill shows the state of ${seconds(lossSeconds)} ago; protection goes on`
        : `data lost: the last ${seconds(lossSeconds)}`,
    );
  }
  for (const wave of [...new Set(vms.map((vm) => vm.wave))])
    for (const vm of vms.filter((candidate) => candidate.wave === wave))
      lines.push(vmLine(vm, action), ...vm.checks.map((check) => `  checked: ${checkText(check)}`));
  if (action !== 'rollback' && action !== 'commit')
    lines.push(
      readySeconds === null
        ? 'ready: not measured yet; a drill measures it'
        : `ready after about ${seconds(readySeconds)} (median of ${measuredCount})`,
    );
  if (action === 'failover' || action === 'move') lines.push(scratchLine(forecast));
  return lines.join('\n  ');
}

function vmLine(
  { vm, wave, delaySeconds, lossSeconds, networks, addresses }: ActionForecast['vms'][number],
  action: string,
): string {
  const nets = networks.map(({ from, to }) => `${from} -> ${to}`);
  const ips = addresses.map(({ nic, to }) => `nic ${nic}: ${typeof to === 'string' ? to : to.addresses.join(', ')}`);
  const facts = [
    ...(action === 'drill' ? [] : [`loses ${seconds(lossSeconds)}`]),
    ...(delaySeconds > 0 ? [`after ${seconds(delaySeconds)}`] : []),
    ...nets,
    ...ips,
  ];
  return `wave ${wave}: ${vm}${facts.length === 0 ? '' : ` (${facts.join('; ')})`}`;
}

function checkText(check: ActionForecast['vms'][number]['checks'][number]): string {
  const within = `within ${seconds(check.timeoutSeconds)}`;
  switch (check.kind) {
    case 'guest-agent':
      return `the guest agent answers ${within}`;
    case 'tcp':
      return `${check.host}:${check.port} accepts ${within}`;
    case 'http':
      return `${check.url} answers ${within}`;
    case 'command':
      return `${check.command.join(' ')} succeeds ${within}`;
  }
}

function scratchLine({ scratchLimitBytes, scratchFullSeconds }: ActionForecast): string {
  const full =
    scratchFullSeconds === null
      ? 'nothing is written now'
      : `full after ${seconds(scratchFullSeconds)} at the present rate`;
  return `until commit or rollback its writes go to scratch: ${bytes(scratchLimitBytes)}, ${full}`;
}

export function policyText(group: string, revision: number, forecast: PolicyForecast): string {
  const { checkpointCount, keptCount, oldestMs, oldestKeptMs, journalBytes, hardLimitBytes } = forecast;
  const lines = [`policy of ${group}, revision ${revision} -> ${revision + 1}`];
  const dropped = checkpointCount - keptCount;
  lines.push(
    dropped === 0
      ? `history: all ${checkpointCount} checkpoints stay`
      : `history: ${dropped} of ${checkpointCount} checkpoints are dropped; the oldest is ${timeOrNone(oldestMs)} now and ${timeOrNone(oldestKeptMs)} then`,
  );
  const limit =
    forecast.historySecondsAtLimit === null
      ? ''
      : `, which holds about ${seconds(forecast.historySecondsAtLimit)} at the present ${bytes(forecast.bytesPerDay)} a day`;
  lines.push(`journal: ${bytes(journalBytes)} of ${bytes(hardLimitBytes)}${limit}`);
  if (journalBytes > hardLimitBytes) lines.push('the limit is below what is kept: the oldest history goes at once');
  return lines.join('\n  ');
}

function timeOrNone(ms: number | null): string {
  return ms === null ? 'none' : time(ms);
}

function time(ms: number): string {
  return new Date(ms).toISOString();
}

/** `2.4 s`, `31 s`, `12 min`, `5.0 h`, `3.1 d` */
export function seconds(value: number): string {
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172_800 ? `${(value / 3600).toFixed(1)} h` : `${(value / 86_400).toFixed(1)} d`;
}

export function bytes(value: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const step = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  return `${(value / 1024 ** step).toFixed(step === 0 ? 0 : 1)} ${units[step]}`;
}

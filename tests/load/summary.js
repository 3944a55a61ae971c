// What is printed at the end: one table; with SUMMARY=FILE everything as JSON too.
const count = (metrics, name) => (metrics[name] ? metrics[name].values.count : 0);

function duration(metrics, name) {
  const values = metrics[name] && metrics[name].values;
  return values && values.max ? ['med', 'p(95)', 'p(99)', 'max'].map((key) => values[key].toFixed(1)).join(' / ') : '–';
}

export function summary(data, scenario, run) {
  const { metrics } = data;
  const answers = metrics.http_reqs ? metrics.http_reqs.values : { count: 0, rate: 0 };
  const lines = [
    ['requests', `${answers.count} (${answers.rate.toFixed(1)} a second)`],
    ['answers of 202, ms (p50 / p95 / p99 / max)', duration(metrics, 'http_req_duration{expected_response:true}')],
    ['batch safe after, ms, with all its tries', duration(metrics, 'batch_safe_after')],
    ['batches stored', count(metrics, 'batches_stored')],
    ['tries again', count(metrics, 'batches_retried')],
    ['batches lost', count(metrics, 'batches_lost')],
    ['batches not begun in time', count(metrics, 'dropped_iterations')],
    ['reports safe', count(metrics, 'reports_safe')],
    ['reports duplicate', count(metrics, 'reports_duplicate')],
    ['reports rejected', count(metrics, 'reports_rejected')],
  ];
  const width = Math.max(...lines.map(([what]) => what.length));
  const judged = Object.entries(metrics).flatMap(([name, { thresholds = {} }]) => Object.entries(thresholds)
    .map(([limit, { ok }]) => `  ${ok ? 'met    ' : 'NOT MET'}  ${name}: ${limit}`));
  const text = [`\n${scenario}, ${run}`, ...lines.map(([what, value]) => `  ${what.padEnd(width)}  ${value}`), ...judged, ''].join('\n');
  const files = __ENV.SUMMARY ? { [__ENV.SUMMARY]: JSON.stringify(data) } : {};
  return { stdout: `${text}\n`, ...files };
}

// k6 run -e SCENARIO=smoke -e INGEST_KEY=… tests/load/main.js: players of a game, as docs/load.md says.
import exec from 'k6/execution';
import http from 'k6/http';
import { Seat } from './players.js';
import { SCENARIOS, SEATS } from './scenarios.js';
import { send } from './send.js';
import { summary } from './summary.js';

const scenario = __ENV.SCENARIO || 'smoke';
const target = { url: (__ENV.TARGET || 'http://127.0.0.1:8080').replace(/\/+$/, ''), key: __ENV.INGEST_KEY };
const run = __ENV.RUN || `load-${scenario}-${Math.floor(Date.now() / 1000)}`;

if (!SCENARIOS[scenario]) throw new Error(`SCENARIO is one of ${Object.keys(SCENARIOS).join(', ')}, not ${scenario}`);
if (!target.key) throw new Error('INGEST_KEY is missing: the ingest key of the game that is to get the reports');
guard(target.url, __ENV.ALLOW_HOST);

export const options = {
  ...SCENARIOS[scenario],
  systemTags: ['status', 'method', 'name', 'scenario', 'check', 'error_code', 'expected_response'],
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
  maxRedirects: 0, // nor whoever it redirects to
  userAgent: 'gamepulse-load',
};

// This machine, or a host that is named twice: whoever mistypes a URL loads nobody.
function guard(url, allowed) {
  const found = /^https?:\/\/(\[[^\]]+\]|[^/:?#@]+)(:\d+)?$/.exec(url);
  if (!found) throw new Error(`TARGET must be http://HOST[:PORT] or https://HOST[:PORT], not ${url}`);
  const host = found[1];
  if (!/^(127(\.\d+){3}|localhost|\[::1\])$/.test(host) && host !== allowed) {
    throw new Error(`TARGET is not this machine. If ${host} is yours to load, say so: ALLOW_HOST=${host}`);
  }
}

export function setup() {
  const ready = http.get(`${target.url}/health/ready`, {
    responseCallback: http.expectedStatuses(200), tags: { name: 'GET /health/ready' },
  });
  if (ready.status !== 200) exec.test.abort(`${target.url}/health/ready answers ${ready.status || ready.error}`);
}

const seats = [];
let turn = 0;

export default function () {
  const number = turn++ % SEATS;
  const seat = (seats[number] ||= new Seat(run, number));
  const batch = seat.next();
  if (batch) send(target, batch);
}

export const handleSummary = (data) => summary(data, scenario, run);

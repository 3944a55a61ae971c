// Reads data/: real measurements as the figures of a report. What a cell means is in data/README.md.
import { SharedArray } from 'k6/data';

const RTT_MIN_MS = 0.01; // what POST /v1/reports takes
const RTT_MAX_MS = 60000;
const OUTLIER_SIGMAS = 3; // a pair's maximum is a year's worst stall
const MIRROR_MS = [[100, 'excellent'], [200, 'good'], [400, 'fair']];

// Not the demo's regions: whoever looks at those must not see players that there never were.
export const SERVERS = [
  { name: 'load-seoul-1', region: 'load-ap-northeast-2', country: 'KR' },
  { name: 'load-tokyo-1', region: 'load-ap-northeast-1', country: 'JP' },
  { name: 'load-singapore-1', region: 'load-ap-southeast-1', country: 'SG' },
  { name: 'load-frankfurt-1', region: 'load-eu-central-1', country: 'DE' },
  { name: 'load-virginia-1', region: 'load-us-east-1', country: 'US' },
  { name: 'load-sao-paulo-1', region: 'load-sa-east-1', country: 'BR' },
];

function rows(name) {
  const [head, ...lines] = open(`../../data/${name}`).trim().split('\n').map((line) => line.trim().split(','));
  return lines.map((cells) => Object.fromEntries(head.map((column, n) => [column, cells[n]])));
}

// Empty or 0 is unknown: a rounded or a failed ping.
function knownMs(cell) {
  const value = Number(cell);
  return value >= RTT_MIN_MS ? Math.min(value, RTT_MAX_MS) : null;
}

// As a Mirror client says it.
function quality(rttMs) {
  if (rttMs === null) return 'estimating';
  const band = MIRROR_MS.find(([edge]) => rttMs <= edge);
  return band ? band[1] : 'poor';
}

function ofPhone(row) {
  const rttMs = knownMs(row.rtt_avg_ms);
  const figures = { rtt_ms: rttMs, rtt_min_ms: knownMs(row.rtt_min_ms), rtt_max_ms: knownMs(row.rtt_max_ms), quality: quality(rttMs) };
  if (row.rtt_stdev_ms) Object.assign(figures, { jitter_ms: Number(row.rtt_stdev_ms), jitter_method: 'stddev' });
  if (row.loss_pct) figures.loss = Number((row.loss_pct / 100).toFixed(6));
  return figures;
}

function ofPair(row) {
  const meanMs = knownMs(row.rtt_mean_ms);
  let mostMs = knownMs(row.rtt_max_ms);
  if (meanMs && mostMs && row.rtt_stdev_ms) {
    mostMs = Math.min(mostMs, Number((meanMs + OUTLIER_SIGMAS * row.rtt_stdev_ms).toFixed(2)));
  }
  return { rtt_ms: meanMs, rtt_min_ms: knownMs(row.rtt_min_ms), rtt_max_ms: mostMs, quality: quality(meanMs) };
}

// Networks of the demo's geography, whose addresses are for documentation only.
export const networks = Array.from(new SharedArray('networks', () => rows('demo_geography.csv').map(
  ({ country, access, ipv6 }) => ({ country, access, prefix: ipv6.split('/')[0] }),
).filter(({ access }) => access !== 'hosting')));

// The rounds of all phone sessions, and where each session begins and ends: what is taken out of a SharedArray is copied.
const phones = new SharedArray('phones', () => rows('mobile_sessions.csv').map(ofPhone));
const sessions = Array.from(new SharedArray('sessions', () => {
  const found = {};
  rows('mobile_sessions.csv').forEach(({ session }, n) => { (found[session] ||= { begin: n }).end = n + 1; });
  return Object.values(found);
}));

// A stretch of up to so many rounds of a phone session, and from the beginning again: what it says at a turn.
export function phoneStretch(length) {
  const { begin, end } = sessions[Math.floor(Math.random() * sessions.length)];
  const from = begin + Math.floor(Math.random() * Math.max(1, end - begin - length));
  return (turn) => phones[from + (turn % Math.min(length, end - from))];
}

// By number of the server: the figures of each measured pair of its country and one of the geography.
export const pairs = Array.from(new SharedArray('pairs', () => {
  const of = {};
  for (const row of rows('country_rtt.csv')) of[[row.country_a, row.country_b].sort()] = ofPair(row);
  const countries = [...new Set(rows('demo_geography.csv').map(({ country }) => country))];
  return SERVERS.map((server) => countries.flatMap((country) => {
    const figures = of[[country, server.country].sort()];
    return figures && figures.rtt_ms ? [{ country, figures }] : [];
  }).sort((one, other) => one.figures.rtt_ms - other.figures.rtt_ms));
}));

// The five loads, in players at a time, and what must be so. A scenario sends players ÷ TICK_S batches a second, whatever is answered.
import { PATIENCE_S } from './send.js';
import { TICK_S } from './players.js';

export const SEATS = 20; // players of one VU
const READY = 2; // VUs at the start, for each that is needed when answers come at once: making more while it sends would hold batches up
const STALLED = 4; // and at most

// Always, however busy the machine is.
const EXACT = { checks: ['rate==1'], batches_lost: ['count==0'], reports_rejected: ['count==0'], batches_stored: ['count>0'] };
// The objectives (observability/slo/gamepulse.yml), within the run; and the load was really sent.
const OBJECTIVES = (of = '') => ({
  [`http_req_duration{${of}expected_response:true}`]: ['p(99)<=100'],
  [`http_req_failed${of && `{${of.slice(0, -1)}}`}`]: ['rate<=0.001'],
});
const SENT = { dropped_iterations: ['count==0'] };

const minutes = Number(__ENV.MINUTES || 10);

function flow(players, seconds, startTime = 0) {
  const vus = Math.ceil(players / SEATS);
  return {
    executor: 'constant-arrival-rate', rate: Math.ceil(players / TICK_S), timeUnit: '1s', duration: `${seconds}s`,
    startTime: `${startTime}s`, preAllocatedVUs: READY * vus, maxVUs: STALLED * vus, gracefulStop: `${PATIENCE_S + 15}s`,
  };
}

// `steps`: [players, seconds], each reached from the one before.
function ramp(from, steps, startTime = 0) {
  const vus = Math.ceil(Math.max(...steps.map(([players]) => players)) / SEATS);
  return {
    executor: 'ramping-arrival-rate', startRate: Math.ceil(from / TICK_S), timeUnit: '1s',
    stages: steps.map(([players, seconds]) => ({ target: Math.ceil(players / TICK_S), duration: `${seconds}s` })),
    startTime: `${startTime}s`, preAllocatedVUs: READY * vus, maxVUs: STALLED * vus, gracefulStop: `${PATIENCE_S + 15}s`,
  };
}

export const SCENARIOS = {
  // Does all of it work? 15 s.
  smoke: { scenarios: { smoke: flow(200, 15) }, thresholds: EXACT },
  // An evening: 1,000 players come in half a minute and stay. 3.5 min.
  load: {
    scenarios: { load: ramp(100, [[1000, 30], [1000, 150], [0, 30]]) },
    thresholds: { ...EXACT, ...OBJECTIVES(), ...SENT },
  },
  // More and more, far beyond what a laptop answers: refused in time, nothing lost. 4 min.
  stress: {
    scenarios: { stress: ramp(500, [[1000, 30], [2500, 60], [5000, 60], [10000, 60], [0, 15]]) },
    thresholds: EXACT,
  },
  // Ten times the players within 5 s, for half a minute; afterwards all is as before. 2.5 min.
  spike: {
    scenarios: {
      before: flow(500, 30),
      spike: ramp(500, [[5000, 5], [5000, 30], [500, 5]], 30),
      after: flow(500, 45, 85),
    },
    thresholds: { ...EXACT, ...OBJECTIVES('scenario:before,'), ...OBJECTIVES('scenario:after,') },
  },
  // For MINUTES=10: does anything grow, leak or tire?
  soak: { scenarios: { soak: flow(500, minutes * 60) }, thresholds: { ...EXACT, ...OBJECTIVES(), ...SENT } },
};

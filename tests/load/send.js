// Sends a batch as a client should: the same `batch_id` until it is answered for good, no sooner than `Retry-After` says.
import { check, sleep } from 'k6';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

const TIMEOUT = '10s';
export const PATIENCE_S = 30; // how long one batch is tried
const RETRIED = [0, 429, 500, 502, 503, 504]; // 0: no answer
const REFUSED = [429, 503]; // say when to come again
const FIRST_PAUSE_S = 0.5;
const PAUSE_MAX_S = 15;
const JITTER_S = 1;
const SENT_TWICE = 0.02; // as by a client that has lost the answer

const stored = new Counter('batches_stored');
const lost = new Counter('batches_lost'); // given up, so that a client would drop them
const retried = new Counter('batches_retried');
const safe = new Counter('reports_safe'); // accepted, or known from a try whose answer was another, or lost
const duplicate = new Counter('reports_duplicate');
const rejected = new Counter('reports_rejected');
const safeAfter = new Trend('batch_safe_after', true); // from when it was due, with all its tries

http.setResponseCallback(http.expectedStatuses(202));

export function send(target, batch) {
  const due = Date.now();
  for (let attempt = 1; ; attempt += 1) {
    const answer = post(target, batch);
    if (answer.status === 202) {
      safeAfter.add(Date.now() - due);
      count(batch, answer.json(), attempt);
      if (Math.random() < SENT_TWICE) sendAgain(target, batch);
      return;
    }
    if (REFUSED.includes(answer.status)) check(answer, { 'a refusal says when to come again': ({ headers }) => headers['Retry-After'] > 0 });
    const pause = pauseAfter(answer, attempt);
    if (!RETRIED.includes(answer.status) || Date.now() - due + pause * 1000 > PATIENCE_S * 1000) {
      lost.add(1, { status: String(answer.status) });
      return;
    }
    retried.add(1);
    sleep(pause);
  }
}

function post({ url, key }, { content, address }) {
  const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', 'X-Forwarded-For': address };
  return http.post(`${url}/v1/reports`, JSON.stringify({ ...content, sent_at: Date.now() }), {
    headers, timeout: TIMEOUT, tags: { name: 'POST /v1/reports' },
  });
}

function count(batch, told, attempt) {
  stored.add(1);
  safe.add(told.accepted + told.duplicate);
  duplicate.add(told.duplicate);
  rejected.add(told.rejected.length);
  check(told, {
    'each report is accounted for': (one) => one.accepted + one.duplicate + one.rejected.length === batch.count,
    'what is new is no duplicate': (one) => attempt > 1 || one.duplicate === 0,
  });
}

function sendAgain(target, batch) {
  const answer = post(target, batch);
  if (answer.status !== 202) return; // refused: it is stored all the same
  const told = answer.json();
  duplicate.add(told.duplicate);
  check(told, { 'what was sent again is a duplicate': (one) => one.accepted === 0 && one.duplicate === batch.count });
}

// As the service says, spread so that not all come back at once; else longer each time.
function pauseAfter(answer, attempt) {
  const told = Number(answer.headers['Retry-After']);
  const base = told > 0 ? told : Math.min(FIRST_PAUSE_S * 2 ** (attempt - 1), PAUSE_MAX_S);
  return base + Math.random() * JITTER_S;
}

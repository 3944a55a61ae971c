// Players who come, play, complain, drop, come back and go: each call of next() is what the client on a seat sends now, if anything.
import exec from 'k6/execution';
import { SERVERS, networks, pairs, phoneStretch } from './measurements.js';

export const TICK_S = 5; // a player sends a batch every tick
const REPORTS = 2; // in a batch
const TICKS = [12, 96]; // of a visit: one to eight minutes
const AWAY_TICKS = 8; // at most
const NEAR_COUNTRIES = 5;

// Chances, each per tick unless said.
const PHONES = 0.35; // of all players
const PLAYS_NEARBY = 0.8; // of the others
const CONNECT_FAILS = 0.05; // per attempt
const DROPS = 0.006;
const STAYS_AWAY = 0.3; // per drop
const COMPLAINS_GOOD = 0.0005;
const COMPLAINS_BAD = 0.02;
const BAD_RTT_MS = 200;
const BAD_LOSS = 0.05;

const chance = (share) => Math.random() < share;
const below = (number) => Math.floor(Math.random() * number);
const oneOf = (list) => list[below(list.length)];

// Who takes a seat: from where, on what, with which measurements. A phone session has no country of its own: `build` says so.
function newPlayer(ticks) {
  const number = below(SERVERS.length);
  const near = pairs[number].slice(0, NEAR_COUNTRIES);
  if (chance(PHONES)) {
    return {
      server: SERVERS[number], country: oneOf(near).country, connection: 'cellular', platform: 'android',
      build: '1.5.0+load.phone', figuresAt: phoneStretch(ticks * REPORTS),
    };
  }
  const pair = oneOf(chance(PLAYS_NEARBY) ? near : pairs[number]);
  return {
    server: SERVERS[number], country: pair.country, connection: 'wired', platform: oneOf(['windows', 'macos', 'linux']),
    build: '1.5.0+load.country-pair', figuresAt: () => pair.figures,
  };
}

function addressOf(country, access) {
  const network = oneOf(networks.filter((one) => one.country === country && one.access === access));
  return network.prefix + (1 + below(60000)).toString(16);
}

export class Seat {
  constructor(run, number) {
    this.run = run; // the load's name: `match` of all that it sends
    this.number = number;
    this.awayTicks = 0;
  }

  // {content, address, count}: a batch without `sent_at`, where its player is, its reports and events. Null: silence.
  next() {
    if (this.awayTicks > 0) {
      this.awayTicks -= 1;
      return null;
    }
    if (!this.player) return this.join();
    if (this.isBack) {
      this.isBack = false;
      return this.says([], 'reconnected');
    }
    if (chance(DROPS)) {
      this.isBack = !chance(STAYS_AWAY);
      if (!this.isBack) this.player = null;
      this.awayTicks = 1 + below(AWAY_TICKS);
      return null;
    }
    return this.play();
  }

  join() {
    this.ticks = TICKS[0] + below(TICKS[1] - TICKS[0] + 1);
    this.player = newPlayer(this.ticks);
    this.address = addressOf(this.player.country, this.player.connection);
    this.session = crypto.randomUUID();
    this.seq = 0;
    this.round = 0;
    if (!chance(CONNECT_FAILS)) return this.says(this.measured(), 'connected');
    const said = this.says([], 'connect_failed', 'timeout');
    this.leave();
    return said;
  }

  measured() {
    return Array.from({ length: REPORTS }, () => this.player.figuresAt(this.round++));
  }

  play() {
    const figures = this.measured();
    this.ticks -= 1;
    if (this.ticks === 0) {
      const said = this.says(figures, 'disconnected', 'quit');
      this.leave();
      return said;
    }
    const last = figures[REPORTS - 1];
    const isBad = last.rtt_ms > BAD_RTT_MS || last.loss > BAD_LOSS;
    return chance(isBad ? COMPLAINS_BAD : COMPLAINS_GOOD) ? this.says(figures, 'complaint', 'lag') : this.says(figures);
  }

  leave() {
    this.player = null;
    this.awayTicks = 1 + below(AWAY_TICKS);
  }

  says(figures, kind, reason) {
    const { server, platform, build, connection } = this.player;
    const now = Date.now();
    const place = { region: server.region, server: server.name };
    const reports = figures.map((one, n) => ({
      ...one, ...place, seq: ++this.seq, at: now - Math.round(((figures.length - 1 - n) * TICK_S * 1000) / REPORTS), side: 'client',
    }));
    const events = kind ? [{ ...place, seq: ++this.seq, at: now, kind, reason }] : [];
    const content = {
      batch_id: crypto.randomUUID(), game: __ENV.GAME || 'demo', session: this.session, player: `load-${exec.vu.idInTest}-${this.number}`,
      platform, build, connection, match: this.run, reports, events,
    };
    return { content, address: this.address, count: reports.length + events.length };
  }
}

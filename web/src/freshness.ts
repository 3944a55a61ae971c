// Says whether what stands on the page is live: connection, age of the figures, and what is being done about it.
import { byId, setText } from "./element";
import { formatAge, formatClock } from "./format";
import type { Connection } from "./stream";

const DELAYED_MS = 10_000; // The service completes its figures about every second.

export type PageState = "connecting" | "live" | "delayed" | "away";
const STATE_NAMES: Readonly<Record<PageState, string>> = {
  connecting: "Connecting",
  live: "Live",
  delayed: "Delayed",
  away: "Reconnecting",
};

export class Freshness {
  #connection: Connection = { state: "connecting" };
  #asOf: number | null = null;
  #skew = Number.POSITIVE_INFINITY;

  constructor() {
    window.setInterval(() => this.show(), 1000);
  }

  connection(connection: Connection): void {
    this.#connection = connection;
    this.show();
  }

  /** The viewer's clock may be wrong: the smallest difference to the service's seen so far counts as its error. */
  received(asOf: number): void {
    this.#asOf = asOf;
    this.#skew = Math.min(this.#skew, Date.now() - asOf);
  }

  show(): void {
    const age = this.#asOf === null ? null : Date.now() - this.#asOf - this.#skew;
    const state = stateOf(this.#connection, age);
    if (document.body.dataset["state"] !== state) document.body.dataset["state"] = state;
    setText(byId("state"), STATE_NAMES[state]);
    setText(byId("as-of"), this.#asOf === null ? "" : `as of ${formatClock(this.#asOf)}, ${formatAge(age ?? 0)}`);
    setText(byId("notice"), this.#notice(state));
  }

  #notice(state: PageState): string {
    if (state === "delayed") return "The service answers, but its figures stand still.";
    if (this.#connection.state !== "away") return "The last 15 minutes";
    const { retryAt, reason } = this.#connection;
    const wait = Math.ceil((retryAt - Date.now()) / 1000);
    const what = reason === null ? "Server away" : `Server: ${reason}`;
    const kept = this.#asOf === null ? "" : ", last figures kept";
    return `${what}${kept}. ${wait > 0 ? `Next try in ${wait} s.` : "Trying again …"}`;
  }
}

function stateOf(connection: Connection, ageMs: number | null): PageState {
  if (connection.state === "live" && ageMs !== null && ageMs > DELAYED_MS) return "delayed";
  return connection.state;
}

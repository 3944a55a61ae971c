// Keeps one EventSource to the service open, whatever happens to it, and says how it stands.

const SILENCE_MAX_MS = 10_000; // The service sends every second; EventSource alone would never notice a dead connection.
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 15_000;
const EXPLAIN_MAX_MS = 4_000;

export type Connection =
  | { readonly state: "connecting" }
  | { readonly state: "live" }
  | { readonly state: "away"; readonly retryAt: number; readonly reason: string | null };

export interface Listener {
  /** One message's data. May throw: the message then counts as a failure of the connection. */
  message(data: string): void;
  connection(connection: Connection): void;
}

/** Doubles from one second to fifteen; the random half keeps many pages from coming back in step. */
export function retryDelayMs(failures: number, random: number = Math.random()): number {
  const ceiling = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * 2 ** (failures - 1));
  return ceiling * (0.5 + random / 2);
}

export class Stream {
  #source: EventSource | null = null;
  #timer: number | undefined;
  #failures = 0;

  constructor(
    private readonly url: string,
    private readonly event: string,
    private readonly listener: Listener,
  ) {
    window.addEventListener("online", () => this.#hurry());
    window.addEventListener("pagehide", () => this.#close());
    window.addEventListener("pageshow", ({ persisted }) => persisted && this.open());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  open(): void {
    this.#close();
    if (this.#failures === 0) this.listener.connection({ state: "connecting" });
    const source = new EventSource(this.url);
    this.#source = source;
    source.addEventListener("error", () => void this.#fail(source));
    source.addEventListener(this.event, (event: MessageEvent<string>) => this.#receive(source, event.data));
    this.#watch(source);
  }

  #receive(source: EventSource, data: string): void {
    try {
      this.listener.message(data);
    } catch (error) {
      console.warn("message not understood", error);
      void this.#fail(source);
      return;
    }
    this.#failures = 0;
    this.listener.connection({ state: "live" });
    this.#watch(source);
  }

  #watch(source: EventSource): void {
    window.clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.#fail(source), SILENCE_MAX_MS);
  }

  /** EventSource's own retry knows no back-off and gives up on an HTTP error, so ours replaces it. */
  async #fail(source: EventSource): Promise<void> {
    if (source !== this.#source) return;
    const refused = source.readyState === EventSource.CLOSED;
    this.#close();
    this.#failures += 1;
    const retryAt = Date.now() + retryDelayMs(this.#failures);
    this.#timer = window.setTimeout(() => this.open(), retryAt - Date.now());
    const away = (reason: string | null) => this.listener.connection({ state: "away", retryAt, reason });
    away(null);
    if (!refused) return;
    const reason = await explainRefusal(this.url);
    if (reason !== null && this.#source === null) away(reason);
  }

  #hurry(): void {
    if (this.#source === null && this.#failures > 0) this.open();
  }

  #close(): void {
    window.clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }
}

/** EventSource hides the status: asks once more for the title of the service's problem document (RFC 9457). */
async function explainRefusal(url: string): Promise<string | null> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(EXPLAIN_MAX_MS) });
    if (answer.headers.get("content-type")?.startsWith("application/problem+json")) {
      const { title } = (await answer.json()) as { title?: unknown };
      return typeof title === "string" ? title : null;
    }
    await answer.body?.cancel();
    return null;
  } catch {
    return null; // Away altogether: the caller already says so.
  }
}

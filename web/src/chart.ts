// The chart: p50, p95 and p99 of the round-trip time, minute by minute, with a legend that follows the pointer.
import uPlot from "uplot";
import { element, LiveText } from "./element";
import { formatMinute, formatMs, NOTHING } from "./format";
import type { Minute } from "./quality";

const MINUTE_MS = 60_000;
const WINDOW_MINUTES = 15;
const LINES = [
  { key: "p50", dash: [] },
  { key: "p95", dash: [] },
  { key: "p99", dash: [7, 4] },
] as const;

type Column = (number | null)[];

/** Seconds since the epoch, then one column per line, with a null for each minute that has no data. */
export function columnsOf(minutes: readonly Minute[], lastMs: number): [number[], ...Column[]] {
  const last = Math.floor(lastMs / MINUTE_MS) * MINUTE_MS;
  const starts = Array.from({ length: WINDOW_MINUTES }, (_, index) => last - (WINDOW_MINUTES - 1 - index) * MINUTE_MS);
  const byStart = new Map(minutes.map((minute) => [minute.at, minute]));
  const column = (key: (typeof LINES)[number]["key"]) => starts.map((start) => byStart.get(start)?.[key] ?? null);
  return [starts.map((start) => start / 1000), ...LINES.map(({ key }) => column(key))];
}

export class Chart {
  readonly #plot: uPlot;
  readonly #legend: { time: LiveText; values: LiveText[] };
  #colours = new Map<string, string>();
  #data = columnsOf([], Date.now());

  constructor(
    private readonly parent: HTMLElement,
    legend: HTMLElement,
  ) {
    this.#legend = addLegend(legend);
    this.#plot = new uPlot(this.#options(), this.#data, parent);
    new ResizeObserver(() => this.#resize()).observe(parent);
    // The colours are the style sheet's; they change with the system's light and dark.
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.#colours.clear();
      this.#plot.redraw();
    });
  }

  update(minutes: readonly Minute[], lastMs: number): void {
    this.#data = columnsOf(minutes, lastMs);
    this.#plot.setData(this.#data);
    this.#showLegend();
  }

  #resize(): void {
    const { clientWidth: width, clientHeight: height } = this.parent;
    if (width !== this.#plot.width || height !== this.#plot.height) this.#plot.setSize({ width, height });
  }

  /** The minute under the pointer, else the newest. */
  #showLegend(): void {
    const times = this.#data[0];
    const index = this.#plot.cursor.idx ?? times.length - 1;
    const time = times[index];
    const running = index === times.length - 1;
    this.#legend.time.set(time === undefined ? "" : running ? "this minute" : formatMinute(time * 1000));
    this.#legend.values.forEach((value, line) => value.set(formatMs(this.#data[line + 1]?.[index] ?? null)));
    if (this.#plot.cursor.idx == null) this.parent.setAttribute("aria-label", this.#spoken());
  }

  #spoken(): string {
    const values = LINES.map(({ key }, line) => `${key} ${this.#legend.values[line]?.node.data ?? NOTHING} ms`);
    return `Round-trip time over the last 15 minutes; this minute: ${values.join(", ")}`;
  }

  #colour(name: string): string {
    let colour = this.#colours.get(name);
    if (colour === undefined) {
      colour = getComputedStyle(this.parent).getPropertyValue(`--${name}`).trim();
      this.#colours.set(name, colour);
    }
    return colour;
  }

  #options(): uPlot.Options {
    return {
      width: this.parent.clientWidth || 600,
      height: this.parent.clientHeight || 240,
      padding: [10, 24, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 } },
      scales: { x: { time: true, range: (_, min, max) => [min, max] }, y: { range: (_, __, max) => ceilingOf(max) } },
      axes: [this.#timeAxis(), this.#msAxis()],
      series: [{}, ...LINES.map(({ key, dash }) => this.#line(key, dash))],
      hooks: { setCursor: [() => this.#showLegend()] },
    };
  }

  #line(key: string, dash: readonly number[]): uPlot.Series {
    return {
      label: key,
      width: 2,
      dash: [...dash],
      stroke: () => this.#colour(key),
      points: { size: 5, fill: () => this.#colour(key), stroke: () => this.#colour(key) },
    };
  }

  #timeAxis(): uPlot.Axis {
    return { ...this.#axis(), size: 30, space: 64, values: (_, times) => times.map((time) => formatMinute(time * 1000)) };
  }

  #msAxis(): uPlot.Axis {
    // A fixed width: the plot must not jump when a figure gains a digit.
    return { ...this.#axis(), size: 48, space: 36, values: (_, values) => values.map((value) => `${value}`) };
  }

  #axis(): uPlot.Axis {
    return {
      stroke: () => this.#colour("muted"),
      font: "12px system-ui, sans-serif",
      grid: { stroke: () => this.#colour("line"), width: 1 },
      ticks: { show: false },
    };
  }
}

/** From zero: a chart that cuts its foot off makes small changes look large. */
function ceilingOf(max: number | null): uPlot.Range.MinMax {
  return [0, uPlot.rangeNum(0, Math.max(max ?? 0, 10), 0.1, true)[1] ?? 10];
}

function addLegend(parent: HTMLElement): { time: LiveText; values: LiveText[] } {
  const time = new LiveText();
  const values = LINES.map(() => new LiveText(NOTHING));
  LINES.forEach(({ key }, line) =>
    parent.append(
      element(
        "span",
        { class: "legend-entry" },
        element("i", { class: `stroke ${key}` }),
        `${key} `,
        element("b", {}, values[line]!.node),
        element("span", { class: "legend-unit" }, " ms"),
      ),
    ),
  );
  parent.append(element("span", { class: "legend-time" }, time.node));
  return { time, values };
}

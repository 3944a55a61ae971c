// The message of GET /v1/live as the service sends it, and what the page derives from one group of it.

export interface Percentiles {
  readonly p5: number | null;
  readonly p50: number | null;
  readonly p75: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
}

export const BANDS = ["excellent", "good", "fair", "poor"] as const;
export type Band = (typeof BANDS)[number];

export interface Events {
  readonly connect_failed: number;
  readonly connected: number;
  readonly disconnected: number;
  readonly reconnected: number;
  readonly complaint: number;
}

/** Figures of all players, or of one region or country, over the window. */
export interface Group {
  readonly region?: string;
  readonly country?: string;
  readonly count: number;
  readonly sessions: number;
  readonly bad_sessions: number;
  readonly events: Events;
  readonly rtt_ms: Percentiles | null;
  readonly loss: number | null;
  readonly bands: Readonly<Record<Band, number>>;
  readonly reason: string | null;
}

/** One minute; `at` is its start in milliseconds since the epoch. The last one of a series is still running. */
export interface Minute {
  readonly at: number;
  readonly p50: number | null;
  readonly p95: number | null;
  readonly p99: number | null;
}

export interface Quality {
  readonly game: string;
  readonly as_of: string;
  readonly from: string;
  readonly to: string;
  readonly total: Group;
  readonly regions: readonly Group[];
  readonly countries: readonly Group[];
  readonly series: {
    readonly total: readonly Minute[];
    readonly regions: Readonly<Record<string, readonly Minute[]>>;
    readonly countries: Readonly<Record<string, readonly Minute[]>>;
  };
}

export type Dimension = "region" | "country";
export type Selection = { readonly dimension: Dimension; readonly key: string } | null;

/** Reads one message; throws when it is not one, so that a half-understood message is never shown. */
export function readQuality(text: string): Quality {
  const value = JSON.parse(text) as Partial<Quality> | null;
  const complete =
    value?.total && value.series && Array.isArray(value.regions) && Array.isArray(value.countries) && value.as_of;
  if (!complete || Number.isNaN(Date.parse(complete))) throw new TypeError("not a quality message");
  return value as Quality;
}

export function drops({ events }: Group): number {
  return events.disconnected + events.connect_failed;
}

export function isEmpty({ total }: Quality): boolean {
  return total.count === 0 && Object.values(total.events).every((events) => events === 0);
}

export function groupOf(quality: Quality, selection: Selection): Group | undefined {
  if (selection === null) return quality.total;
  const groups = selection.dimension === "region" ? quality.regions : quality.countries;
  return groups.find((group) => group[selection.dimension] === selection.key);
}

/** Start of the running minute: where every series of the message ends, also of a group that was silent since. */
export function lastMinute({ series, to }: Quality): number {
  return series.total.at(-1)?.at ?? Date.parse(to);
}

/** Undefined when the service sends no series for this selection (it sends those of the largest groups only). */
export function seriesOf(quality: Quality, selection: Selection): readonly Minute[] | undefined {
  if (selection === null) return quality.series.total;
  const series = selection.dimension === "region" ? quality.series.regions : quality.series.countries;
  return series[selection.key];
}

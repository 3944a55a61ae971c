// Turns figures into the text that stands on the page; null, "not known", is always an en dash.

export const NOTHING = "–";
const THIN_SPACE = "\u202f";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const countryNames = new Intl.DisplayNames("en", { type: "region", fallback: "code" });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minuteClock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export function formatCount(value: number): string {
  return whole.format(value);
}

/** Milliseconds, without the unit: one decimal below 10, none above. */
export function formatMs(value: number | null | undefined): string {
  if (value == null) return NOTHING;
  return value < 9.95 ? value.toFixed(1) : whole.format(value);
}

/** A share from 0 to 1 as a percentage. A small one never reads as none. */
export function formatShare(share: number | null): string {
  if (share === null) return NOTHING;
  return `${percentDigits(share * 100)}${THIN_SPACE}%`;
}

function percentDigits(percent: number): string {
  if (percent === 0) return "0";
  if (percent < 0.1) return "<0.1";
  return percent < 9.95 ? percent.toFixed(1) : whole.format(percent);
}

export function shareOf(part: number, all: number): number | null {
  return all > 0 ? Math.min(1, part / all) : null;
}

/** An ISO 3166-1 code as a name; ZZ is the service's word for "not known". */
export function countryName(code: string): string {
  if (code === "ZZ") return "Unknown";
  return /^[A-Z]{2}$/.test(code) ? (countryNames.of(code) ?? code) : code;
}

const OVERFLOW = "(other)"; // All values together that are beyond the number that a game may have.

export function groupName(dimension: string, key: string): string {
  if (key === OVERFLOW) return "Others, beyond the limit";
  return dimension === "country" ? countryName(key) : key;
}

export function formatClock(epochMs: number): string {
  return clock.format(epochMs);
}

export function formatMinute(epochMs: number): string {
  return minuteClock.format(epochMs);
}

export function formatAge(ageMs: number): string {
  const seconds = Math.max(0, Math.floor(ageMs / 1000));
  if (seconds === 0) return "now";
  if (seconds < 100) return `${seconds}${THIN_SPACE}s ago`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes}${THIN_SPACE}min ago` : `${Math.round(minutes / 60)}${THIN_SPACE}h ago`;
}

// Tests what needs no browser: formats, what counts as a message, the back-off. The page itself: tests/browser.
import assert from "node:assert/strict";
import test from "node:test";
import { build } from "esbuild";

const { outputFiles } = await build({
  stdin: {
    contents: 'export * from "./format"; export * from "./quality"; export { retryDelayMs } from "./stream";',
    resolveDir: new URL("src", import.meta.url).pathname,
  },
  bundle: true,
  format: "esm",
  write: false,
});
const { formatMs, formatShare, formatCount, formatAge, shareOf, countryName, readQuality, isEmpty, retryDelayMs } =
  await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);

const plain = (text) => text.replaceAll("\u202f", " ");

test("milliseconds: one decimal below ten, none above, a dash for unknown", () => {
  assert.deepEqual([0.04, 9.94, 9.96, 10.4, 1234.5, null].map(formatMs), ["0.0", "9.9", "10", "10", "1,235", "–"]);
});

test("a small share never reads as none, and no share exceeds the whole", () => {
  const shown = [0, 0.0004, 0.012, 0.0996, 0.5, 1, null].map((share) => plain(formatShare(share)));
  assert.deepEqual(shown, ["0 %", "<0.1 %", "1.2 %", "10 %", "50 %", "100 %", "–"]);
  assert.equal(shareOf(3, 0), null);
  assert.equal(shareOf(11, 10), 1); // Both are estimates of a distinct count.
});

test("counts, ages and countries read as words", () => {
  assert.equal(formatCount(12345), "12,345");
  assert.deepEqual([400, 5_000, 600_000].map((age) => plain(formatAge(age))), ["now", "5 s ago", "10 min ago"]);
  assert.deepEqual(["KR", "ZZ", "x<y"].map(countryName), ["South Korea", "Unknown", "x<y"]);
});

test("a message that is not one is refused whole", () => {
  for (const text of ["", "null", "{}", '{"as_of":"never","total":{},"series":{},"regions":[],"countries":[]}']) {
    assert.throws(() => readQuality(text));
  }
});

test("a game with nothing but a failed connect is not empty", () => {
  assert.equal(isEmpty({ total: { count: 0, events: { connect_failed: 0 } } }), true);
  assert.equal(isEmpty({ total: { count: 0, events: { connect_failed: 1 } } }), false);
});

test("retries back off to a limit and spread out", () => {
  assert.deepEqual([1, 2, 3, 9].map((failures) => retryDelayMs(failures, 1)), [1000, 2000, 4000, 15000]);
  assert.equal(retryDelayMs(1, 0), 500);
});

// The live page: one stream in; headline, chart and tables out; one selection between them.
import { Chart } from "./chart";
import { byId, setText } from "./element";
import { Figures } from "./figures";
import { formatCount, formatShare, groupName, shareOf } from "./format";
import { Freshness } from "./freshness";
import { type Dimension, type Group, groupOf, isEmpty, lastMinute, type Quality, readQuality, type Selection, seriesOf } from "./quality";
import { Stream } from "./stream";
import { GroupTable } from "./table";

const game = new URLSearchParams(location.search).get("game") || "demo";

class Page {
  // Before the chart, which measures its place.
  readonly #board = showBoard();
  readonly #figures = new Figures(byId("figures"));
  readonly #chart = new Chart(byId("plot"), byId("legend"));
  readonly #tables: Readonly<Record<Dimension, GroupTable>> = {
    region: new GroupTable(byId("regions"), "region", (key) => this.#select("region", key)),
    country: new GroupTable(byId("countries"), "country", (key) => this.#select("country", key)),
  };
  #quality: Quality | null = null;
  #selection: Selection = null;
  #frame = 0;

  constructor() {
    byId("back").addEventListener("click", () => this.#select(null, null));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.#select(null, null));
  }

  receive(quality: Quality): void {
    this.#quality = quality;
    this.#draw();
  }

  /** Draws once per frame, and not at all while nobody looks: a hidden page gets no frames. */
  #draw(): void {
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#quality !== null) this.#show(this.#quality);
    });
  }

  #show(quality: Quality): void {
    const empty = isEmpty(quality);
    byId("empty").hidden = !empty;
    this.#board.hidden = empty;
    this.#figures.update(quality.total);
    this.#tables.region.update(quality.regions);
    this.#tables.country.update(quality.countries);
    this.#showSelection(quality);
  }

  #showSelection(quality: Quality): void {
    const series = seriesOf(quality, this.#selection);
    this.#chart.update(series ?? [], lastMinute(quality));
    setText(byId("chart-about"), aboutSelection(groupOf(quality, this.#selection)));
    byId("plot-note").hidden = series !== undefined;
  }

  #select(dimension: Dimension | null, key: string | null): void {
    const hadFocus = document.activeElement === byId("back");
    this.#selection = dimension === null || key === null ? null : { dimension, key };
    this.#tables.region.mark(dimension === "region" ? key : null);
    this.#tables.country.mark(dimension === "country" ? key : null);
    setText(byId("chart-heading"), nameOf(this.#selection));
    byId("back").hidden = this.#selection === null;
    if (hadFocus) byId("chart").focus({ preventScroll: true }); // The button that had the focus is gone.
    if (this.#selection !== null) bringIntoView(byId("chart"));
    this.#draw();
  }
}

/** Hidden in index.html, so that nothing is painted before the headline and the tables have their places. */
function showBoard(): HTMLElement {
  const board = byId("board");
  board.hidden = false;
  return board;
}

/** On a small screen the chart is above the tables: a choice must show its effect. */
function bringIntoView(target: HTMLElement): void {
  const { top } = target.getBoundingClientRect();
  if (top >= 0 && top < innerHeight / 2) return;
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  target.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

function nameOf(selection: Selection): string {
  if (selection === null) return "All players";
  return groupName(selection.dimension, selection.key);
}

function aboutSelection(group: Group | undefined): string {
  if (group === undefined) return "No measurements in the last 15 minutes.";
  const players = group.sessions === 1 ? "1 player" : `${formatCount(group.sessions)} players`;
  const affected = `${formatCount(group.bad_sessions)} affected (${formatShare(shareOf(group.bad_sessions, group.sessions))})`;
  return [players, affected, ...(group.reason === null ? [] : [group.reason])].join(" · ");
}

setText(byId("game"), game);
setText(byId("empty-game"), game);
document.title = `${game} · GamePulse`;

const page = new Page();
const freshness = new Freshness();
new Stream(`/v1/live?game=${encodeURIComponent(game)}`, "quality", {
  message(data) {
    const quality = readQuality(data);
    freshness.received(Date.parse(quality.as_of));
    page.receive(quality);
  },
  connection: (connection) => freshness.connection(connection),
}).open();

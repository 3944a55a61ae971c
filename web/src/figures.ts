// The headline: one figure each for all players of the game.
import { element, LiveText } from "./element";
import { formatCount, formatMs, formatShare, NOTHING, shareOf } from "./format";
import { drops, type Group } from "./quality";

interface Figure {
  readonly name: string;
  readonly unit?: string;
  value(group: Group): string;
  note?(group: Group): string;
}

const FIGURES: readonly Figure[] = [
  { name: "Players", value: (group) => formatCount(group.sessions) },
  {
    name: "Affected",
    value: (group) => formatCount(group.bad_sessions),
    note: (group) => formatShare(shareOf(group.bad_sessions, group.sessions)),
  },
  { name: "Drops", value: (group) => formatCount(drops(group)) },
  { name: "Loss", value: (group) => formatShare(group.loss) },
  { name: "RTT p50", unit: "ms", value: (group) => formatMs(group.rtt_ms?.p50) },
  { name: "RTT p95", unit: "ms", value: (group) => formatMs(group.rtt_ms?.p95) },
  { name: "RTT p99", unit: "ms", value: (group) => formatMs(group.rtt_ms?.p99) },
];

export class Figures {
  readonly #updates: ((group: Group) => void)[];

  constructor(parent: HTMLElement) {
    this.#updates = FIGURES.map((figure) => addFigure(parent, figure));
  }

  update(group: Group): void {
    for (const update of this.#updates) update(group);
  }
}

function addFigure(parent: HTMLElement, figure: Figure): (group: Group) => void {
  const value = new LiveText(NOTHING);
  const note = new LiveText(figure.unit ?? "");
  parent.append(
    element(
      "div",
      { class: "figure" },
      element("span", { class: "figure-name" }, figure.name),
      element("span", { class: "figure-value" }, value.node, " ", element("small", {}, note.node)),
    ),
  );
  return (group) => {
    value.set(figure.value(group));
    if (figure.note) note.set(figure.note(group));
  };
}

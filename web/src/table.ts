// A table of groups, updated in place; a row can be selected with the pointer or the keyboard.
import { BandBar, bandKey } from "./bands";
import { element, LiveText } from "./element";
import { formatCount, formatMs, formatShare, groupName, NOTHING, shareOf } from "./format";
import { type Dimension, drops, type Group } from "./quality";

interface Column {
  readonly name: string;
  readonly about: string;
  value(group: Group): string;
  note?(group: Group): string;
}

const COLUMNS: readonly Column[] = [
  { name: "Players", about: "Distinct players, estimated", value: (group) => formatCount(group.sessions) },
  {
    name: "Affected",
    about: "Players whose connection was bad",
    value: (group) => formatCount(group.bad_sessions),
    note: (group) => formatShare(shareOf(group.bad_sessions, group.sessions)),
  },
  { name: "Drops", about: "Disconnects and failed connects", value: (group) => formatCount(drops(group)) },
  { name: "p50", about: "Half of the round trips took at most this, ms", value: (group) => formatMs(group.rtt_ms?.p50) },
  { name: "p95", about: "95 % of the round trips took at most this, ms", value: (group) => formatMs(group.rtt_ms?.p95) },
  { name: "p99", about: "99 % of the round trips took at most this, ms", value: (group) => formatMs(group.rtt_ms?.p99) },
  { name: "Loss", about: "Packets lost", value: (group) => formatShare(group.loss) },
];

const cellClass = (name: string): string => `cell ${name.toLowerCase()}`;

class Row {
  readonly node: HTMLTableRowElement;
  readonly #cells = COLUMNS.map(() => ({ value: new LiveText(NOTHING), note: new LiveText() }));
  readonly #bar = new BandBar();

  constructor(readonly key: string, name: string) {
    const title = name === key ? name : `${name} (${key})`;
    this.node = element("tr", { class: "row", role: "row", "aria-selected": "false", tabindex: "-1", "data-key": key });
    this.node.append(element("th", { class: "cell name", role: "rowheader", scope: "row", title }, name));
    COLUMNS.forEach((column, index) => this.node.append(this.#cell(column, index)));
    this.node.append(element("td", { class: "cell quality", role: "gridcell" }, this.#bar.node));
  }

  #cell(column: Column, index: number): HTMLTableCellElement {
    const texts = this.#cells[index]!;
    const cell = element("td", { class: cellClass(column.name), role: "gridcell" }, texts.value.node);
    if (column.note) cell.append(" ", element("small", {}, texts.note.node));
    return cell;
  }

  update(group: Group): void {
    COLUMNS.forEach((column, index) => {
      const texts = this.#cells[index]!;
      texts.value.set(column.value(group));
      if (column.note) texts.note.set(column.note(group));
    });
    this.#bar.update(group);
  }
}

export class GroupTable {
  readonly #rows = new Map<string, Row>();
  readonly #body = element("tbody", { role: "rowgroup" });
  readonly #canHover = window.matchMedia("(hover: hover)");
  #selected: string | null = null;

  /** `select` gets the key of the chosen row, or null for "back to all". */
  constructor(
    parent: HTMLElement,
    private readonly dimension: Dimension,
    private readonly select: (key: string | null) => void,
  ) {
    const heading = element("thead", { role: "rowgroup" }, headingRow(dimension));
    const label = dimension === "region" ? "Regions: choose one for the chart" : "Countries: choose one for the chart";
    parent.append(bandKey(), element("table", { role: "grid", "aria-label": label }, heading, this.#body));
    this.#body.addEventListener("click", (event) => this.#click(event));
    this.#body.addEventListener("keydown", (event) => this.#key(event));
  }

  update(groups: readonly Group[]): void {
    const keys = groups.map((group) => group[this.dimension] ?? "");
    this.#forget(new Set(keys));
    groups.forEach((group, index) => this.#row(keys[index]!).update(group));
    this.#order(keys);
    this.#moveTabStop();
  }

  /** Marks the row; a key without a row (yet) is remembered. */
  mark(key: string | null): void {
    this.#selected = key;
    for (const row of this.#rows.values()) {
      row.node.setAttribute("aria-selected", String(row.key === key));
    }
    this.#moveTabStop();
  }

  #row(key: string): Row {
    let row = this.#rows.get(key);
    if (row === undefined) {
      row = new Row(key, groupName(this.dimension, key));
      row.node.setAttribute("aria-selected", String(key === this.#selected));
      this.#rows.set(key, row);
      this.#body.append(row.node);
    }
    return row;
  }

  #forget(present: ReadonlySet<string>): void {
    for (const [key, row] of this.#rows) {
      if (present.has(key)) continue;
      row.node.remove();
      this.#rows.delete(key);
    }
  }

  /** Rows stay where they are under the pointer, so that nobody clicks on the one that just moved there. */
  #order(keys: readonly string[]): void {
    if (this.#canHover.matches && this.#body.matches(":hover")) return;
    const focused = document.activeElement;
    keys.forEach((key, index) => {
      const { node } = this.#rows.get(key)!;
      const there = this.#body.children[index];
      if (there !== undefined && there !== node) this.#body.insertBefore(node, there);
    });
    if (focused instanceof HTMLElement && focused !== document.activeElement && this.#body.contains(focused)) {
      focused.focus({ preventScroll: true });
    }
  }

  /** One stop for the Tab key: the row in focus, else the selected one, else the first. */
  #moveTabStop(): void {
    const focused = document.activeElement?.closest("tr");
    const chosen = this.#selected === null ? undefined : this.#rows.get(this.#selected)?.node;
    const stop = focused && this.#body.contains(focused) ? focused : (chosen ?? this.#body.firstElementChild);
    for (const { node } of this.#rows.values()) {
      const index = node === stop ? 0 : -1;
      if (node.tabIndex !== index) node.tabIndex = index;
    }
  }

  #click(event: MouseEvent): void {
    const row = (event.target as Element).closest("tr");
    if (row?.dataset["key"] !== undefined) this.#toggle(row.dataset["key"]);
  }

  #toggle(key: string): void {
    this.select(key === this.#selected ? null : key);
  }

  #key(event: KeyboardEvent): void {
    const row = (event.target as Element).closest("tr");
    if (row === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const goal = this.#goal(row, event.key);
    if (goal instanceof HTMLElement) {
      goal.focus();
      this.#moveTabStop();
    } else if (event.key === "Enter" || event.key === " ") {
      this.#toggle(row.dataset["key"] ?? "");
    } else {
      return;
    }
    event.preventDefault();
  }

  #goal(row: Element, key: string): Element | null {
    switch (key) {
      case "ArrowDown":
        return row.nextElementSibling;
      case "ArrowUp":
        return row.previousElementSibling;
      case "Home":
        return this.#body.firstElementChild;
      case "End":
        return this.#body.lastElementChild;
      default:
        return null;
    }
  }
}

function headingRow(dimension: Dimension): HTMLTableRowElement {
  const heading = (name: string, about: string) =>
    element("th", { class: cellClass(name), role: "columnheader", scope: "col", title: about }, name);
  const first = dimension === "region" ? "Region" : "Country";
  return element(
    "tr",
    { class: "row", role: "row" },
    element("th", { class: "cell name", role: "columnheader", scope: "col" }, first),
    ...COLUMNS.map(({ name, about }) => heading(name, about)),
    heading("Quality", "Share of the measurements in each band"),
  );
}

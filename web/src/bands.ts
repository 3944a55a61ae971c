// The small stacked bar of the quality bands, and the key to its colours.
import { element } from "./element";
import { formatShare, shareOf } from "./format";
import { BANDS, type Group } from "./quality";

export class BandBar {
  readonly node = element("span", { class: "bands", role: "img" });
  readonly #parts = BANDS.map((band) => element("span", { class: `band ${band}` }));
  #shown = "";

  constructor() {
    this.node.append(...this.#parts);
  }

  update({ bands }: Group): void {
    const all = BANDS.reduce((sum, band) => sum + bands[band], 0);
    const shown = BANDS.map((band) => `${band} ${formatShare(shareOf(bands[band], all))}`).join(", ");
    if (shown === this.#shown) return;
    this.#shown = shown;
    const label = all > 0 ? shown : "no measurements";
    this.node.setAttribute("aria-label", label);
    this.node.title = label;
    BANDS.forEach((band, index) => this.#parts[index]?.style.setProperty("flex-grow", String(bands[band])));
  }
}

export function bandKey(): HTMLElement {
  const entries = BANDS.map((band) => element("span", {}, element("i", { class: `swatch ${band}` }), band));
  return element("p", { class: "band-key", "aria-hidden": "true" }, ...entries);
}

// Makes and updates DOM nodes, with text as text: nothing on this page passes through innerHTML.

export function byId(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`index.html has no #${id}`);
  return found;
}

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Text that is written only when it changes: a write, even of the same text, costs a layout. */
export class LiveText {
  readonly node: Text;

  constructor(text = "") {
    this.node = document.createTextNode(text);
  }

  set(text: string): void {
    if (this.node.data !== text) this.node.data = text;
  }
}

export function setText(target: HTMLElement, text: string): void {
  if (target.textContent !== text) target.textContent = text;
}

import { element } from "./page";

/** The tabs of files, and what is done with them. Arrow keys go from one to the next. */
export class Tabs {
  private readonly list = element("tabs", HTMLDivElement);
  private readonly name = element("name", HTMLInputElement);

  constructor(private readonly open: (at: number) => void) {
    this.list.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** Show these names, one of which is chosen. */
  show(names: string[], chosen: number): void {
    const focused = this.list.contains(document.activeElement);
    this.list.replaceChildren(...names.map((name, at) => this.tab(name, at, at === chosen)));
    this.name.value = names[chosen] ?? "";
    const tab = this.list.children[chosen] as HTMLElement | undefined;
    tab?.scrollIntoView({ block: "nearest", inline: "nearest" });
    element("editor", HTMLDivElement).setAttribute("aria-labelledby", `tab-${chosen}`);
    if (focused) tab?.focus();
  }

  /** What a new file is made by. */
  onAdd(add: () => void): void {
    element("add", HTMLButtonElement).addEventListener("click", add);
  }

  /** What closes the chosen file. */
  onClose(close: () => void): void {
    element("close", HTMLButtonElement).addEventListener("click", close);
  }

  /** What gives the chosen file another name. */
  onRename(rename: (name: string) => void): void {
    this.name.addEventListener("change", () => rename(this.name.value.trim()));
  }

  private tab(name: string, at: number, chosen: boolean): HTMLButtonElement {
    const tab = document.createElement("button");
    Object.assign(tab, { type: "button", id: `tab-${at}`, textContent: name, role: "tab" });
    tab.setAttribute("aria-controls", "editor");
    tab.ariaSelected = String(chosen);
    tab.tabIndex = chosen ? 0 : -1;
    tab.addEventListener("click", () => this.open(at));
    return tab;
  }

  private pressed(event: KeyboardEvent): void {
    const count = this.list.children.length;
    const at = [...this.list.children].findIndex((tab) => tab.ariaSelected === "true");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.open((at + step + count) % count);
  }
}

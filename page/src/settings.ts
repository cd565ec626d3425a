import type { Choice, Mode } from "./infill";
import { element } from "./page";

const KEY = "sc2onnx.key";

/** What somebody chooses at the top of the page. The key is kept as long as the tab is open. */
export class Settings {
  private readonly form = element("settings", HTMLFormElement);
  private readonly model = element("model", HTMLSelectElement);
  private readonly tokens = element("tokens", HTMLInputElement);
  private readonly keyInput = element("key", HTMLInputElement);

  constructor(onKey: (key: string) => void, onChoice: () => void) {
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("change", (event) => {
      if (event.target !== this.keyInput) return onChoice();
      sessionStorage.setItem(KEY, this.key);
      onKey(this.key);
    });
    this.keyInput.value = sessionStorage.getItem(KEY) ?? "";
    if (this.key) this.askKey();
  }

  /** The key, empty where there is none. */
  get key(): string {
    return this.keyInput.value.trim();
  }

  /** What requests are to be like. */
  get choice(): Choice {
    const mode = new FormData(this.form).get("mode") as Mode;
    const tokens = this.tokens.validity.valid ? this.tokens.valueAsNumber : 64;
    return { model: this.model.value, mode, tokens };
  }

  /** Show the field for the key. */
  askKey(): void {
    element("key-field", HTMLLabelElement).hidden = false;
  }

  /** Let somebody enter the key. */
  focusKey(): void {
    this.keyInput.select();
  }

  /** Offer these models, and keep the chosen one if it is among them. */
  offer(models: string[]): void {
    const chosen = this.model.value;
    this.model.replaceChildren(...models.map((name) => new Option(name)));
    if (models.includes(chosen)) this.model.value = chosen;
    this.model.disabled = models.length < 2;
  }
}

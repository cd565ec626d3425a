import { Prec } from "@codemirror/state";
import { EditorView, keymap, type ViewUpdate } from "@codemirror/view";
import { type Client, type Timings, isAbort } from "./client";
import { ghost, showGhost } from "./ghost";
import type { Infill } from "./infill";

/** What a completer tells of. */
export interface Listener {
  asked(): void;
  first(milliseconds: number): void;
  ended(text: string, timings: Timings): void;
  stopped(): void;
  failed(error: unknown): void;
}

/** Milliseconds without a key before it asks: those of keys that come together do not each ask. */
const PAUSE = 25;

/** Asks for a completion at each change, and ends the request before it. */
export class Completer {
  private going: AbortController | null = null;
  private timer = 0;

  constructor(
    private readonly client: Client,
    private readonly request: (view: EditorView) => Infill,
    private readonly listener: Listener,
  ) {}

  /** The part of an editor that asks. */
  readonly extension = [
    EditorView.updateListener.of((update) => this.updated(update)),
    Prec.high(
      keymap.of([
        { key: "Escape", run: (view) => this.dismiss(view) },
        { key: "Alt-\\", run: (view) => this.later(view) },
      ]),
    ),
  ];

  /** End the request that is under way. */
  cancel(): void {
    clearTimeout(this.timer);
    if (this.going === null) return;
    this.going.abort();
    this.going = null;
    this.listener.stopped();
  }

  /** Ask for a completion in a moment. */
  later(view: EditorView): boolean {
    this.cancel();
    this.timer = window.setTimeout(() => void this.ask(view), PAUSE);
    return true;
  }

  private updated(update: ViewUpdate): void {
    const by = (event: string): boolean =>
      update.transactions.some((transaction) => transaction.isUserEvent(event));
    if (update.docChanged && (by("input") || by("delete") || by("undo") || by("redo"))) {
      if (!update.view.composing) this.later(update.view);
    } else if (update.docChanged || update.selectionSet) {
      this.cancel();
    }
  }

  private dismiss(view: EditorView): boolean {
    const found = ghost(view.state) !== null || this.going !== null;
    this.cancel();
    showGhost(view, "");
    return found;
  }

  private async ask(view: EditorView): Promise<void> {
    if (!view.state.selection.main.empty) return;
    const going = (this.going = new AbortController());
    this.listener.asked();
    try {
      await this.follow(view, going.signal);
    } catch (error) {
      if (!isAbort(error) && this.going === going) this.fail(view, error);
    } finally {
      if (this.going === going) this.going = null;
    }
  }

  /** Show an answer as it comes, and what is left of the one before as long as it says the same. */
  private async follow(view: EditorView, signal: AbortSignal): Promise<void> {
    const kept = ghost(view.state)?.text ?? "";
    const since = performance.now();
    let text = "";
    let first = true;
    for await (const part of this.client.infill(this.request(view), signal)) {
      if (signal.aborted) return;
      if (first) this.listener.first(performance.now() - since);
      first = false;
      text += part.content;
      showGhost(view, part.timings === undefined && kept.startsWith(text) ? kept : text);
      if (part.timings !== undefined) this.listener.ended(text, part.timings);
    }
  }

  private fail(view: EditorView, error: unknown): void {
    showGhost(view, "");
    this.listener.failed(error);
  }
}

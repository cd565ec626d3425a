import { EditorState, Prec, StateEffect, StateField, type Transaction } from "@codemirror/state";
import { Decoration, EditorView, WidgetType, keymap } from "@codemirror/view";
import type { DecorationSet } from "@codemirror/view";

/** A completion that is shown and not yet in the text, and where it would go. */
export interface Ghost {
  at: number;
  text: string;
}

/** Transactions that accept a completion, or a word of it. */
export const ACCEPTED = "input.complete";

const show = StateEffect.define<string>();

const ghosts = StateField.define<Ghost | null>({
  create: () => null,
  update(ghost, change) {
    for (const effect of change.effects) {
      if (effect.is(show)) return shown(change.state.selection.main.head, effect.value);
    }
    if (ghost === null) return null;
    if (change.docChanged) return typed(ghost, change);
    return change.selection && change.state.selection.main.head !== ghost.at ? null : ghost;
  },
  provide: (field) =>
    EditorView.decorations.compute([field], (state) => decorations(state, state.field(field))),
});

/** The completion that is shown. */
export function ghost(state: EditorState): Ghost | null {
  return state.field(ghosts, false) ?? null;
}

/** Show a text at the cursor, or nothing where it is empty. */
export function showGhost(view: EditorView, text: string): void {
  if ((ghost(view.state)?.text ?? "") !== text) view.dispatch({ effects: show.of(text) });
}

function shown(at: number, text: string): Ghost | null {
  return text === "" ? null : { at, text };
}

/** What is left of a ghost whose beginning was typed; of another change nothing. */
function typed(ghost: Ghost, change: Transaction): Ghost | null {
  let left: Ghost | null = null;
  let changes = 0;
  change.changes.iterChanges((from, to, _from, end, inserted) => {
    const text = inserted.toString();
    const follows = from === ghost.at && to === from && ghost.text.startsWith(text);
    left = follows ? shown(end, ghost.text.slice(text.length)) : null;
    changes += 1;
  });
  return changes === 1 ? left : null;
}

class Text extends WidgetType {
  constructor(
    readonly text: string,
    readonly tag: "span" | "div",
  ) {
    super();
  }

  eq(other: Text): boolean {
    return other.text === this.text && other.tag === this.tag;
  }

  ignoreEvent(): boolean {
    return false;
  }

  toDOM(): HTMLElement {
    const dom = document.createElement(this.tag);
    dom.className = "cm-ghost";
    dom.ariaHidden = "true"; // it is spoken when it is whole
    dom.textContent = this.text;
    return dom;
  }
}

/** Its first line stands behind the cursor, the others below the cursor's line. */
function decorations(state: EditorState, ghost: Ghost | null): DecorationSet {
  if (ghost === null) return Decoration.none;
  const [first = "", ...others] = ghost.text.split("\n");
  const found = [];
  if (first !== "") {
    found.push(Decoration.widget({ widget: new Text(first, "span"), side: 1 }).range(ghost.at));
  }
  if (others.length > 0) {
    const below = new Text(others.join("\n"), "div");
    const end = state.doc.lineAt(ghost.at).to;
    found.push(Decoration.widget({ widget: below, side: 2, block: true }).range(end));
  }
  return Decoration.set(found);
}

/** Put as much of the ghost into the text as a pattern takes of its beginning. */
function accept(pattern: RegExp): (view: EditorView) => boolean {
  return (view) => {
    const found = ghost(view.state);
    const text = found?.text.match(pattern)?.[0];
    if (!found || !text) return false;
    view.dispatch({
      changes: { from: found.at, insert: text },
      selection: { anchor: found.at + text.length },
      userEvent: ACCEPTED,
      scrollIntoView: true,
    });
    return true;
  };
}

const whole = accept(/^[^]+/);

/** The ghost, and the keys that accept it. Where there are no keys, a touch does. */
export const ghostText = [
  ghosts,
  EditorView.domEventHandlers({
    mousedown: ({ target }, view) =>
      target instanceof Element && target.closest(".cm-ghost") !== null && whole(view),
  }),
  Prec.highest(
    keymap.of([
      { key: "Tab", run: whole },
      { key: "Ctrl-ArrowRight", mac: "Cmd-ArrowRight", run: accept(/^\s*(?:\w+|[^\w\s]+|$)/) },
    ]),
  ),
];

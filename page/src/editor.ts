import {
  defaultKeymap,
  history,
  historyKeymap,
  indentWithTab,
} from "@codemirror/commands";
import { bracketMatching, indentOnInput } from "@codemirror/language";
import type { Extension } from "@codemirror/state";
import {
  EditorView,
  drawSelection,
  highlightActiveLine,
  highlightActiveLineGutter,
  keymap,
  lineNumbers,
} from "@codemirror/view";
import { ghostText } from "./ghost";
import { theme } from "./theme";

const LABEL = "Code. Tab accepts a completion; Escape, then Tab, leaves the editor.";

/**
 * Text that takes the place of a selection. A browser that does this by itself gives elements
 * inline styles on the way, of which the page's policy makes it complain.
 */
const replacing = EditorView.domEventHandlers({
  beforeinput: (event, view) => {
    const { state, composing } = view;
    const { inputType, data } = event;
    if (inputType !== "insertText" || data === null || composing) return false;
    if (state.selection.main.empty) return false;
    view.dispatch(state.update(state.replaceSelection(data), { userEvent: "input.type" }));
    return true;
  },
});

/** What every file's editor has. */
export const usual: Extension = [
  ghostText,
  replacing,
  lineNumbers(),
  highlightActiveLine(),
  highlightActiveLineGutter(),
  history(),
  drawSelection(),
  indentOnInput(),
  bracketMatching(),
  EditorView.lineWrapping,
  keymap.of([...defaultKeymap, ...historyKeymap, indentWithTab]),
  EditorView.contentAttributes.of({ "aria-label": LABEL, "aria-multiline": "true" }),
  theme,
];

/**
 * An editor inside an element. It stands in a tree of its own: there its styles are sheets made by
 * script, which a policy without inline styles allows.
 */
export function editor(parent: HTMLElement): EditorView {
  const root = parent.attachShadow({ mode: "open" });
  return new EditorView({ root, parent: root });
}

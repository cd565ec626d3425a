import { HighlightStyle, syntaxHighlighting } from "@codemirror/language";
import { EditorView } from "@codemirror/view";
import { tags } from "@lezer/highlight";

// Colours are the page's own, which follow the system from light to dark.

const SELECTED = ".cm-selectionBackground";

const frame = EditorView.theme({
  "&": { height: "100%", color: "var(--text)", backgroundColor: "var(--paper)" },
  "&.cm-focused": { outline: "none" },
  ".cm-scroller": { fontFamily: "var(--mono)", fontSize: "14px", lineHeight: "1.6" },
  ".cm-content": { padding: "12px 0", caretColor: "var(--accent)" },
  ".cm-line": { padding: "0 16px 0 8px" },
  ".cm-gutters": {
    color: "var(--faint)",
    backgroundColor: "var(--paper)",
    border: "none",
    paddingLeft: "6px",
  },
  ".cm-activeLine": { backgroundColor: "var(--line)" },
  ".cm-activeLineGutter": { color: "var(--text)", backgroundColor: "transparent" },
  ".cm-cursor": { borderLeft: "2px solid var(--accent)" },
  [`${SELECTED}, &.cm-focused > .cm-scroller > .cm-selectionLayer ${SELECTED}`]: {
    backgroundColor: "var(--selection)",
  },
  ".cm-matchingBracket, &.cm-focused .cm-matchingBracket": {
    backgroundColor: "var(--selection)",
    color: "inherit",
  },
  ".cm-ghost": { color: "var(--ghost)", fontStyle: "italic", cursor: "pointer" },
  "div.cm-ghost": { padding: "0 16px 0 8px", whiteSpace: "break-spaces" },
});

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--keyword)" },
  { tag: [tags.string, tags.special(tags.string), tags.regexp], color: "var(--string)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom, tags.self], color: "var(--number)" },
  { tag: [tags.comment, tags.meta], color: "var(--comment)" },
  { tag: tags.function(tags.variableName), color: "var(--call)" },
  { tag: tags.function(tags.propertyName), color: "var(--call)" },
  { tag: tags.function(tags.definition(tags.variableName)), color: "var(--call)" },
  { tag: [tags.className, tags.typeName, tags.namespace], color: "var(--type)" },
]);

/** How an editor looks. */
export const theme = [frame, syntaxHighlighting(colours)];

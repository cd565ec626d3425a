import { javascript } from "@codemirror/lang-javascript";
import { python } from "@codemirror/lang-python";
import { rust } from "@codemirror/lang-rust";
import { StreamLanguage, indentUnit } from "@codemirror/language";
import { cpp } from "@codemirror/legacy-modes/mode/clike";
import type { Extension } from "@codemirror/state";

const script = (options: { jsx?: boolean; typescript?: boolean }): Extension => [
  javascript(options),
  indentUnit.of("  "),
];
const four = indentUnit.of("    ");

/** Languages by the ends of files' names. */
const LANGUAGES: [RegExp, () => Extension][] = [
  [/\.pyi?$/, () => [python(), four]],
  [/\.[cm]?jsx?$/, () => script({ jsx: true })],
  [/\.[cm]?ts$/, () => script({ typescript: true })],
  [/\.tsx$/, () => script({ jsx: true, typescript: true })],
  [/\.rs$/, () => [rust(), four]],
  [/\.(c|h|cc|cpp|cxx|hh|hpp|hxx|ino|cu|cuh)$/, () => [StreamLanguage.define(cpp), four]],
];

/** The language of a file, by the end of its name. */
export function language(name: string): Extension {
  return LANGUAGES.find(([end]) => end.test(name))?.[1]() ?? four;
}

import { Compartment, EditorState, type Extension } from "@codemirror/state";
import type { EditorView } from "@codemirror/view";
import { usual } from "./editor";
import type { Cursor, Extra } from "./infill";
import { language } from "./languages";
import { Tabs } from "./tabs";

/** The part of an editor that changes with a file's name. */
const speaks = new Compartment();

/** A file that is open. */
export interface File {
  name: string;
  state: EditorState;
}

/** The open files, one of which is in the editor. */
export class Files {
  private readonly files: File[];
  private at = 0;
  private readonly tabs = new Tabs((at) => this.open(at));

  /** also: what an editor has besides the usual. left: is called before another file is shown. */
  constructor(
    private readonly view: EditorView,
    private readonly also: Extension,
    private readonly left: () => void,
    contents: Extra[],
  ) {
    this.files = contents.map(({ filename, text }) => this.made(filename, text, text.length));
    this.tabs.onAdd(() => this.add());
    this.tabs.onClose(() => this.close());
    this.tabs.onRename((name) => this.rename(name));
    this.view.setState(this.files[0]!.state);
    this.tabs.show(this.names, 0);
  }

  /** Where somebody is in the file that is in the editor. */
  cursor(state: EditorState): Cursor {
    const filename = this.files[this.at]!.name;
    return { filename, text: state.doc.toString(), place: state.selection.main.head };
  }

  /** The files that are not in the editor, as context. */
  get others(): Extra[] {
    return this.files
      .filter((_, at) => at !== this.at)
      .map(({ name, state }) => ({ filename: name, text: state.doc.toString() }));
  }

  /** Show a file, and keep what the editor has of the one before. */
  open(at: number): void {
    this.left();
    this.files[this.at]!.state = this.view.state;
    this.show(at);
  }

  private get names(): string[] {
    return this.files.map((file) => file.name);
  }

  private made(name: string, text: string, cursor: number): File {
    const extensions = [speaks.of(language(name)), this.also, usual];
    const selection = { anchor: cursor };
    return { name, state: EditorState.create({ doc: text, selection, extensions }) };
  }

  private show(at: number): void {
    this.at = at;
    this.view.setState(this.files[at]!.state);
    this.tabs.show(this.names, at);
  }

  private add(): void {
    let number = 1;
    while (this.names.includes(`file${number}.py`)) number += 1;
    this.files.push(this.made(`file${number}.py`, "", 0));
    this.open(this.files.length - 1);
    this.view.focus();
  }

  private close(): void {
    this.left();
    this.files.splice(this.at, 1);
    if (this.files.length === 0) this.files.push(this.made("file1.py", "", 0));
    this.show(Math.min(this.at, this.files.length - 1));
  }

  private rename(name: string): void {
    if (name !== "" && !this.names.includes(name)) {
      this.files[this.at]!.name = name;
      this.view.dispatch({ effects: speaks.reconfigure(language(name)) });
    }
    this.tabs.show(this.names, this.at);
  }
}

/** Where a completion ends. */
export type Mode = "line" | "block" | "free";

/** Another file, as context. */
export interface Extra {
  filename: string;
  text: string;
}

/** A request for a completion, as llama.cpp's server takes it. */
export interface Infill {
  model: string;
  input_prefix: string;
  prompt: string;
  input_suffix: string;
  input_extra: Extra[];
  n_predict: number;
  n_indent: number;
  stop: string[];
  temperature: 0;
  stream: true;
}

/** What somebody chose. */
export interface Choice {
  model: string;
  mode: Mode;
  tokens: number;
}

/** The request for what stands at a cursor. */
export function infill(text: string, cursor: number, extra: Extra[], choice: Choice): Infill {
  const start = text.lastIndexOf("\n", cursor - 1) + 1;
  const suffix = text.slice(cursor);
  const line = text.slice(start, cursor);
  return {
    model: choice.model,
    input_prefix: text.slice(0, start),
    prompt: line,
    input_suffix: suffix,
    input_extra: extra,
    n_predict: choice.tokens,
    n_indent: choice.mode === "block" ? indentation(line) : 0,
    stop: stops(choice.mode, suffix),
    temperature: 0,
    stream: true,
  };
}

/** Spaces and tabs that a line begins with. */
function indentation(line: string): number {
  return line.length - line.replace(/^[ \t]+/, "").length;
}

/** A block ends before the line that follows the cursor already. */
function stops(mode: Mode, suffix: string): string[] {
  if (mode === "line") return ["\n"];
  const next = suffix.split("\n").slice(1).find((line) => line.trim() !== "");
  return mode === "block" && next !== undefined ? [`\n${next.trimEnd()}\n`] : [];
}

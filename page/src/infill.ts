/** Where a completion ends. */
export type Mode = "line" | "block" | "free";

/** Another file, as context. */
export interface Extra {
  filename: string;
  text: string;
}

/** A request for a completion, as this server takes it. */
export interface Infill {
  model: string;
  filename: string;
  input_prefix: string;
  input_suffix: string;
  input_extra: Extra[];
  n_predict: number;
  ends: "line" | "block" | null;
  t_max_prompt_ms: number;
  temperature: 0;
  stream: true;
}

/** What somebody chose. */
export interface Choice {
  model: string;
  mode: Mode;
  tokens: number;
}

/** A file, and the cursor in it. */
export interface Cursor {
  filename: string;
  text: string;
  place: number;
}

/** The request for what stands at a cursor. */
export function infill(at: Cursor, extra: Extra[], choice: Choice): Infill {
  return {
    model: choice.model,
    filename: at.filename,
    input_prefix: at.text.slice(0, at.place),
    input_suffix: at.text.slice(at.place),
    input_extra: extra,
    n_predict: choice.tokens,
    ends: choice.mode === "free" ? null : choice.mode,
    t_max_prompt_ms: 500,
    temperature: 0,
    stream: true,
  };
}

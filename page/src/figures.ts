import type { Timings } from "./client";
import { element } from "./page";
import { Spark } from "./spark";

/** What requests took, as the page shows it. */
export class Figures {
  private readonly spark = new Spark();

  /** A request's first token came after so long. */
  first(milliseconds: number): void {
    put("first", rounded(milliseconds));
    this.spark.add(milliseconds);
  }

  /** A request ended. */
  ended(timings: Timings): void {
    const { cache_n: reused, prompt_n: computed, predicted_n: generated } = timings;
    put("each", rounded(timings.predicted_per_token_ms));
    put("reused", String(reused));
    put("computed", String(computed));
    put("generated", String(generated));
    element("share", HTMLProgressElement).value = reused / Math.max(1, reused + computed);
    const drafted = timings.draft_n ?? 0;
    element("drafts", HTMLDivElement).hidden = drafted === 0;
    put("drafted", `${drafted} / ${timings.draft_n_accepted ?? 0}`);
  }
}

function put(id: string, text: string): void {
  element(id, HTMLSpanElement).textContent = text;
}

/** Milliseconds as somebody reads them: tenths below ten. */
export function rounded(milliseconds: number): string {
  return milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0);
}

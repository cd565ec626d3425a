import { events } from "./events";
import type { Infill } from "./infill";
import { Trouble, gone, told, troubleOf } from "./trouble";

/** What a request took, in the words of the server's last event. */
export interface Timings {
  cache_n: number;
  prompt_n: number;
  predicted_n: number;
  predicted_per_token_ms: number;
  draft_n?: number;
  draft_n_accepted?: number;
}

/** A part of a completion. The last one has timings. */
export interface Part {
  content: string;
  timings?: Timings;
}

/** The server that this page is from. */
export class Client {
  key = "";

  /** The names of its models. Throws Trouble. */
  async models(): Promise<string[]> {
    const reply = await this.fetched("v1/models", {});
    const { data } = (await reply.json()) as { data: { id: string }[] };
    return data.map((model) => model.id);
  }

  /** The parts of a completion as they come; a signal ends the request. Throws Trouble. */
  async *infill(body: Infill, signal: AbortSignal): AsyncGenerator<Part> {
    const reply = await this.fetched("infill", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    for await (const event of reached(events(reply.body!))) {
      const words = told(event);
      if (words !== null) throw new Trouble(`The server says: ${words}`, reply.status);
      yield event as Part;
    }
  }

  private async fetched(path: string, options: RequestInit): Promise<Response> {
    const headers = new Headers(options.headers);
    if (this.key) headers.set("authorization", `Bearer ${this.key}`);
    const reply = await fetch(path, { ...options, headers }).catch((error: unknown) => {
      throw isAbort(error) ? error : gone();
    });
    if (!reply.ok) throw await troubleOf(reply);
    return reply;
  }
}

/** Whether an error is a request's end by its own page. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

async function* reached<T>(parts: AsyncGenerator<T>): AsyncGenerator<T> {
  try {
    yield* parts;
  } catch (error) {
    throw isAbort(error) ? error : gone();
  }
}

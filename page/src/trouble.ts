/** A request that was not answered, in words for whoever sees the page. */
export class Trouble extends Error {
  /** status: of the answer, 0 where there was none. wait: seconds to ask again after. */
  constructor(
    message: string,
    readonly status = 0,
    readonly wait = 0,
  ) {
    super(message);
  }
}

/** What a server says of an error, where an answer or an event does. */
export function told(answer: unknown): string | null {
  if (typeof answer !== "object" || answer === null || !("error" in answer)) return null;
  const error = answer.error;
  if (typeof error !== "object" || error === null || !("message" in error)) return String(error);
  return String(error.message);
}

/** The trouble that an answer is. */
export async function troubleOf(reply: Response): Promise<Trouble> {
  const words = told(await reply.json().catch(() => null)) ?? `It answered ${reply.status}.`;
  const wait = Number(reply.headers.get("retry-after") ?? 0);
  if (reply.status === 401) {
    return new Trouble("The key is missing or wrong. Enter the server's key at the top.", 401);
  }
  return new Trouble(`The server says: ${words}`, reply.status, wait);
}

/** The trouble of an answer that did not come, or broke off. */
export function gone(): Trouble {
  return new Trouble("The server cannot be reached. Is sc2onnx serve still running?");
}

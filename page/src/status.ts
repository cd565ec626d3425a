import { element } from "./page";

/** Kinds of what the page says of the server; the style sheet has a colour for each. */
export type Kind = "ready" | "busy" | "wrong";

/** Show how it stands with the server. Those who do not see it are told of what is wrong alone. */
export function say(kind: Kind, text: string): void {
  const status = element("status", HTMLParagraphElement);
  if (kind === "wrong" && status.textContent !== text) speak(text);
  status.textContent = text;
  status.dataset["kind"] = kind;
}

/** Tell those who do not see the page. */
export function speak(text: string): void {
  element("spoken", HTMLParagraphElement).textContent = text;
}

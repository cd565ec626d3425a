import { Client } from "./client";
import { Completer } from "./completer";
import { editor } from "./editor";
import { Figures } from "./figures";
import { Files } from "./files";
import { infill } from "./infill";
import { element } from "./page";
import { SAMPLE } from "./sample";
import { Settings } from "./settings";
import { say, speak } from "./status";
import { Trouble } from "./trouble";

/** Seconds after which it asks again for the models of a server that did not answer. */
const AGAIN = 2;

const client = new Client();
const figures = new Figures();
const view = editor(element("editor", HTMLDivElement));
const settings = new Settings(
  () => void connect(true),
  () => void completer.later(view),
);
const completer: Completer = new Completer(
  client,
  ({ state }) => infill(files.cursor(state), files.others, settings.choice),
  {
    asked: () => say("busy", "Completing"),
    first: (milliseconds) => figures.first(milliseconds),
    ended: (text, timings) => {
      figures.ended(timings);
      speak(text === "" ? "" : `Completion: ${text}`);
      say("ready", "Ready");
    },
    stopped: () => say("ready", "Ready"),
    failed,
  },
);
const files: Files = new Files(view, completer.extension, () => completer.cancel(), SAMPLE);
let again = 0;

/**
 * Ask for the models, and again until there is an answer.
 * moves: the focus, to where one goes on.
 */
async function connect(moves: boolean): Promise<void> {
  clearTimeout(again);
  client.key = settings.key;
  try {
    settings.offer(await client.models());
    say("ready", "Ready");
    if (moves) view.focus();
  } catch (error) {
    failed(error);
    if (moves && needsKey(error)) settings.focusKey();
  }
}

/** Say what is wrong, and look whether it has passed where it may pass by itself. */
function failed(error: unknown): void {
  say("wrong", error instanceof Error ? error.message : String(error));
  if (!(error instanceof Trouble)) throw error;
  if (needsKey(error)) settings.askKey();
  if (error.status !== 0 && error.status !== 503) return;
  clearTimeout(again);
  again = window.setTimeout(() => void connect(false), 1000 * (error.wait || AGAIN));
}

function needsKey(error: unknown): boolean {
  return error instanceof Trouble && error.status === 401;
}

if (/Mac|iPhone|iPad/.test(navigator.platform)) {
  element("modifier", HTMLSpanElement).textContent = "⌘";
}
void connect(true);

// The server as tests/clients/server.py has it, and a line of JSON for each ability.

export const { url, key, model, completion, infilling, seconds } = JSON.parse(process.argv[2]);
export const { chatting, answer } = JSON.parse(process.argv[2]); // the model that chats
export const { PROMPT, SUFFIX, TOKENS, ENDLESS } = JSON.parse(process.argv[3]); // as in server.py
export const { MOST, TOO_MANY, TOO_LONG, WAITING, MESSAGES } = JSON.parse(process.argv[3]);
const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };

/** The answer to a body in JSON, without a client. */
export async function post(path, body) {
  return (await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/** A figure of /metrics, of all engines together where there are several. */
async function metric(name) {
  const page = await (await fetch(`${url}/metrics`, { headers })).text();
  const lines = page.split("\n").filter((line) => line.split(/[ {]/)[0] === name);
  equal(lines.length > 0, true);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

/** How many engines answer: a fleet says so. */
async function engines() {
  return (await (await fetch(`${url}/health`, { headers })).json()).members?.ready ?? 1;
}

/** Whether no request is under way, and none is computed. */
async function isIdle() {
  const slots = await (await fetch(`${url}/slots`, { headers })).json();
  const computed = slots.some((slot) => slot.is_processing);
  const waiting = await metric("llamacpp:requests_deferred");
  return !computed && waiting + (await metric("llamacpp:requests_processing")) === 0;
}

async function idle(within = 1) {
  const until = performance.now() + within * 1000;
  while (performance.now() < until) if (await isIdle()) return;
  throw new Error("the server goes on with requests that were given up");
}

/** Runs what begins a stream of MOST tokens and gives it up: the server must not end it first. */
export async function givesUp(begins) {
  const before = await metric("llamacpp:tokens_predicted_total");
  await begins();
  await idle(seconds);
  equal((await metric("llamacpp:tokens_predicted_total")) - before < MOST, true);
}

/** Runs something while the server has as much to do as it takes. It is given what ends that. */
export async function whileFull(runs) {
  const held = new AbortController();
  const greedy = { model, prompt: ENDLESS, max_tokens: MOST, temperature: 0 };
  const body = JSON.stringify({ ...greedy, stream: true });
  const sent = { method: "POST", headers, body, signal: held.signal };
  for (let more = WAITING * (await engines()); more > 0; more--)
    equal((await fetch(`${url}/v1/completions`, sent)).status, 200);
  await runs(() => held.abort());
  held.abort();
  await idle();
}

/** A fetch for clients that take one: when the server refuses, it calls what makes room. */
export const makingRoom = (makesRoom) => async (...given) => {
  const response = await fetch(...given);
  if (response.status === 429) makesRoom();
  return response;
};

export function equal(found, expected) {
  const [left, right] = [found, expected].map((value) => JSON.stringify(value));
  if (left !== right) throw new Error(`it is ${left}, expected ${right}`);
}

/** The error that something fails with, which must tell of `words`. */
export async function fails(promise, words) {
  const error = await Promise.resolve(promise).then(
    (value) => new Error(`no error: it gave ${JSON.stringify(value)}`),
    (error) => error,
  );
  if (String(error.message).includes(words)) return error;
  throw new Error(`it told of "${error.message}", expected "${words}"`);
}

/** Checks abilities one after the other. */
export async function tell(checks) {
  for (const [ability, check] of Object.entries(checks)) {
    const why = await check().then(() => null, (error) => error.stack);
    console.log(JSON.stringify({ ability, why }));
  }
  process.exit(0);
}

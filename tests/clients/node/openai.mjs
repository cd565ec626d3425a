// OpenAI's SDK for Node.js.
import OpenAI from "openai";

import * as server from "./server.mjs";
import { ENDLESS, MOST, PROMPT, SUFFIX, TOKENS, TOO_MANY, equal, fails, model } from "./server.mjs";

const usual = { baseURL: `${server.url}/v1`, apiKey: server.key, maxRetries: 0 };
const greedy = { model, prompt: PROMPT, max_tokens: TOKENS, temperature: 0 };
const opened = (options) => new OpenAI({ ...usual, ...options });
const client = opened();
const asked = (body, on = client) => on.completions.create({ ...greedy, ...body });
const named = async (promise, words) => (await fails(promise, words)).constructor.name;

await server.tell({
  async completes() {
    equal((await client.models.list()).data[0].id, model);
    const done = await asked({ n: 2 });
    equal(done.choices.map((choice) => choice.text), [server.completion, server.completion]);
    equal(done.usage.completion_tokens, 2 * TOKENS);
  },
  async infills() {
    equal((await asked({ prompt: PROMPT, suffix: SUFFIX })).choices[0].text, server.infilling);
  },
  async streams() {
    const events = [];
    const stream = await asked({ stream: true, stream_options: { include_usage: true } });
    for await (const event of stream) events.push(event);
    const texts = events.flatMap((event) => event.choices).map((choice) => choice.text);
    equal(texts.join(""), server.completion);
    equal(texts.length > 2, true);
    equal(events.at(-1).usage.completion_tokens, TOKENS);
  },
  async chats() {
    const body = { model: server.chatting, messages: server.MESSAGES, temperature: 0 };
    const given = { ...body, max_completion_tokens: TOKENS };
    const done = await client.chat.completions.create(given);
    equal(done.choices[0].message.content, server.answer);
    const texts = [];
    for await (const event of await client.chat.completions.create({ ...given, stream: true }))
      texts.push(event.choices[0].delta.content ?? "");
    equal(texts.join(""), server.answer);
  },
  async cancels() {
    await server.givesUp(async () => {
      for await (const _ of await asked({ prompt: ENDLESS, max_tokens: MOST, stream: true })) break;
    });
  },
  async errors() {
    const stranger = opened({ apiKey: "another-key" });
    equal(await named(asked({}, stranger), "key is missing"), "AuthenticationError");
    const long = asked({ max_tokens: TOO_MANY });
    equal(await named(long, `max_tokens is ${TOO_MANY}`), "BadRequestError");
    equal(await named(asked({ model: "absent" }), "no model of that name"), "NotFoundError");
    const messages = [{ role: "user", content: "hi" }];
    const chat = client.chat.completions.create({ model, messages });
    equal((await fails(chat, "does not chat")).status, 501);
    await server.whileFull(async () => {
      equal(await named(asked({}), "as much to do"), "RateLimitError");
    });
    await server.whileFull(async (makesRoom) => {
      let refusals = 0;
      const fetch = server.makingRoom(() => { refusals += 1; makesRoom(); });
      equal((await asked({}, opened({ maxRetries: 2, fetch }))).choices[0].text, server.completion);
      equal(refusals, 1);
    });
  },
});

// Ollama's client for Node.js.
import { Ollama } from "ollama";

import * as server from "./server.mjs";
import { ENDLESS, MOST, PROMPT, SUFFIX, TOKENS, TOO_LONG, equal, fails, model } from "./server.mjs";

const opened = (key) =>
  new Ollama({ host: server.url, headers: { authorization: `Bearer ${key}` } });
const client = opened(server.key);
const options = { temperature: 0, num_predict: TOKENS };
const asked = (body, on = client) => on.generate({ model, prompt: PROMPT, options, ...body });

await server.tell({
  async completes() {
    equal((await client.list()).models[0].model, model);
    const done = await asked({});
    equal([done.response, done.done_reason], [server.completion, "length"]);
    equal(done.eval_count, TOKENS);
  },
  async infills() {
    equal((await client.show({ model })).template.includes(".Suffix"), true);
    equal((await asked({ prompt: PROMPT, suffix: SUFFIX })).response, server.infilling);
  },
  async streams() {
    const parts = [];
    for await (const part of await asked({ stream: true })) parts.push(part);
    equal(parts.map((part) => part.response).join(""), server.completion);
    equal(parts.length > 2, true);
    equal(parts.at(-1).done, true);
  },
  async chats() {
    const given = { model: server.chatting, messages: server.MESSAGES, options };
    const done = await client.chat(given);
    equal([done.message.content, done.done_reason], [server.answer, "length"]);
    const texts = [];
    for await (const part of await client.chat({ ...given, stream: true }))
      texts.push(part.message.content);
    equal(texts.join(""), server.answer);
  },
  async cancels() {
    await server.givesUp(async () => {
      const long = { ...options, num_predict: MOST };
      const stream = await asked({ prompt: ENDLESS, stream: true, options: long });
      await stream[Symbol.asyncIterator]().next();
      stream.abort();
    });
  },
  async errors() {
    equal((await fails(asked({}, opened("another-key")), "key is missing")).status_code, 401);
    equal((await fails(asked({ prompt: TOO_LONG }), "tokens")).status_code, 400);
    equal((await fails(asked({ model: "absent" }), "no model of that name")).status_code, 404);
    const chat = client.chat({ model, messages: [{ role: "user", content: "hi" }] });
    equal((await fails(chat, "does not chat")).status_code, 501);
    await server.whileFull(async () => {
      equal((await fails(asked({}), "as much to do")).status_code, 429);
    });
  },
});

// Continue's adapters: its own requests to fill in the middle, and the prompt spelt out in special
// tokens, as its editors send it to providers that have none.
import { constructLlmApi } from "@continuedev/openai-adapters";

import * as server from "./server.mjs";
import { ENDLESS, MOST, PROMPT, SUFFIX, TOKENS, TOO_MANY, equal, fails, model } from "./server.mjs";

const PROVIDERS = ["openai", "llama.cpp", "mistral"];
// By its template for models whose name contains "starcoder".
const SPELT = `<fim_prefix>${PROMPT}<fim_suffix>${SUFFIX}<fim_middle>`;
const apiBase = `${server.url}/v1/`;
const opened = (provider, apiKey = server.key) => constructLlmApi({ provider, apiBase, apiKey });
const body = (given) => ({ model, prompt: PROMPT, max_tokens: TOKENS, temperature: 0, ...given });
const still = () => new AbortController().signal;

async function whole(stream) {
  const texts = [];
  for await (const { choices } of stream) // that with the usage has none
    for (const choice of choices) texts.push(choice.text ?? choice.delta.content ?? "");
  return texts;
}

await server.tell({
  async completes() {
    for (const provider of PROVIDERS) {
      const done = await opened(provider).completionNonStream(body(), still());
      equal(done.choices[0].text, server.completion);
    }
    equal((await opened("openai").list())[0].id, model);
  },
  async infills() {
    const given = { prompt: PROMPT, suffix: SUFFIX, stream: true };
    for (const provider of [...PROVIDERS, "llamastack"]) {
      const texts = await whole(opened(provider).fimStream(body(given), still()));
      equal(texts.join(""), server.infilling);
    }
    const spelt = await opened("openai").completionNonStream(body({ prompt: SPELT }), still());
    equal(spelt.choices[0].text, server.infilling); // taken apart, suffix first
  },
  async streams() {
    for (const provider of PROVIDERS) {
      const texts = await whole(opened(provider).completionStream(body({ stream: true }), still()));
      equal(texts.join(""), server.completion);
      equal(texts.length > 2, true);
    }
  },
  async chats() {
    const given = { model: server.chatting, messages: server.MESSAGES, max_tokens: TOKENS };
    for (const provider of ["openai", "llama.cpp"]) {
      const body = { ...given, temperature: 0 };
      const done = await opened(provider).chatCompletionNonStream(body, still());
      equal(done.choices[0].message.content, server.answer);
      const streamed = { ...body, stream: true };
      const texts = await whole(opened(provider).chatCompletionStream(streamed, still()));
      equal(texts.join(""), server.answer);
    }
  },
  async cancels() {
    const given = { prompt: ENDLESS, max_tokens: MOST, stream: true };
    for (const [begins, suffix] of [["completionStream"], ["fimStream", SUFFIX]]) {
      await server.givesUp(async () => {
        const typed = new AbortController();
        const stream = opened("openai")[begins](body({ ...given, suffix }), typed.signal);
        await stream.next();
        typed.abort();
        await stream.next().catch(() => {});
      });
    }
  },
  async errors() {
    const asked = (given, api = opened("openai")) => api.completionNonStream(body(given), still());
    equal((await fails(asked({}, opened("openai", "another-key")), "key is missing")).status, 401);
    equal((await fails(asked({ max_tokens: TOO_MANY }), `max_tokens is ${TOO_MANY}`)).status, 400);
    equal((await fails(asked({ model: "absent" }), "no model of that name")).status, 404);
    const stream = opened("mistral", "another-key").fimStream(body({ suffix: SUFFIX }), still());
    await fails(stream.next(), "key is missing");
    const messages = [{ role: "user", content: "hi" }];
    const chat = opened("openai").chatCompletionNonStream({ model, messages }, still());
    await fails(chat, "does not chat");
    await server.whileFull(async (makesRoom) => {
      const coming = asked({}); // its client comes again when it is told to
      setTimeout(makesRoom, 500);
      equal((await coming).choices[0].text, server.completion);
    });
  },
});

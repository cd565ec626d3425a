// Vercel's AI SDK, by its provider for servers that are compatible with OpenAI's.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

import * as server from "./server.mjs";
import { ENDLESS, MOST, PROMPT, TOKENS, TOO_MANY, equal, fails, model } from "./server.mjs";

const usual = { name: "sc2onnx", baseURL: `${server.url}/v1`, includeUsage: true };
const provider = (apiKey = server.key) => createOpenAICompatible({ ...usual, apiKey });
const opened = (name = model, apiKey) => provider(apiKey).completionModel(name);
const asked = (text = PROMPT, options = {}) => ({
  prompt: [{ role: "user", content: [{ type: "text", text }] }],
  maxOutputTokens: TOKENS,
  temperature: 0,
  ...options,
});

/** What the server answers without the client, which makes a dialogue of its prompt. */
async function expected(body) {
  const plain = { model, prompt: body.prompt, stop: body.stop, max_tokens: TOKENS, temperature: 0 };
  equal(body.prompt.includes(PROMPT.trimEnd()), true);
  return (await server.post("/v1/completions", plain)).choices[0].text;
}

await server.tell({
  async completes() {
    const done = await opened().doGenerate(asked());
    equal(done.content[0].text, await expected(done.request.body));
    equal(done.usage.outputTokens.total > 0, true);
  },
  async streams() {
    const { stream, request } = await opened().doStream(asked());
    const parts = [];
    for await (const part of stream) parts.push(part);
    const texts = parts.filter((part) => part.type === "text-delta").map((part) => part.delta);
    equal(texts.join(""), await expected(request.body));
    equal(texts.length > 2, true);
    equal(parts.at(-1).usage.outputTokens.total > 0, true);
  },
  async chats() {
    const [system, user] = server.MESSAGES;
    const parts = [{ type: "text", text: user.content }];
    const prompt = [system, { role: "user", content: parts }];
    const given = { prompt, maxOutputTokens: TOKENS, temperature: 0 };
    const done = await provider().chatModel(server.chatting).doGenerate(given);
    equal(done.content[0].text, server.answer);
    equal(done.usage.outputTokens.total, TOKENS);
    const { stream } = await provider().chatModel(server.chatting).doStream(given);
    const texts = [];
    for await (const part of stream) if (part.type === "text-delta") texts.push(part.delta);
    equal(texts.join(""), server.answer);
  },
  async cancels() {
    await server.givesUp(async () => {
      const given = new AbortController();
      const long = { maxOutputTokens: MOST, abortSignal: given.signal };
      const { stream } = await opened().doStream(asked(ENDLESS, long));
      await stream.getReader().read();
      given.abort();
    });
  },
  async errors() {
    const refusal = async (on, words, options) =>
      (await fails(on.doGenerate(asked(PROMPT, options)), words)).statusCode;
    const long = { maxOutputTokens: TOO_MANY };
    equal(await refusal(opened(model, "another-key"), "key is missing"), 401);
    equal(await refusal(opened(), `max_tokens is ${TOO_MANY}`, long), 400);
    equal(await refusal(opened("absent"), "no model of that name"), 404);
    equal(await refusal(provider().chatModel(model), "does not chat"), 501);
    await server.whileFull(async () => {
      const refused = await fails(opened().doGenerate(asked()), "as much to do");
      equal([refused.statusCode, refused.isRetryable], [429, true]);
      equal(refused.responseHeaders["retry-after"], "1");
    });
  },
});

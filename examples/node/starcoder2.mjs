// A StarCoder2 bundle of sc2onnx, driven from JavaScript: the ring of key and value slots
// (docs/bundle.md), greedy tokens, text.
//
// onnxruntime is passed in, so that the same file runs over onnxruntime-node and onnxruntime-web.

const CHUNK = 256; // tokens of a prompt computed at once
const FIRST = 512; // slots of a fresh cache, where the window is larger

export class BundleError extends Error {}

/** What the manifest says, as far as driving the graph needs it. */
export function factsOf(manifest) {
  const { kind, dtype } = manifest.cache ?? {};
  if (kind !== 'ring-transposed-values' || dtype !== 'float32') {
    throw new BundleError(
      `the bundle has a cache of kind ${kind} in ${dtype}, expected a ring in float32: ` +
        'export it with --target cpu or portable',
    );
  }
  if (manifest.stages?.length)
    throw new BundleError(
      'the bundle is in stages, expected one graph: export it without --stages',
    );
  const {
    num_layers,
    num_kv_heads,
    head_dim,
    context_length,
    sliding_window,
    vocab_size,
    eos_token_ids,
  } = manifest.model;
  const window = Math.min(sliding_window ?? context_length, context_length);
  return {
    layers: num_layers,
    heads: num_kv_heads,
    size: head_dim,
    context: context_length,
    window,
    vocab: vocab_size,
    eos: new Set(eos_token_ids),
  };
}

/**
 * Options of a session: the precision of products where they are written with standard operators.
 */
export const sessionOptions = {
  extra: { session: { qdq_matmulnbits_accuracy_level: '4' } },
  logSeverityLevel: 3,
};

/**
 * Tokens and their cache. Position p lies in slot p mod capacity, so dropping the
 * latest tokens copies nothing.
 */
export class Sequence {
  /**
   * `inPlace`: outputs may be given the memory of inputs, which onnxruntime-node takes and
   * onnxruntime-web does not.
   */
  constructor(ort, session, facts, { inPlace = false } = {}) {
    Object.assign(this, { ort, session, facts, inPlace });
    // room for a chunk, and to rewind as much
    this.full = Math.min(facts.window + 2 * CHUNK - 1, facts.context);
    this.clear();
  }

  clear() {
    this.tokens = [];
    this.written = 0; // one past the highest position that was ever written
    this.capacity = Math.min(FIRST, this.full);
    this.cache = this.#made(this.capacity);
  }

  /** Keys are rows (1, heads, capacity, size), values are columns (1, heads, size, capacity). */
  #made(capacity) {
    const { layers, heads, size } = this.facts;
    const cache = {};
    for (let layer = 0; layer < layers; layer++) {
      const make = (dims) =>
        new this.ort.Tensor('float32', new Float32Array(heads * size * capacity), dims);
      cache[`past_key_values.${layer}.key`] = make([1, heads, capacity, size]);
      cache[`past_key_values.${layer}.value`] = make([1, heads, size, capacity]);
    }
    return cache;
  }

  /** A larger cache: as long as nothing has wrapped, a slot keeps its number. */
  #grow(slots) {
    const capacity = Math.min(Math.max(slots, 2 * this.capacity), this.full);
    const made = this.#made(capacity);
    for (const [name, { data: to, dims }] of Object.entries(made)) {
      const { data: from } = this.cache[name];
      const keys = name.endsWith('.key');
      const [rows, before, after] = keys
        ? [dims[1], this.capacity * dims[3], capacity * dims[3]] // of a head
        : [dims[1] * dims[2], this.capacity, capacity]; // of a channel
      for (let row = 0; row < rows; row++)
        to.set(from.subarray(row * before, (row + 1) * before), row * after);
    }
    [this.cache, this.capacity] = [made, capacity];
  }

  /** Whether a step of so many tokens after `length` shows every one of them exactly its window. */
  #exact(length, step) {
    const oldest = Math.max(0, length - this.facts.window + 1);
    return oldest + this.capacity >= Math.max(this.written, length + step);
  }

  /**
   * Drop what is not the beginning of `tokens`, and say how many are there. All goes where
   * the slots were written over.
   */
  keep(tokens) {
    let same = 0;
    while (same < this.tokens.length && same < tokens.length && this.tokens[same] === tokens[same])
      same++;
    if (this.#exact(same, 1)) this.tokens.length = same;
    else this.clear();
    return this.tokens.length;
  }

  /** Compute these tokens; logits (vocab) of the last one. */
  async append(tokens, signal) {
    const { context, vocab } = this.facts;
    if (this.tokens.length + tokens.length > context)
      throw new RangeError(
        `${this.tokens.length + tokens.length} tokens, the context has ${context}`,
      );
    const wrong = tokens.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocab));
    if (wrong !== undefined) throw new RangeError(`token id ${wrong}, expected 0 to ${vocab - 1}`);
    let logits;
    for (let first = 0; first < tokens.length;) {
      signal?.throwIfAborted();
      let step = Math.min(CHUNK, tokens.length - first);
      const length = this.tokens.length;
      if (length + step > this.capacity && this.capacity < this.full) this.#grow(length + step);
      while (step > 1 && !this.#exact(length, step)) step--;
      logits = await this.#step(tokens.slice(first, first + step));
      first += step;
    }
    return logits;
  }

  async #step(tokens) {
    const { Tensor } = this.ort;
    const ids = new Tensor('int64', BigInt64Array.from(tokens, BigInt), [1, tokens.length]);
    const past = new Tensor('int64', BigInt64Array.of(BigInt(this.tokens.length)), [1]);
    const feeds = { input_ids: ids, past_lengths: past, ...this.cache };
    const outputs = { logits: null };
    for (const name of Object.keys(this.cache))
      outputs[present(name)] = this.inPlace ? this.cache[name] : null;
    const results = await this.session.run(feeds, outputs);
    for (const name of Object.keys(this.cache)) this.cache[name] = results[present(name)];
    this.tokens.push(...tokens);
    this.written = Math.max(this.written, this.tokens.length);
    return results.logits.data;
  }
}

const present = (name) => name.replace('past_key_values', 'present');

/** The most likely token. Throws where logits are not numbers. */
export function greedy(logits) {
  let best = 0;
  for (let id = 0; id < logits.length; id++) {
    if (!Number.isFinite(logits[id]))
      throw new Error('logits are not numbers: the weights are damaged');
    if (logits[id] > logits[best]) best = id;
  }
  return best;
}

/**
 * Greedy tokens after `prompt` as they come; what the sequence already has of
 * it is not computed again.
 */
export async function* generate(
  sequence,
  prompt,
  { maxNewTokens = 64, ignoreEos = false, signal } = {},
) {
  if (prompt.length === 0) throw new RangeError('the prompt is empty, expected a token at least');
  let rest = prompt.slice(Math.min(sequence.keep(prompt), prompt.length - 1));
  sequence.keep(prompt.slice(0, prompt.length - rest.length));
  if (sequence.tokens.length === 0) rest = prompt;
  for (
    let made = 0;
    made < maxNewTokens && sequence.tokens.length + rest.length <= sequence.facts.context;
    made++
  ) {
    const token = greedy(await sequence.append(rest, signal));
    if (!ignoreEos && sequence.facts.eos.has(token)) return;
    yield token;
    rest = [token];
  }
}

/** The tokenizer of a bundle as text needs it. `tokenizer`: of @huggingface/tokenizers. */
export class Text {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
  }

  encode(text) {
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /**
   * Tokens after which the model writes what stands between the two, in
   * StarCoder2's training format.
   */
  infill(prefix, suffix) {
    const special = (name) => {
      const id = this.tokenizer.token_to_id(name);
      if (id === undefined)
        throw new BundleError(`the tokenizer has no ${name}, which infilling needs`);
      return id;
    };
    const before = [special('<file_sep>'), special('<fim_prefix>'), ...this.encode(prefix)];
    return [...before, special('<fim_suffix>'), ...this.encode(suffix), special('<fim_middle>')];
  }

  /** Pieces of text from tokens; half a character waits for its other half. */
  async *stream(tokens) {
    const seen = [];
    let shown = 0;
    for await (const token of tokens) {
      seen.push(token);
      const text = this.tokenizer.decode(seen, {
        skip_special_tokens: true,
        clean_up_tokenization_spaces: false,
      });
      if (text.endsWith('\ufffd')) continue;
      if (text.length > shown) yield text.slice(shown);
      shown = text.length;
    }
  }
}

#!/usr/bin/env node
// Completes and infills code with a bundle of sc2onnx: node complete.mjs BUNDLE "def fib(n):"
import { access, readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import './telemetry.mjs'; // before the next ones
import { Tokenizer } from '@huggingface/tokenizers';
import ort from 'onnxruntime-node';

import { BundleError, Sequence, Text, factsOf, generate, sessionOptions } from './starcoder2.mjs';

const USAGE = `usage: node complete.mjs BUNDLE [PROMPT] [--suffix CODE] [--ids 1,2,3]
       [--max-new-tokens N] [--threads N] [--ignore-eos] [--json]

PROMPT may be - for standard input. With --suffix, what stands between the two is written.`;

const options = {
  suffix: { type: 'string' },
  ids: { type: 'string' },
  'max-new-tokens': { type: 'string', default: '64' },
  threads: { type: 'string', default: String(availableParallelism()) },
  'ignore-eos': { type: 'boolean', default: false },
  json: { type: 'boolean', default: false },
};

async function json(bundle, name) {
  try {
    return JSON.parse(await readFile(path.join(bundle, name), 'utf8'));
  } catch (error) {
    throw new BundleError(
      `${bundle} is not a bundle (${name}: ${error.message}): ` +
        'make one with `sc2onnx export CHECKPOINT OUT`',
    );
  }
}

async function open(bundle, threads) {
  const facts = factsOf(await json(bundle, 'sc2onnx.json'));
  await access(path.join(bundle, 'model.onnx'));
  const how = { ...sessionOptions, intraOpNumThreads: threads, interOpNumThreads: 1 };
  return new Sequence(
    ort,
    await ort.InferenceSession.create(path.join(bundle, 'model.onnx'), how),
    facts,
    { inPlace: true },
  );
}

async function prompted(bundle, prompt, values) {
  if (values.ids !== undefined) return [values.ids.split(',').map(Number), null];
  const text = new Text(
    new Tokenizer(
      await json(bundle, 'tokenizer.json'),
      await json(bundle, 'tokenizer_config.json').catch(() => ({})),
    ),
  );
  const code = prompt === '-' ? await readFile('/dev/stdin', 'utf8') : prompt;
  return [values.suffix === undefined ? text.encode(code) : text.infill(code, values.suffix), text];
}

/** The same tokens; notes when they came. */
async function* timed(tokens, times) {
  for await (const token of tokens) {
    times.push(performance.now());
    yield token;
  }
}

const median = (numbers) => numbers.sort((a, b) => a - b)[numbers.length >> 1];

async function main() {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  const [bundle, prompt] = positionals;
  if (!bundle || (prompt === undefined && values.ids === undefined)) throw new BundleError(USAGE);
  const sequence = await open(bundle, Number(values.threads));
  const [ids, text] = await prompted(bundle, prompt, values);
  const times = [];
  const all = [];
  const tokens = timed(
    generate(sequence, ids, {
      maxNewTokens: Number(values['max-new-tokens']),
      ignoreEos: values['ignore-eos'],
    }),
    times,
  );
  const kept = (async function* () {
    for await (const token of tokens) {
      all.push(token);
      yield token;
    }
  })();
  let written = '';
  for await (const piece of text ? text.stream(kept) : kept) {
    written += text ? piece : '';
    if (!values.json) process.stdout.write(text ? piece : `${piece} `);
  }
  if (!values.json) return process.stdout.write('\n');
  const steps = times.slice(1).map((time, index) => (time - times[index]) / 1000);
  const { version } = JSON.parse(
    await readFile(new URL('node_modules/onnxruntime-node/package.json', import.meta.url), 'utf8'),
  );
  console.log(
    JSON.stringify({
      tokens: all,
      text: written,
      seconds_per_token: median(steps),
      runtime: 'onnxruntime-node',
      version,
    }),
  );
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 2;
});

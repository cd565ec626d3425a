// Loads a bundle from this origin: WebGPU where there is one and it works, else WebAssembly.
import { Tokenizer } from '@huggingface/tokenizers';

import { BundleError, Sequence, Text, factsOf, sessionOptions } from './starcoder2.mjs';

const DATA = 'model.onnx.data';

async function get(url) {
  const response = await fetch(url);
  if (!response.ok)
    throw new BundleError(
      `${url}: ${response.status} ${response.statusText}, expected a bundle's file: ` +
        'start serve.mjs with a bundle',
    );
  return response;
}

/** The bytes at a URL; `tell` is told of the share that has come. */
async function download(url, size, tell) {
  const bytes = new Uint8Array(size);
  let received = 0;
  for await (const part of chunks((await get(url)).body.getReader())) {
    bytes.set(part, received);
    received += part.length;
    tell(received / size);
  }
  return bytes;
}

async function* chunks(reader) {
  for (let part; !(part = await reader.read()).done;) yield part.value;
}

/** Execution providers to try, each with the build of onnxruntime-web that has it. */
async function* backends() {
  if (await navigator.gpu?.requestAdapter().catch(() => null))
    yield ['webgpu', await import('onnxruntime-web/webgpu')];
  yield ['wasm', await import('onnxruntime-web/wasm')];
}

export async function load(url, tell) {
  const manifest = await (await get(`${url}/sc2onnx.json`)).json();
  const facts = factsOf(manifest);
  const text = await (
    await get(`${url}/tokenizer.json`)
  )
    .json()
    .then((json) => new Text(new Tokenizer(json, {})));
  const graph = new Uint8Array(await (await get(`${url}/model.onnx`)).arrayBuffer());
  const data = await download(`${url}/${DATA}`, manifest.files[DATA].size, tell);
  let reason;
  for await (const [backend, ort] of backends()) {
    try {
      ort.env.wasm.wasmPaths = new URL(
        './node_modules/onnxruntime-web/dist/',
        import.meta.url,
      ).href;
      const how = {
        ...sessionOptions,
        executionProviders: [backend],
        externalData: [{ path: DATA, data }],
      };
      const sequence = new Sequence(ort, await ort.InferenceSession.create(graph, how), facts);
      await sequence.append([0]); // a provider that lacks a kernel says so only now
      sequence.clear();
      return { sequence, text, facts, manifest, backend, version: ort.env.versions.web };
    } catch (error) {
      reason = error;
      console.warn(`${backend} does not run the bundle:`, error);
    }
  }
  throw reason;
}

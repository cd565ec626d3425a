// The page: an editor that asks for a suggestion when typing pauses, and shows it as it is written.
import { generate } from './starcoder2.mjs';
import { load } from './model.mjs';

const PAUSE = 150; // milliseconds without a key before a suggestion is asked for
const $ = (id) => document.getElementById(id);
const code = $('code');
let model, timer, running;
let working = Promise.resolve(); // one request at a time: they share the cache

const state = (name) => (document.body.dataset.state = name);

function show(suggestion = '') {
  const cursor = code.selectionEnd;
  $('before').textContent = code.value.slice(0, cursor);
  $('suggestion').textContent = suggestion;
  $('after').textContent = code.value.slice(cursor);
}

/**
 * Tokens to go on from: what is before the cursor, or what is around it where code follows. The end
 * of them, if they are too many.
 */
function prompt(most) {
  const [before, after] = [
    code.value.slice(0, code.selectionEnd),
    code.value.slice(code.selectionEnd),
  ];
  const room = model.facts.context - most;
  if (!after.trim()) return model.text.encode(before).slice(-room);
  for (let near = Infinity; ; near = Math.floor(Math.min(near, before.length + after.length) / 2)) {
    const ids = model.text.infill(before.slice(-near), after.slice(0, near));
    if (ids.length <= room) return ids;
  }
}

/** Lets the page draw, and the next key in. */
function breathe() {
  const { port1, port2 } = new MessageChannel();
  return new Promise((done) => {
    port1.onmessage = done;
    port2.postMessage(null);
  }).finally(() => port1.close());
}

async function suggest(signal) {
  const most = Number($('most').value) || 48;
  const ids = prompt(most);
  if (!ids.length) return state('idle');
  const began = performance.now();
  let first,
    count = 0,
    suggestion = '';
  const counted = async function* () {
    for await (const token of generate(model.sequence, ids, { maxNewTokens: most, signal })) {
      first ??= performance.now();
      count++;
      yield token;
    }
  };
  for await (const piece of model.text.stream(counted())) {
    if (signal.aborted) return;
    show((suggestion += piece));
    const seconds = (performance.now() - first) / 1000;
    $('speed').textContent =
      `first token ${Math.round(first - began)} ms` +
      (count > 1 ? `, ${Math.round((count - 1) / seconds)} tokens/s` : '');
    await breathe();
  }
  state('idle');
}

function later() {
  clearTimeout(timer);
  running?.abort();
  show();
  state('waiting');
  timer = setTimeout(() => {
    const { signal } = (running = new AbortController());
    working = working
      .then(() => (signal.aborted ? null : suggest(signal)))
      .catch((error) => signal.aborted || fail(error));
  }, PAUSE);
}

function drop() {
  clearTimeout(timer);
  running?.abort();
  show();
  state('idle');
}

code.addEventListener('input', later);
for (const moved of ['click', 'blur']) code.addEventListener(moved, drop);
code.addEventListener('keydown', (event) => {
  const suggestion = $('suggestion').textContent;
  if (event.key === 'Tab' && !event.shiftKey && suggestion) {
    event.preventDefault();
    drop();
    code.setRangeText(suggestion, code.selectionStart, code.selectionEnd, 'end');
    later();
  } else if (event.key === 'Escape' || event.key.startsWith('Arrow')) {
    setTimeout(drop); // after the cursor has moved
  }
});

function fail(error) {
  state('error');
  $('status').textContent = error.message ?? String(error);
  $('status').className = 'error';
}

try {
  model = await load(
    new URL('bundle', import.meta.url).href,
    (share) => ($('progress').value = share),
  );
  const { backend, manifest, version } = model;
  const name = manifest.provenance.source.split('/').pop();
  $('status').textContent =
    `${name}, ${manifest.precision}, on ${backend === 'wasm' ? 'WebAssembly' : 'WebGPU'}, ` +
    `onnxruntime-web ${version}`;
  $('progress').hidden = true;
  code.disabled = false;
  code.focus();
  show();
  state('idle');
  globalThis.starcoder2 = { ...model, generate }; // for the console, and for check.mjs
} catch (error) {
  fail(error);
}

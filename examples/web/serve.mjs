#!/usr/bin/env node
// Serves the page and a bundle from one origin: node serve.mjs BUNDLE [PORT]. Any web server does
// that sends these two headers, without which browsers give WebAssembly no threads.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const TYPES = {
  '.html': 'text/html',
  '.mjs': 'text/javascript',
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
};
const HEADERS = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cache-Control': 'no-cache',
};

/** The file of a URL, or null: only what is in the page's folder or the bundle. */
function fileOf(url, bundle) {
  const name =
    decodeURIComponent(new URL(url, 'http://localhost').pathname).replace(/^\/+/, '') ||
    'index.html';
  const [root, rest] = name.startsWith('bundle/')
    ? [bundle, name.slice('bundle/'.length)]
    : [HERE, name];
  const file = path.resolve(root, rest);
  return file.startsWith(path.resolve(root) + path.sep) ? file : null;
}

export function serve(bundle, port = 0) {
  const server = createServer(async (request, response) => {
    try {
      const file = fileOf(request.url, bundle);
      const found = file && (await stat(file));
      if (!found?.isFile()) throw new Error('no such file');
      const type = TYPES[path.extname(file)] ?? 'application/octet-stream';
      response.writeHead(200, { ...HEADERS, 'Content-Type': type, 'Content-Length': found.size });
      createReadStream(file).pipe(response);
    } catch {
      response.writeHead(404, HEADERS).end('not found\n');
    }
  });
  return new Promise((ready, failed) => {
    server.once('error', failed);
    server.listen(port, '127.0.0.1', () => ready(server));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [bundle, port] = process.argv.slice(2);
  const found = bundle && (await stat(path.join(bundle, 'sc2onnx.json')).catch(() => null));
  if (!found) {
    console.error(
      'usage: node serve.mjs BUNDLE [PORT]' +
        (bundle ? ` (${bundle} is not a bundle: it has no sc2onnx.json)` : ''),
    );
    process.exit(2);
  }
  const server = await serve(bundle, Number(port ?? 8000));
  console.log(`http://127.0.0.1:${server.address().port}/`);
}

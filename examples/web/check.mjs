#!/usr/bin/env node
// Drives the page in a headless Chromium, as its test and as a benchmark.
//   node check.mjs BUNDLE --ids 1,2,3 [--max-new-tokens N] --json
//     greedy tokens of the page's model
//   node check.mjs BUNDLE --type CODE [--then CODE] [--screenshot F]
//     types, waits for the suggestion, takes it; --then: code behind the cursor
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { chromium } from 'playwright-core';

import { serve } from './serve.mjs';

const text = { type: 'string' };
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    ids: text,
    type: text,
    then: text,
    screenshot: text,
    'max-new-tokens': { ...text, default: '64' },
    json: { type: 'boolean' },
    threads: text,
    'ignore-eos': { type: 'boolean' },
  },
});

/** Greedy tokens in the page, and seconds per token. */
async function decode({ ids, most }) {
  const { sequence, generate, version } = globalThis.starcoder2;
  const tokens = [],
    times = [];
  for await (const token of generate(sequence, ids, { maxNewTokens: most, ignoreEos: true })) {
    tokens.push(token);
    times.push(performance.now());
  }
  const steps = times
    .slice(1)
    .map((time, index) => (time - times[index]) / 1000)
    .sort((a, b) => a - b);
  return {
    tokens,
    seconds_per_token: steps[steps.length >> 1],
    runtime: `onnxruntime-web (${globalThis.starcoder2.backend})`,
    version,
  };
}

async function typed(page) {
  const suggested = async () => {
    await page.waitForFunction(
      () =>
        document.body.dataset.state === 'idle' && document.getElementById('suggestion').textContent,
      null,
      { timeout: 60000 },
    );
    return page.locator('#suggestion').textContent();
  };
  await page.fill('#most', values['max-new-tokens']);
  await page.locator('#code').focus();
  if (values.then !== undefined) {
    await page.evaluate((then) => {
      const code = document.getElementById('code');
      code.value = then;
      code.setSelectionRange(0, 0);
    }, values.then);
  }
  await page.keyboard.type(values.type);
  const suggestion = await suggested();
  if (values.screenshot) await page.screenshot({ path: values.screenshot });
  const speed = await page.locator('#speed').textContent();
  await page.keyboard.press('Tab');
  const taken = await page.locator('#code').inputValue();
  await suggested();
  await page.keyboard.press('Escape');
  await page.waitForFunction(() => !document.getElementById('suggestion').textContent);
  return { suggestion, taken, speed, status: await page.locator('#status').textContent() };
}

const executablePath =
  process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/google-chrome'].find(existsSync);
const server = await serve(positionals[0]);
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
try {
  const page = await browser.newPage({ viewport: { width: 1000, height: 640 } });
  const problems = [];
  page.on('pageerror', (error) => problems.push(error.message));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.waitForFunction(() => document.body.dataset.state !== 'loading', null, {
    timeout: 120000,
  });
  if ((await page.locator('body').getAttribute('data-state')) === 'error')
    throw new Error(await page.locator('#status').textContent());
  const most = Number(values['max-new-tokens']);
  const found = values.ids
    ? await page.evaluate(decode, { ids: values.ids.split(',').map(Number), most })
    : await typed(page);
  if (problems.length) throw new Error(problems.join('; '));
  console.log(JSON.stringify(found));
} catch (error) {
  console.error(error.message);
  process.exitCode = 2;
} finally {
  await browser.close();
  server.close();
}

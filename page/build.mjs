// Builds the page into the folder that is given: one script, one style sheet, and the licences
// of what is in the script. The same sources give the same bytes.

import { build, transform } from "esbuild";
import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

const TARGET = "es2022";

const out = process.argv[2];
if (!out) throw new Error("no folder was given: node build.mjs FOLDER");
await mkdir(out, { recursive: true });

const built = await build({
  entryPoints: ["src/main.ts"],
  outfile: join(out, "page.js"),
  bundle: true,
  minify: true,
  format: "iife",
  charset: "utf8",
  target: TARGET,
  legalComments: "none", // page.licenses.txt has the whole texts
  metafile: true,
});
const style = await transform(await readFile("style.css", "utf8"), { loader: "css", minify: true });
await writeFile(join(out, "page.css"), style.code);
await copyFile("index.html", join(out, "index.html"));
await copyFile("icon.svg", join(out, "page.svg"));
await writeFile(join(out, "page.licenses.txt"), await licences(Object.keys(built.metafile.inputs)));

/** The licences of the packages that these files are from, one after the other. */
async function licences(files) {
  const found = files.map((file) => file.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]);
  const names = [...new Set(found.filter((name) => name !== undefined))].sort();
  const texts = await Promise.all(names.map(licence));
  return texts.join(`\n${"-".repeat(78)}\n\n`);
}

/** A package's name, version and licence. */
async function licence(name) {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((each) => /^licen[cs]e/i.test(each));
  if (!file) throw new Error(`${name} has no file with its licence, expected one`);
  const text = (await readFile(join(folder, file), "utf8")).trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
}

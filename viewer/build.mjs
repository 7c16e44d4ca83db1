// Builds the page into the Python package: `npm install && npm run build` in this folder.
//
// The result is committed, so neither users nor the tests need node. Its first line holds the digest
// of the sources; tests/test_viewer.py recomputes it and fails where the bundle is stale.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const page = join(here, "..", "mosaicreg", "viewer", "page");

const digest = createHash("sha256");
for (const name of ["package.json", ...readdirSync(join(here, "src")).sort().map((n) => `src/${n}`)]) {
  digest.update(name).update("\0").update(readFileSync(join(here, name)));
}

const result = await build({
  entryPoints: [join(here, "src", "main.js")],
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none", // all licences, whole, are in LICENSES.txt
  metafile: true,
  write: false,
});
const banner = `// mosaicreg viewer, sources sha256 ${digest.digest("hex")}; licences: LICENSES.txt\n`;
writeFileSync(join(page, "viewer.js"), banner + result.outputFiles[0].text);

const modules = new Set();
for (const input of Object.keys(result.metafile.inputs)) {
  const found = input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/);
  if (found) modules.add(found[1]);
}
const notices = [...modules].sort().map((name) => {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((n) => /^licen[cs]e/i.test(n));
  if (!file) throw new Error(`${name} ships no licence text`);
  return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
});
// What numcodecs has compiled into its WebAssembly.
for (const name of readdirSync(join(here, "licenses")).sort()) {
  const text = readFileSync(join(here, "licenses", name), "utf8").trim();
  notices.push(`${name.replace(".txt", "")}, inside numcodecs\n\n${text}\n`);
}
const rule = `\n${"-".repeat(80)}\n\n`;
writeFileSync(
  join(page, "LICENSES.txt"),
  `viewer.js holds, besides mosaicreg's own page, these packages:\n${rule}${notices.join(rule)}`,
);

// Builds the live page into src/gamepulse/static/: index.html, assets/ (hashed names, cache for ever), docs/ (Swagger UI).
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL(".", import.meta.url));
const target = join(web, "../src/gamepulse/static");
const swagger = join(web, "node_modules/swagger-ui-dist");
// The notices go where the code goes: its licences ask for it.
const chartLicence = join(web, "node_modules/uplot/LICENSE");
const swaggerFiles = ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt", "NOTICE"];

async function bundle() {
  const result = await build({
    absWorkingDir: web,
    entryPoints: { page: "src/page.ts", style: "src/page.css", icon: "src/icon.svg" },
    entryNames: "assets/[name]-[hash]",
    outdir: target,
    bundle: true,
    minify: true,
    format: "esm",
    target: ["chrome111", "firefox113", "safari16.4"],
    loader: { ".svg": "copy" },
    legalComments: "inline",
    write: false,
    logLevel: "warning",
  });
  return result.outputFiles;
}

function assetsByRole(files) {
  // "assets/page-ABC.js" stands in index.html as "{page.js}".
  return new Map(files.map(({ path }) => [basename(path).replace(/-[^-.]+\./, "."), `/assets/${basename(path)}`]));
}

async function fillTemplate(assets) {
  const template = await readFile(join(web, "src/index.html"), "utf8");
  return template.replace(/\{([a-z]+\.[a-z]+)\}/g, (_, role) => {
    const asset = assets.get(role);
    if (asset === undefined) throw new Error(`index.html names ${role}, which was not built`);
    return asset;
  });
}

const files = await bundle();
const html = await fillTemplate(assetsByRole(files));
await rm(target, { recursive: true, force: true });
await mkdir(join(target, "assets"), { recursive: true });
await mkdir(join(target, "docs"));
await Promise.all([
  ...files.map(({ path, contents }) => writeFile(path, contents)),
  cp(chartLicence, join(target, "assets/uplot.LICENSE.txt")),
  cp(join(web, "src/docs.html"), join(target, "docs/index.html")),
  cp(join(web, "src/docs.js"), join(target, "docs/docs.js")),
  ...swaggerFiles.map((name) => cp(join(swagger, name), join(target, "docs", name))),
]);
// Last, so that a page never names an asset that is not there yet.
await writeFile(join(target, "index.html"), html);
for (const { path, contents } of files) console.log(`${basename(path)}  ${(contents.length / 1024).toFixed(1)} KiB`);

/**
 * Writes the index files of the miniature registry in `.ci/jsr`: for each
 * package `meta.json` and `VERSION_meta.json`, with the exports and checksums
 * that Deno asks of jsr.io, and `CHECKSUM`, which is another one for every state of
 * the registry; to be run after every change to a stand-in:
 *
 *     deno run --allow-read=.ci --allow-write=.ci .ci/jsr.ts [--check]
 *
 * With `--check` nothing is written, and the status is 1 if an index file is
 * out of date. Every `foo_bar.ts` is exported as `./foo-bar` and `mod.ts` as
 * `.`; a leading underscore keeps a module private.
 */
import { createHash } from "node:crypto";

const SCOPE = "std";
const root = `${import.meta.dirname}/jsr/@${SCOPE}`;
const CHECKSUM = `${import.meta.dirname}/jsr/CHECKSUM`;

/** The names in a directory that `keep` accepts, in code-unit order. */
function list(path: string, keep: (entry: Deno.DirEntry) => boolean): string[] {
  return [...Deno.readDirSync(path)].filter(keep).map(({ name }) => name)
    .sort();
}

function exportName(file: string): string {
  return file === "mod.ts"
    ? "."
    : `./${file.replace(/\.ts$/, "").replaceAll("_", "-")}`;
}

/** What `VERSION_meta.json` says about one version's modules. */
function versionMeta(path: string): unknown {
  const files = list(path, ({ name }) => name.endsWith(".ts"));
  const manifest = Object.fromEntries(files.map((file) => {
    const bytes = Deno.readFileSync(`${path}/${file}`);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    return [`/${file}`, {
      size: bytes.length,
      checksum: `sha256-${sha256}`,
    }];
  }));
  const exports = Object.fromEntries(
    files.filter((file) => !file.startsWith("_"))
      .map((file) => [exportName(file), `./${file}`]),
  );
  return { manifest, exports };
}

/** All index files: path and content. */
function* indexFiles(): Generator<[path: string, content: string]> {
  const sum = createHash("sha256");
  for (const [path, content] of packageFiles()) {
    sum.update(content);
    yield [path, content];
  }
  // Short, as every command of deno.json that needs it is printed.
  yield [CHECKSUM, sum.digest("hex").slice(0, 16) + "\n"];
}

/** The index files of the packages. */
function* packageFiles(): Generator<[path: string, content: string]> {
  const json = (value: unknown) => JSON.stringify(value, null, 2) + "\n";
  for (const name of list(root, (entry) => entry.isDirectory)) {
    const versions = list(`${root}/${name}`, (entry) => entry.isDirectory);
    yield [
      `${root}/${name}/meta.json`,
      json({
        scope: SCOPE,
        name,
        latest: versions.at(-1),
        versions: Object.fromEntries(versions.map((version) => [version, {}])),
      }),
    ];
    for (const version of versions) {
      const path = `${root}/${name}/${version}`;
      yield [`${path}_meta.json`, json(versionMeta(path))];
    }
  }
}

/** A file's text, or an empty one if it does not exist. */
function current(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

const check = Deno.args.includes("--check");
for (const [path, content] of indexFiles()) {
  if (current(path) === content) continue;
  if (check) {
    console.error(`${path}: out of date; run .ci/jsr.ts`);
    Deno.exitCode = 1;
  } else {
    Deno.writeTextFileSync(path, content);
  }
}

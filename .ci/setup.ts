/**
 * Makes the `jsr:` imports of this repo work where jsr.io cannot be reached: copies
 * the stand-ins of `.ci/jsr` to `vendor/jsr.io`, where Deno looks before it asks the
 * network. If jsr.io answers, it copies nothing, and the real packages are used. To
 * go from the one to the other delete `vendor/`.
 *
 * It ends with an empty file `vendor/setup-CHECKSUM`, named after the state of the
 * stand-ins. The tasks in deno.json look for that file with `cat`, which their
 * shell has built in, and run this program only if it is missing: a process of its
 * own for each task took 20 to 60 ms.
 *
 *     deno run --no-prompt --allow-read=.ci,vendor --allow-write=vendor
 *       --allow-net=jsr.io .ci/setup.ts
 */
const SOURCE = `${import.meta.dirname}/jsr/@std`;
const ROOT = `${import.meta.dirname}/../vendor`;
const VENDOR = `${ROOT}/jsr.io`;
const PROBE = "https://jsr.io/@std/assert/meta.json";
const LIMIT = 5_000; // ms

/** Why jsr.io cannot be used, or undefined if it answers. */
async function whyNot(): Promise<string | undefined> {
  try {
    const response = await fetch(PROBE, { signal: AbortSignal.timeout(LIMIT) });
    await response.body?.cancel();
    return response.ok ? undefined : `HTTP status ${response.status}`;
  } catch (error) {
    const { cause, message } = error as Error;
    return cause instanceof Error ? cause.message : message;
  }
}

/** The result, or undefined where there is no such file or folder. */
function unlessMissing<T>(get: () => T): T | undefined {
  try {
    return get();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function exists(path: string): boolean {
  return unlessMissing(() => Deno.statSync(path)) !== undefined;
}

/** Names and texts of the files that list a version's checksums. */
function* manifests(): Generator<[path: string, text: string]> {
  for (const { name } of Deno.readDirSync(SOURCE)) {
    for (const file of Deno.readDirSync(`${SOURCE}/${name}`)) {
      if (!file.name.endsWith("_meta.json")) continue;
      const path = `${name}/${file.name}`;
      yield [path, Deno.readTextFileSync(`${SOURCE}/${path}`)];
    }
  }
}

/** Whether `vendor` holds stand-ins, but of another state of this repo. */
function isStale(): boolean {
  return [...manifests()].some(([path, text]) => {
    const there = unlessMissing(() =>
      Deno.readTextFileSync(`${VENDOR}/@std/${path}`)
    );
    return there !== undefined && there !== text;
  });
}

/** Deno trusts what is in `vendor`, so the checksums are checked here. */
async function verify(): Promise<void> {
  for (const [path, text] of manifests()) {
    const folder = `${SOURCE}/${path.replace("_meta.json", "")}`;
    for (const [name, entry] of Object.entries(JSON.parse(text).manifest)) {
      const bytes = Deno.readFileSync(folder + name);
      const digest = await crypto.subtle.digest("SHA-256", bytes);
      const found = `sha256-${new Uint8Array(digest).toHex()}`;
      const { checksum } = entry as { checksum: string };
      if (found !== checksum) {
        throw new Error(
          `Cannot use ${folder}${name}: its checksum is ${found}, and the ` +
            `manifest says ${checksum} (.ci/jsr.ts brings it up to date)`,
        );
      }
    }
  }
}

function copy(from: string, to: string): void {
  Deno.mkdirSync(to);
  for (const { name, isDirectory } of Deno.readDirSync(from)) {
    if (isDirectory) copy(`${from}/${name}`, `${to}/${name}`);
    else Deno.copyFileSync(`${from}/${name}`, `${to}/${name}`);
  }
}

/**
 * Copies the stand-ins to a folder of another name and renames it, so that nobody
 * ever sees half of them. If another task was faster, its copy stays.
 */
function install(): void {
  clearMarkers(); // before anything changes: this may be interrupted
  Deno.mkdirSync(VENDOR, { recursive: true });
  const fresh = Deno.makeTempDirSync({ dir: VENDOR, prefix: "." });
  try {
    copy(SOURCE, `${fresh}/new`);
    unlessMissing(() => Deno.renameSync(`${VENDOR}/@std`, `${fresh}/old`));
    Deno.renameSync(`${fresh}/new`, `${VENDOR}/@std`);
  } catch (error) {
    if (!exists(`${VENDOR}/@std`)) throw error;
  } finally {
    Deno.removeSync(fresh, { recursive: true });
  }
}

/** The file that says that `vendor` is ready for this state of the stand-ins. */
function marker(): string {
  const checksum = Deno.readTextFileSync(`${SOURCE}/../CHECKSUM`);
  return `setup-${checksum.trim()}`;
}

/** Removes all such files: each of them may be wrong soon. */
function clearMarkers(): void {
  for (
    const { name } of unlessMissing(() => [...Deno.readDirSync(ROOT)]) ?? []
  ) {
    if (!name.startsWith("setup-")) continue;
    unlessMissing(() => Deno.removeSync(`${ROOT}/${name}`));
  }
}

/** Without such a file the next task runs this program again, and that is all. */
function writeMarker(): void {
  try {
    Deno.mkdirSync(ROOT, { recursive: true });
    Deno.writeTextFileSync(`${ROOT}/${marker()}`, "");
  } catch {
    // The folder is read-only.
  }
}

/** Answers `--help`, and refuses everything else. */
function answer(arg: string): never {
  const isHelp = arg === "--help" || arg === "-h";
  if (isHelp) {
    console.log("Usage: deno task setup");
    console.log("Stands in for @std where jsr.io cannot be reached.");
  } else {
    const shown = JSON.stringify(arg);
    console.error(`setup: unexpected argument ${shown} (see --help)`);
  }
  Deno.exit(isHelp ? 0 : 2);
}

if (Deno.args.length > 0) answer(Deno.args[0]);

if (!exists(`${VENDOR}/@std`)) {
  const reason = await whyNot();
  if (reason !== undefined) {
    console.error(`jsr.io: ${reason}; using the stand-ins in .ci/jsr`);
    await verify();
    install();
  }
} else if (isStale()) {
  await verify();
  install();
}
writeMarker();

/**
 * The gate, `deno task ok`: format, lint, types, docs, the built kernels, the
 * package and tests. It goes through all of them and ends with one line, `N
 * passed, N failed`.
 */

import config from "../deno.json" with { type: "json" };

const exclude: string[] = config.exclude;

/** What the tests need: they run the tasks, a server on loopback, and tools. */
const TEST = [
  "test",
  "--no-check", // done by then
  "--allow-read",
  "--allow-write",
  "--allow-env",
  "--allow-sys",
  "--allow-run",
  "--allow-net=127.0.0.1",
];

/**
 * About half of the tests by the time that they take. They are run beside the
 * others, by a process of their own, as most tests use one core, or wait.
 */
const HALF = ["tests/grayscale", "tests/pool"];

const KERNELS = "workers/kernels/kernels.wasm";

/** A step that takes this long, in ms, hangs: the slowest takes minutes. */
const HANGS = 3_600_000;

/** Runs all checks and ends the program. */
async function main(): Promise<void> {
  if (Deno.args.length > 0) answer(Deno.args[0]);
  const modules = ["mod.ts", ...modulesIn("workers")];
  const steps: string[][] = [
    ["fmt", "--check"],
    ["lint"],
    ["check", ".", ".ci/ok.ts", ".ci/setup.ts", ".ci/jsr.ts"],
    ["doc", "--lint", ...modules],
    ["run", "--no-prompt", "--allow-read=.ci", ".ci/jsr.ts", "--check"],
    [...TEST, "--doc", ...modules],
  ];
  let passed = 0, failed = 0;
  for (const step of [rebuild, publish, ...steps, testAll]) {
    const [good, bad] = await (Array.isArray(step) ? run(step) : step());
    passed += good;
    failed += bad;
  }
  console.log(`\n${passed} passed, ${failed} failed`);
  Deno.exit(failed > 0 ? 1 : 0);
}

/** Answers `--help`, and refuses everything else. */
function answer(arg: string): never {
  const isHelp = arg === "--help" || arg === "-h";
  if (isHelp) {
    console.log("Usage: deno task ok");
    console.log("Checks format, lint, types, docs and tests; takes no flags.");
  } else {
    const shown = JSON.stringify(arg);
    console.error(`ok: unexpected argument ${shown} (see --help)`);
  }
  Deno.exit(isHelp ? 0 : 2);
}

/**
 * The modules in a folder and in all folders below it. What deno.json excludes is
 * AssemblyScript, which Deno can neither document nor run.
 */
export function modulesIn(folder: string): string[] {
  const entries = [...Deno.readDirSync(folder)];
  return entries.flatMap(({ name, isDirectory }) => {
    const path = `${folder}/${name}`;
    if (isDirectory) return modulesIn(path);
    return path.endsWith(".ts") && !exclude.includes(path) ? [path] : [];
  }).sort();
}

type Counts = [passed: number, failed: number];

/** Runs all tests, in two halves side by side, and shows one after the other. */
async function testAll(): Promise<Counts> {
  let held = "";
  const others = run([...TEST, `--ignore=${HALF}`, "tests"], (text) => {
    held += text;
  });
  const half = await run([...TEST, ...HALF]);
  const rest = await others;
  show(held);
  return [half[0] + rest[0], half[1] + rest[1]];
}

function show(text: string): void {
  let bytes = new TextEncoder().encode(text);
  while (bytes.length > 0) {
    bytes = bytes.subarray(Deno.stdout.writeSync(bytes));
  }
}

/** Runs a step, hands on what it prints, and counts. */
async function run(args: string[], print = show): Promise<Counts> {
  print(`\n$ deno ${args.join(" ")}\n`);
  const signal = AbortSignal.timeout(HANGS);
  const process = new Deno.Command(Deno.execPath(), {
    args,
    signal,
    stdin: "null",
    stdout: "piped",
  }).spawn();
  let output = "";
  try {
    const decoder = new TextDecoderStream();
    for await (const text of process.stdout.pipeThrough(decoder, { signal })) {
      print(text);
      output += text;
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    print(`\nit did not end within ${HANGS / 60_000} minutes\n`);
  }
  const { success } = await process.status;
  if (!success) print(`FAILED: deno ${args.join(" ")}\n`);
  // deno-lint-ignore no-control-regex
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  // The last counts are Deno's own; tests may print others before.
  const counts = [...plain.matchAll(/\| (\d+) passed.*\| (\d+) failed/g)];
  if (counts.length === 0) return success ? [1, 0] : [0, 1];
  const [passed, failed] = counts.at(-1)!.slice(1).map(Number);
  return [passed, success ? failed : Math.max(1, failed)];
}

/** Builds the kernels anew: the committed file must match the sources. */
async function rebuild(): Promise<Counts> {
  const before = Deno.readFileSync(KERNELS);
  const [, failed] = await run(["task", "build"]);
  const after = Deno.readFileSync(KERNELS);
  const same = before.length === after.length &&
    before.every((byte, i) => byte === after[i]);
  if (same && !failed) return [1, 0];
  console.log(`FAILED: ${KERNELS} is not what \`deno task build\` makes`);
  return [0, 1];
}

/**
 * Tries to publish the package, which needs no network. The only warning that it
 * may give is that JSR cannot follow the dynamic imports of packages from npm: those
 * who import this one shall not fetch them, such as 30 MB of codec, at the start.
 */
async function publish(): Promise<Counts> {
  const args = ["publish", "--dry-run", "--allow-dirty"];
  console.log(`\n$ deno ${args.join(" ")}`);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    stdin: "null",
    env: { NO_COLOR: "1" },
  }).output();
  const output = new TextDecoder().decode(stderr);
  const problems = [...output.matchAll(/^\w+\[(\S+)\][^]*?--> (\S+?):\d/gm)];
  const isExpected = ([, code, path]: string[]) =>
    code === "unanalyzable-dynamic-import" &&
    /workers\/(grayscale\/codec|logscan\/xz)\.ts$/.test(path);
  if (success && problems.every(isExpected)) return [1, 0];
  console.log(`${output}\nFAILED: deno ${args.join(" ")}`);
  return [0, 1];
}

if (import.meta.main) await main();

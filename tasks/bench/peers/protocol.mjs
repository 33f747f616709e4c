/**
 * What every peer written in JavaScript has in common: it is a process that is
 * asked on its stdin and answers on its stdout, in lines of JSON. `protocol.py`
 * is the same for Python, and `../peer.ts` the other end. Arguments: the folder
 * where packages of npm are installed, how many workers to use, and, where no
 * more is wanted than that one job is done, the job.
 */
import { readFileSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
/** How many items are worked on side by side. */
export const workers = Number(process.argv[3]);

const { deno, node } = process.versions;
export const runtime = deno ? `Deno ${deno}` : `Node ${node}`;

/**
 * Loads a package from the folder where it is installed. (An `import` of its
 * bare name would look for it beside this file.)
 */
export async function load(name) {
  const root = pathToFileURL(`${folder}/node_modules/${name}/`);
  let text;
  try {
    text = readFileSync(new URL("package.json", root), "utf8");
  } catch {
    say({ missing: `it is not installed in ${folder}` });
    process.exit();
  }
  const { version, exports, main } = JSON.parse(text);
  const entry = exports?.["."] ?? exports;
  const path = entry?.import?.default ?? entry?.import ?? entry?.default ??
    main;
  const module = await import(new URL(path, root).href);
  return { version, ...module, ...module.default };
}

/**
 * Says who this is, then does one of the jobs for each line of stdin.
 *
 * @param version What is measured, in the words of its authors
 * @param jobs Each returns an object: the `ms` that it took, where it takes the
 * time itself, and the `value` that came out
 */
export async function answer(version, jobs) {
  const [once, ...given] = process.argv.slice(4);
  if (once) {
    await jobs[once](...given);
    process.exit();
  }
  say({ value: `${version} on ${runtime}` });
  for await (const line of createInterface({ input: process.stdin })) {
    const [job, ...args] = JSON.parse(line);
    try {
      say(await jobs[job](...args));
    } catch (error) {
      say({ error: `${error}`.replaceAll(/\s+/g, " ") });
    }
  }
  process.exit();
}

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

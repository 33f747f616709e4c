/**
 * One of the peers written in JavaScript, for `deno task bench:pool`: the module
 * of its jobs, and on the main thread the program that answers pool.ts.
 */
import { readFileSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { isMainThread } from "node:worker_threads";

const { PEERS, PEER, WORKERS } = process.env;
const workers = Number(WORKERS);
const isMain = isMainThread && !("WorkerGlobalScope" in globalThis);
const file = import.meta.filename;

export const same = (n) => n;
export const length = (bytes) => bytes.length;

/** Loads the peer from the folder where it is installed. */
async function load() {
  const folder = pathToFileURL(`${PEERS}/node_modules/${PEER}/`);
  const text = readFileSync(new URL("package.json", folder), "utf8");
  const { version, exports, main } = JSON.parse(text);
  const entry = exports?.["."] ?? exports;
  const path = entry?.import ?? entry?.default ?? main;
  const module = await import(new URL(path, folder).href);
  return { version, ...module, ...module.default };
}

/** How each makes a pool, runs a job with something to be moved, and ends. */
const makers = {
  piscina: ({ Piscina }) => {
    const options = { minThreads: workers, maxThreads: workers };
    const pool = new Piscina({ filename: file, ...options });
    return {
      run: (name, item, transferList) => pool.run(item, { name, transferList }),
      end: () => pool.destroy(),
    };
  },
  tinypool: ({ Tinypool }) => {
    const options = { minThreads: workers, maxThreads: workers };
    const pool = new Tinypool({ filename: file, ...options });
    return {
      run: (name, item, transferList) => pool.run(item, { name, transferList }),
      end: () => pool.destroy(),
    };
  },
  workerpool: (workerpool) => {
    const options = { minWorkers: workers, maxWorkers: workers };
    const workerType = "thread";
    const pool = workerpool.pool(file, { ...options, workerType });
    return {
      run: (name, item, transfer) => pool.exec(name, [item], { transfer }),
      end: () => pool.terminate(),
    };
  },
  "poolifier-web-worker": ({ FixedThreadPool }) => {
    const pool = new FixedThreadPool(workers, new URL(import.meta.url));
    return {
      run: (name, item, moved) => pool.execute(item, name, undefined, moved),
      map: (name, items) => pool.mapExecute(items, name),
      end: () => pool.destroy(),
    };
  },
};

/** One round of a work, as in pool.ts. */
async function round(make, pool, name, items) {
  if (name === "start") return { ms: await start(make), items };
  if (name === "stream") return { none: "has no such method" };
  if (name === "map" && !pool.map) return { none: "has no such method" };
  if (name === "map") items /= 10; // it takes them one by one: seconds
  const numbers = Array.from({ length: items }, (_, i) => i);
  const isBytes = name === "copy" || name === "move";
  const buffers = isBytes ? numbers.map(() => new Uint8Array(1 << 16)) : [];
  const begun = performance.now();
  let results = [];
  if (name === "one") {
    for (const n of numbers) results.push(await pool.run("same", n));
  } else if (name === "many") {
    results = await Promise.all(numbers.map((n) => pool.run("same", n)));
  } else if (name === "map") {
    results = await pool.map("same", numbers);
  } else if (name === "copy") {
    results = await Promise.all(buffers.map((b) => pool.run("length", b)));
  } else {
    results = await Promise.all(
      buffers.map((b) => pool.run("length", b, [b.buffer])),
    );
  }
  const ms = performance.now() - begun;
  const expected = (i) => isBytes ? 1 << 16 : i;
  if (results.length !== items || results.some((n, i) => n !== expected(i))) {
    return { none: "failed, the answers are wrong" };
  }
  return { ms, items };
}

async function start(make) {
  const begun = performance.now();
  const pool = make();
  const calls = Array.from({ length: workers }, () => pool.run("same", 1));
  await Promise.race(calls);
  const ms = performance.now() - begun;
  await Promise.all(calls);
  await pool.end();
  return ms;
}

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

async function answer() {
  let module;
  try {
    module = await load();
  } catch (error) {
    const isMissing = error.code === "ENOENT";
    return say({ none: isMissing ? "not installed" : `failed, ${error}` });
  }
  const make = () => makers[PEER](module);
  const pool = make();
  const { deno, node } = process.versions;
  const runtime = deno ? `Deno ${deno}` : `Node ${node}`;
  say({ name: `${PEER} ${module.version} on ${runtime}` });
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, items] = line.split(" ");
    try {
      say(await round(make, pool, name, Number(items)));
    } catch (error) {
      say({ none: `failed, ${error}`.replaceAll(/\s+/g, " ") });
    }
  }
  await pool.end();
  process.exit();
}

if (isMain) await answer();
else if (PEER === "workerpool") (await load()).worker({ same, length });
else if (PEER === "poolifier-web-worker") {
  const { ThreadWorker } = await load();
  new ThreadWorker({ same, length });
}

/**
 * What is measured of a pool, the same for every pool written in JavaScript. A
 * pool is given as an object with
 *
 * - `run(job, item, transfer)`: one call,
 * - `map(job, items, options)`, where it has such a method: one call for all,
 * - `stream(job, items)`, where it has: results in any order, of an async input,
 * - `end()`.
 */
import process from "node:process";
import { answer, workers } from "./protocol.mjs";

/** Milliseconds that no job takes: what counts is that it could. */
const LIMIT = 600_000;

const numbers = (count) => Array.from({ length: count }, (_, i) => i);
const buffers = (count, size) => numbers(count).map(() => filled(size));
const filled = (size) => new Uint8Array(size).fill(1);

async function* generate(items) {
  yield* items;
}

const all = (pool, job, items, options) =>
  pool.map?.(job, items, options) ??
    Promise.all(
      items.map((item) => pool.run(job, item, options?.transfer?.(item))),
    );

const mapWith = (options) => ({
  needs: "map",
  make: numbers,
  run: (pool, items) => pool.map("same", items, options()),
});

/** How each kind of round makes its items, which is not timed, and runs. */
const kinds = {
  one: {
    make: numbers,
    async run(pool, items) {
      const results = [];
      for (const item of items) results.push(await pool.run("same", item));
      return results;
    },
  },
  many: {
    make: numbers,
    run: (pool, items) =>
      Promise.all(items.map((item) => pool.run("same", item))),
  },
  map: mapWith(() => undefined),
  signal: mapWith(() => ({ signal: new AbortController().signal })),
  timeout: mapWith(() => ({ timeout: LIMIT })),
  both: mapWith(() => ({
    signal: new AbortController().signal,
    timeout: LIMIT,
  })),
  stream: {
    needs: "stream",
    make: numbers,
    async run(pool, items) {
      const results = [];
      const answers = pool.stream("same", generate(items));
      for await (const result of answers) results.push(result);
      return results;
    },
  },
  copy: {
    make: (count) => buffers(count, 1 << 16),
    run: (pool, items) => all(pool, "length", items),
  },
  move: {
    make: (count) => buffers(count, 1 << 16),
    run: (pool, items) =>
      all(pool, "length", items, { transfer: ({ buffer }) => [buffer] }),
  },
  big: {
    make: (count) => buffers(count, 50_000_000),
    run: (pool, items) =>
      Promise.all(items.map((item) => pool.run("same", item))),
  },
};

/**
 * Answers for a pool.
 *
 * @param version What is measured
 * @param make Makes a pool
 */
export async function answerFor(version, make) {
  const pool = make();
  await answer(version, {
    async round(kind, count, isCheck) {
      if (kind === "start") return await start(make);
      const { needs, make: makeItems, run } = kinds[kind];
      if (needs && !pool[needs]) return { lacks: needs };
      const items = makeItems(count);
      const begun = performance.now();
      const results = await run(pool, items);
      const ms = performance.now() - begun;
      return { ms, value: isCheck ? results.map(shown) : undefined };
    },
    memory() {
      // Twice, since what the first one finalizes only the second one frees.
      for (let i = 0; i < 2; i++) globalThis.gc();
      const { rss, heapUsed } = process.memoryUsage();
      return { value: { rss: rss / 1e6, heap: heapUsed / 1e6 } };
    },
  });
}

/** From a pool that is made until its first result; all workers are needed. */
async function start(make) {
  const begun = performance.now();
  const pool = make();
  const calls = numbers(workers).map((i) => pool.run("same", i));
  await Promise.race(calls);
  const ms = performance.now() - begun;
  const value = await Promise.all(calls);
  await pool.end();
  return { ms, value };
}

/** Bytes are too many to be told. */
function shown(result) {
  if (typeof result === "number") return result;
  return [result.length, result[0], result.at(-1)];
}

/**
 * The part of `deno task bench` that measures what the pool costs, with jobs
 * that do nothing, beside other pools and beside bare ports.
 *
 * @module
 */

import { toFileUrl } from "@std/path/to-file-url";
import { inPeers, NPM_HINT, Peer, type PeerSpec } from "./peer.ts";
import {
  type Entry,
  isWanted,
  measure,
  type Options,
  type Result,
  type Row,
  type Section,
} from "./rows.ts";

/** What is measured; `kind` is what peers/pools.mjs calls it. */
type Work = [
  ...[kind: string, what: string, count: number],
  /** What ours ÷ a peer shall be at most. */
  aims?: Record<string, number>,
  /** The kind of ours beside which this is measured, instead of the peers. */
  beside?: string,
];

const PYTHON = "multiprocessing.Pool";
const bytes = {
  ...{ piscina: 1.2, tinypool: 1.2, workerpool: 1.2 },
  "poolifier-web-worker": 1.2,
};

const withOptions = (count: number): Work[] => {
  const what = `\`map\` over ${count.toLocaleString("en")} numbers with`;
  const aims = { "the same without": 1.3 };
  return [
    ["signal", `${what} \`signal\``, count, aims, "map"],
    ["timeout", `${what} \`timeout\``, count, aims, "map"],
    ["both", `${what} both`, count, aims, "map"],
  ];
};

const WORKS: Work[] = [
  ["one", "2,000 × `apply`, one at a time", 2000, { piscina: 1, tinypool: 1 }],
  ["many", "10,000 × `apply`, all at once", 10_000, { piscina: 0.1 }],
  ["map", "`map` over 200,000 numbers", 200_000, { [PYTHON]: 1 }],
  ["stream", "`imapUnordered` over 20,000 of an async generator", 20_000],
  ["copy", "1,000 × 64 kB, copied", 1000, bytes],
  ["move", "1,000 × 64 kB, moved", 1000, bytes],
  ["big", "50 MB, copied there and back", 1, { "bare ports": 1.5 }],
  ...withOptions(50_000),
  ...withOptions(200_000),
  ["start", "a new pool's first result", 1, { piscina: 1 }],
];

const MEMORY = "memory after rounds of everything";

/** Memory may differ by this factor: it is counted in pages, and in use. */
const LEAK = 1.1;

/** Measures the pool. */
export async function measurePool(options: Options): Promise<Section> {
  const contestants: Peer[] = [];
  for (const spec of specs(options)) contestants.push(await Peer.start(spec));
  const there = contestants.filter(({ missing }) => missing === undefined);
  const results: Result[] = [];
  for (const work of WORKS.filter(([, what]) => isWanted(what, options))) {
    results.push(await measure(rowOf(work, there), options));
  }
  for (const peer of contestants) await peer[Symbol.asyncDispose]();
  if (isWanted(MEMORY, options)) results.push(...await measureMemory(options));
  return { title: "The pool", contestants, notes: [], results };
}

/** Ours comes first. */
function specs({ folder, workers, mod }: Options): PeerSpec[] {
  const given = [folder ?? "-", `${workers}`];
  const deno = [Deno.execPath(), "run", "--no-config", "--no-prompt"];
  deno.push("--allow-read", "--allow-env", "--allow-sys", "--no-check");
  const own = (imports: string[], name = "manyhands"): PeerSpec => ({
    name,
    command: [
      ...[...deno, "--v8-flags=--expose-gc", ...imports],
      ...[inPeers("manyhands.ts"), ...given],
    ],
    hint: "mend it",
  });
  const npm = (name: string, file: string, runtime = ["node"]): PeerSpec => ({
    name,
    command: [...runtime, inPeers(file), ...given],
    hint: NPM_HINT,
  });
  return [
    ...(mod ? [own(importMap(mod)), own([], "this tree's")] : [own([])]),
    {
      name: "bare ports",
      command: [...deno, inPeers("bare.mjs"), ...given],
      hint: "mend it",
    },
    {
      name: PYTHON,
      command: ["python3", inPeers("python.py"), ...given],
      hint: "install Python 3",
    },
    npm("piscina", "piscina.mjs"),
    npm("tinypool", "tinypool.mjs"),
    npm("workerpool", "workerpool.mjs"),
    npm("poolifier-web-worker", "poolifier.mjs", deno),
  ];
}

/** Puts another mod.ts in the place of this tree's. */
function importMap(path: string): string[] {
  const own = new URL("../../mod.ts", import.meta.url).href;
  const map = { imports: { [own]: toFileUrl(path).href } };
  const json = encodeURIComponent(JSON.stringify(map));
  return [`--import-map=data:application/json,${json}`];
}

function rowOf(
  [kind, what, count, aims, beside]: Work,
  peers: Peer[],
): Row {
  const entry = (peer: Peer, name: string, kind: string): Entry => ({
    name,
    run: (isCheck) => peer.ask("round", kind, count, isCheck),
    aim: aims?.[name],
    isFloor: name === "bare ports",
  });
  const [own] = peers;
  const entries = beside
    ? [entry(own, own.name, kind), entry(own, "the same without", beside)]
    : peers.map((peer) => entry(peer, peer.name, kind));
  return { what, entries, check: (value) => check(kind, count, value) };
}

/** What is wrong with the results of a round. */
function check(
  kind: string,
  count: number,
  value: unknown,
): string | undefined {
  const results = value as unknown[];
  if (kind === "start") count = results.length;
  if (kind === "stream") (results as number[]).sort((a, b) => a - b);
  const expected = (i: number) =>
    kind === "big"
      ? [50_000_000, 1, 1]
      : kind === "copy" || kind === "move"
      ? 1 << 16
      : i;
  const wrong = Array.from({ length: count }, (_, i) => i).find((i) =>
    JSON.stringify(results[i]) !== JSON.stringify(expected(i))
  );
  if (results.length !== count) return `${results.length} results of ${count}`;
  if (wrong !== undefined) return `result ${wrong} is wrong`;
}

/** Our memory after 10 rounds of everything, and after 100. */
async function measureMemory(options: Options): Promise<Result[]> {
  await using own = await Peer.start(specs(options)[0]);
  // A tenth of the items: a leak grows with the rounds as well.
  const kinds = new Map(WORKS.map(([kind, , count]) => [kind, count]));
  for (const [kind, count] of kinds) kinds.set(kind, Math.ceil(count / 10));
  const taken: { rss: number; heap: number }[] = [];
  for (let round = 1; round <= 100; round++) {
    if (round % 10 === 1) options.say(`memory: round ${round} of 100 …`);
    for (const [kind, count] of kinds) {
      const { error } = await own.ask("round", kind, count);
      if (error === undefined) continue;
      options.say(`FAILED: memory, ${kind}: ${error}`);
      return [];
    }
    if (round !== 10 && round !== 100) continue;
    const { value } = await own.ask("memory");
    taken.push(value as typeof taken[0]);
  }
  const [before, after] = taken;
  return (["rss", "heap"] as const).map((name) => ({
    what: `${MEMORY}, ${name}`,
    unit: "MB",
    measured: [
      { name: "after 100", times: [after[name]] },
      { name: "after 10", times: [before[name]], aim: LEAK, isFloor: true },
    ],
  }));
}

/**
 * `deno task simulate`: random scenarios for the pool, in virtual time.
 *
 * Prints a line for each of the invariants that a scenario breaks, and ends with
 * status 1 where there is one.
 */
import { parseArgs } from "@std/cli/parse-args";
import { simulate } from "./simulation/scenario.ts";

const HELP = `Runs the pool through random scenarios, in virtual time.

Usage: deno task simulate [FLAG]…

  --seeds N    how many scenarios (default 1000)
  --from S     the first one's seed (default 1)
  --trace      print all that happens
  -h, --help   show this
`;

/** How often to say how far it is, in scenarios. */
const PROGRESS_EVERY = 10_000;

const flags = readFlags();
const found = new Map<string, number[]>();
let calls = 0;
let items = 0;

for (let seed = flags.from; seed < flags.from + flags.seeds; seed++) {
  const report = await simulate(seed, flags.trace);
  calls += report.calls;
  items += report.items;
  for (const line of report.trace) console.log(line);
  for (const { invariant, what, details, time } of report.violations) {
    const name = `invariant ${invariant}: ${what}`;
    const at = `at ${time.toFixed(3)} ms`;
    console.log(
      `seed ${seed} breaks ${name} (${details || "no details"}) ${at}`,
    );
    found.set(name, [...found.get(name) ?? [], seed]);
  }
  const count = seed - flags.from + 1;
  if (count % PROGRESS_EVERY === 0 && count < flags.seeds) {
    console.error(`${count} of ${flags.seeds}`);
  }
}

for (const [name, seeds] of [...found].sort()) {
  const first = seeds.slice(0, 8).join(" ");
  console.log(`${name}: ${seeds.length} of the seeds, as ${first}`);
}
console.log(
  `${flags.seeds} scenarios with ${calls} calls of ${items} items: ` +
    (found.size > 0 ? `${found.size} things break` : "nothing breaks"),
);
Deno.exit(found.size > 0 ? 1 : 0);

function readFlags(): { seeds: number; from: number; trace: boolean } {
  const flags = parseArgs(Deno.args, {
    boolean: ["trace", "help"],
    string: ["seeds", "from"],
    alias: { h: "help" },
    unknown: (arg) => refuse(`unexpected argument ${JSON.stringify(arg)}`),
  });
  if (flags.help) {
    console.log(HELP);
    Deno.exit(0);
  }
  const { trace } = flags;
  return {
    seeds: wholeNumber("seeds", flags.seeds ?? "1000"),
    from: wholeNumber("from", flags.from ?? "1"),
    trace,
  };
}

function wholeNumber(flag: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isSafeInteger(value) && value >= 0) {
    return value;
  }
  refuse(`--${flag} must be a whole number: it is ${JSON.stringify(text)}`);
}

function refuse(why: string): never {
  console.error(`simulate: ${why} (see --help)`);
  Deno.exit(2);
}

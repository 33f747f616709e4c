/** What the tests of the pool share. */
import * as manyhands from "../../mod.ts";
import { HANGS, until } from "./gates.ts";
import { type jobs, service } from "./jobs.ts";

/** Whole numbers from 0. */
export const numbers = (count: number): number[] =>
  Array.from({ length: count }, (_, i) => i);

/** Twice these numbers. */
export const doubles = (count: number): number[] =>
  numbers(count).map((n) => 2 * n);

/**
 * Runs a script with a pool in a process of its own, so that what it leaves
 * behind ends with it. It has all of mod.ts, gates.ts, and `service`.
 */
export async function runAlone(
  script: string,
  flags: string[] = [],
): Promise<string> {
  const names = Object.keys(manyhands).join(", ");
  const module = import.meta.resolve("../../mod.ts");
  const gates = import.meta.resolve("./gates.ts");
  const jobs = import.meta.resolve("./jobs.ts");
  const code = `
    import { ${names} } from ${JSON.stringify(module)};
    import { Gate, HANGS, shared, until } from ${JSON.stringify(gates)};
    import { service } from ${JSON.stringify(jobs)};
    ${script}
  `;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "--no-check",
      "--no-prompt",
      "--allow-read",
      ...flags,
      `data:application/typescript,${encodeURIComponent(code)}`,
    ],
    env: { NO_COLOR: "1" },
    signal: AbortSignal.timeout(HANGS),
  }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

/** A test after which no lock of a worker may be held or waited for. */
export function poolTest(name: string, test: () => Promise<void>): void {
  const { locks } = navigator as unknown as {
    locks: { query(): Promise<Record<string, { name: string }[]>> };
  };
  const left = async () => {
    const { held, pending } = await locks.query();
    return [...held, ...pending].map(({ name }) => name)
      .filter((name) => name.startsWith("manyhands"));
  };
  const fn = async () => {
    await test();
    // On a busy machine a thread is slow to end.
    await until(async () => (await left()).length === 0);
  };
  Deno.test({ name, fn, timeout: 2 * HANGS });
}

/** Makes a runner for a module that serves jobs. */
type MakeRunner = <J extends manyhands.Jobs>(
  service: manyhands.Service<J>,
) => Promise<manyhands.Runner<J>>;

/** Runners of further kinds, which do the same tests. */
export const furtherRunners = new Map<string, MakeRunner>();

/** The same test on the runners of further kinds. */
export function furtherRunnerTests<J extends manyhands.Jobs>(
  service: manyhands.Service<J>,
  name: string,
  test: (runner: manyhands.Runner<J>) => Promise<void>,
): void {
  // Memory that threads share, as gates are, is not shared with other machines.
  if (/\b(new Gate|shared|firstEndsLast)\(/.test(`${test}`)) return;
  for (const [kind, make] of furtherRunners) {
    poolTest(`${kind}: ${name}`, async () => {
      await using runner = await make(service);
      await test(runner);
    });
  }
}

/** The same test on a pool and on the calling thread. */
export function runnerTest(
  name: string,
  test: (runner: manyhands.Runner<typeof jobs>) => Promise<void>,
): void {
  poolTest(`Pool: ${name}`, async () => {
    await using pool = new manyhands.Pool(service, { size: 3 });
    await test(pool);
  });
  poolTest(`sequential: ${name}`, async () => {
    await using runner = manyhands.sequential(service);
    await test(runner);
  });
  furtherRunnerTests(service, name, test);
}

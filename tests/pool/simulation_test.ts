import { assertEquals } from "@std/assert";
import { simulate } from "./simulation/scenario.ts";

/** How many scenarios the gate runs; `deno task simulate` runs any others. */
const SCENARIOS = 5000;
/** Seeds of rare faults that were found by running many more. */
const FOUND = [21_283, 26_689, 40_046, 114_317, 134_421, 167_534, 176_289];
/** So many failures tell enough. */
const FAILURES_MAX = 10;

Deno.test("the pool keeps its invariants in random scenarios", async () => {
  const failures: string[] = [];
  const seeds = Array.from({ length: SCENARIOS }, (_, i) => i + 1);
  for (const seed of [...FOUND, ...seeds]) {
    const { violations } = await simulate(seed);
    for (const { invariant, what, details } of violations) {
      failures.push(`seed ${seed}, invariant ${invariant}: ${what} ${details}`);
    }
    if (failures.length >= FAILURES_MAX) break;
  }
  assertEquals(
    failures,
    [],
    "see `deno task simulate --seeds 1 --from SEED --trace`",
  );
});

Deno.test("a seed gives the same scenario again, and leaves no trace", async () => {
  const { Worker, MessageChannel, setTimeout, clearTimeout } = globalThis;
  const { timeout } = AbortSignal;
  const before = performance.now();
  const [first, second] = [await simulate(7, true), await simulate(7, true)];
  assertEquals(first, second);
  assertEquals(first.calls > 0 && first.trace.length > 0, true);
  assertEquals(
    [globalThis.Worker, globalThis.MessageChannel, globalThis.setTimeout],
    [Worker, MessageChannel, setTimeout],
  );
  assertEquals(
    [globalThis.clearTimeout, AbortSignal.timeout],
    [clearTimeout, timeout],
  );
  assertEquals(performance.now() >= before, true);
  assertEquals(Object.hasOwn(navigator, "locks"), false);
});

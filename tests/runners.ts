/** What the tests of the pool share. */
import { assertEquals } from "@std/assert";
import { Pool, type Runner, sequential } from "../mod.ts";
import { type jobs, service } from "./jobs.ts";

/** Whole numbers from 0. */
export const numbers = (count: number): number[] =>
  Array.from({ length: count }, (_, i) => i);

/** Twice these numbers. */
export const doubles = (count: number): number[] =>
  numbers(count).map((n) => 2 * n);

/** A test after which no worker may hold its lock, and nobody wait for one. */
export function poolTest(name: string, test: () => Promise<void>): void {
  Deno.test(name, async () => {
    await test();
    const { locks } = navigator as unknown as {
      locks: { query(): Promise<Record<string, { name: string }[]>> };
    };
    const { held, pending } = await locks.query();
    const left = [...held, ...pending].map(({ name }) => name);
    assertEquals(left.filter((name) => name.startsWith("manyhands")), []);
  });
}

/** The same test on a pool and on the calling thread. */
export function runnerTest(
  name: string,
  test: (runner: Runner<typeof jobs>) => Promise<void>,
): void {
  poolTest(`Pool: ${name}`, async () => {
    await using pool = new Pool(service, { size: 3 });
    await test(pool);
  });
  poolTest(`sequential: ${name}`, async () => {
    await using runner = sequential(service);
    await test(runner);
  });
}

/** Programs that go wrong with their workers, and what a pool leaves behind. */
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertStringIncludes,
} from "@std/assert";
import { join } from "@std/path/join";
import { withFolder } from "../tasks/folders.ts";
import { HANGS } from "./gates.ts";
import { runAlone } from "./runners.ts";

/** Runs Deno, and gives its exit status and all that it prints. */
async function deno(
  ...args: string[]
): Promise<{ code: number; output: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1" },
    stdin: "null",
    signal: AbortSignal.timeout(HANGS),
  }).output();
  const output = [stdout, stderr].map((bytes) =>
    new TextDecoder().decode(bytes)
  );
  return { code, output: output.join("") };
}

/** A program and its jobs in one file, with a guard around the program. */
const inOneFile = (guard: string) => `
  import { Pool, serve } from ${
  JSON.stringify(import.meta.resolve("../../mod.ts"))
};
  export const service = serve(import.meta, { square: (n: number) => n * n });

  if (${guard}) {
    await using pool = new Pool(service, { size: 1 });
    console.log(await pool.map("square", [1, 2, 3]));
  }
`;

/** Runs that file, and the same bundled, if this Deno can bundle offline. */
async function runOneFile(
  guard: string,
  check: (result: { code: number; output: string }) => void,
): Promise<void> {
  await withFolder(async (folder) => {
    const [file, bundle] = ["one.ts", "one.js"].map((name) =>
      join(folder, name)
    );
    await Deno.writeTextFile(file, inOneFile(guard));
    check(await deno("run", "--no-check", "--allow-read", file));
    const bundled = await deno("bundle", "--quiet", "--output", bundle, file);
    if (bundled.code === 0) check(await deno("run", "--allow-read", bundle));
    else console.warn(`SKIPPED: Deno cannot bundle here: ${bundled.output}`);
  });
}

Deno.test("Pool: a program and its jobs in one file get an error that names the guard", async () => {
  // Both are true in a worker as well, so they guard nothing.
  for (const guard of ["import.meta.main", "true"]) {
    await runOneFile(guard, ({ code, output }) => {
      assertEquals(code, 1);
      const [last] = output.split("WorkerStartError: ").slice(-1);
      const [line] = last.split("\n");
      assertStringIncludes(line, "Cannot make a pool in a worker");
      assertStringIncludes(line, "one.");
      assertStringIncludes(line, 'if (!("WorkerGlobalScope" in globalThis))');
      assertStringIncludes(line, "a module of their own");
      // The pool started its one worker some times; workers started none.
      const starts = output.split("Uncaught (in worker").length - 1;
      assert(starts > 0);
      assertLessOrEqual(starts, 3);
    });
  }
});

Deno.test("Pool: a program and its jobs work in one file with a guard", async () => {
  const guard = '!("WorkerGlobalScope" in globalThis)';
  await runOneFile(guard, ({ code, output }) => {
    assertEquals([code, output], [0, "[ 1, 4, 9 ]\n"]);
  });
});

const ENDS: Record<string, string> = {
  "after close": `
    await pool.map("double", [1, 2]);
    await pool.close();
  `,
  "after terminate, with work": `
    const gate = new Gate();
    pool.map("hold", Array(9).fill(gate.memory)).catch(() => {});
    await until(() => gate.arrived > 0);
    await pool.terminate();
  `,
  "after terminate, before any start": `
    pool.map("double", [1, 2]).catch(() => {});
    await pool.terminate();
  `,
  "after close, with limits of time": `
    const { signal } = new AbortController();
    await pool.map("double", Array(1000).fill(1), { timeout: 2 ** 31 - 1, signal });
    await pool.apply("never", [shared(0)], { timeout: 10 }).catch(() => {});
    await pool.close();
  `,
  "after close, having lost workers": `
    for (const job of ["exitOn", "closeOn", "throwLateOn"]) {
      await pool.apply(job, [1, 1]).catch(() => {});
    }
    await pool.close();
  `,
  "after close, while a job of an aborted call ends": `
    const gate = new Gate();
    const controller = new AbortController();
    const call = pool.apply("hold", [gate.memory], { signal: controller.signal });
    await until(() => gate.arrived > 0);
    controller.abort();
    await Promise.all([pool.close(), call.catch(() => {})]);
  `,
  "after close, when workers had been idle for long": `
    const idle = new Pool(service, { size: 2, idleTimeout: 1 });
    await idle.map("double", [1, 2]);
    await until(() => idle.stats().workers.length === 0);
    await Promise.all([idle.close(), pool.close()]);
  `,
  "after close, when an idle worker would have waited for long": `
    const idle = new Pool(service, { size: 2, idleTimeout: 2 ** 31 - 1 });
    await idle.map("double", [1, 2]);
    await Promise.all([idle.close(), pool.close()]);
  `,
  "after failed starts": `
    const bad = new Pool(service, { size: 2, init: "bad" });
    await bad.map("double", [1, 2]).catch(() => {});
    await Promise.all([bad.close(), pool.close()]);
  `,
  "when an eager pool is ended at once": `
    const eager = new Pool(service, { size: 3, eager: true });
    await Promise.all([eager.close(), pool.close()]);
  `,
  "when results are left unread": `
    const stream = pool.imap("double", [1, 2, 3]);
    new Pool(service).imap("double", [1, 2, 3]);
    await stream.next();
    await pool.close();
  `,
  "without having used a pool": ``,
};

for (const [name, script] of Object.entries(ENDS)) {
  Deno.test(`Pool: a program ends by itself ${name}`, async () => {
    const output = await runAlone(`
      const pool = new Pool(service, { size: 2 });
      ${script}
      const { held, pending } = await navigator.locks.query();
      console.log([...held, ...pending].map(({ name }) => name).join());
      const late = setTimeout(() => Deno.exit(console.log("held up")), HANGS / 2);
      Deno.unrefTimer(late); // fires only if something else keeps the program alive
    `);
    assertEquals(output, "\n");
  });
}

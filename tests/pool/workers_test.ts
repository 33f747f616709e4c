/** Workers: how they start, end, and are replaced. */
import {
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { Pool, type WorkerLoss, WorkerStartError } from "../../mod.ts";
import { Gate, HANGS, shared, turn, until } from "./gates.ts";
import { doubles, numbers, poolTest, runAlone } from "./runners.ts";
import { service, type Setup } from "./setups.ts";

/** Checks that that many workers work side by side. */
async function assertAll(
  pool: Pool<typeof service.jobs>,
  count: number,
): Promise<void> {
  const meeting = shared(0);
  const items = Array(count).fill([meeting, count]);
  assertEquals(await pool.starmap("meet", items), Array(count).fill(count));
}

poolTest("Pool: a worker that fails to start is tried again", async () => {
  for (const by of ["throw", "close", "exit"] as const) {
    for (const failing of [[0], [1], [0, 1], [1, 2, 3]]) {
      const started = shared(0);
      const init: Setup = { started, failing, by };
      await using pool = new Pool(service, { size: 2, init });
      await assertAll(pool, 2);
      assertEquals(started[0], failing.length + 2, `${by} ${failing}`);
    }
  }
});

poolTest(
  "Pool: where every start fails it gives up, and tries again for the next call",
  async () => {
    const started = shared(0);
    const size = 3;
    const init: Setup = { started, failing: numbers(20) };
    await using pool = new Pool(service, { size, init });
    const call = pool.map("double", numbers(10));
    const error = await assertRejects(() => call, WorkerStartError);
    assertInstanceOf(error.cause, RangeError);
    // Starts that were under way when the last one was counted may come, too.
    assertLessOrEqual(started[0], size + 2 + size);
    // At last a start succeeds.
    await until(() => pool.map("double", [1, 2]).then(() => true, () => false));
  },
);

poolTest(
  "Pool: a call that has failed hears its signal as long as one of it runs",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    const controller = new AbortController();
    const { signal } = controller;
    const gate = new Gate();
    const items = [true, false].map((fails) => [gate.memory, fails] as const);
    const call = pool.starmap(
      "neverOrFail",
      items as [typeof gate.memory, boolean][],
      { signal },
    );
    const error = await call.catch((error) => error);
    assertStringIncludes(error.message, "on item 0: beside");
    assertEquals([pool.stats().busy, pool.stats().stuck], [1, 0]);
    controller.abort();
    assertEquals(pool.stats().stuck, 1);
    await assertAll(pool, 2); // the worker that ignored the abort is replaced
    await until(() => pool.stats().stuck === 0);
    // A worker that asks `cancelled` stays, though its call has ended.
    const before = pool.stats().workers;
    const held = new Gate();
    const other = new AbortController();
    await assertRejects(() =>
      pool.map("hold", [held.memory, (() => {}) as never], {
        signal: other.signal,
      })
    );
    other.abort();
    await until(() => held.left === held.arrived && pool.stats().busy === 0);
    assertEquals(
      pool.stats().workers.map(({ worker }) => worker),
      before.map(({ worker }) => worker),
    );
  },
);

poolTest("Pool: workers start side by side, for any input", async () => {
  const size = 3;
  async function* slowly(): AsyncGenerator<number> {
    for (const n of numbers(6)) yield await turn().then(() => n);
  }
  const inputs: (() => Iterable<number> | AsyncIterable<number>)[] = [
    () => numbers(6),
    () => new Set(numbers(6)),
    slowly,
    () => ReadableStream.from(slowly()),
  ];
  for (const input of inputs) {
    for (const method of ["map", "imap"] as const) {
      // None of them is ready before all have begun to start.
      const init: Setup = { started: shared(0), together: size };
      const options = { size, init, startTimeout: HANGS };
      await using pool = new Pool(service, options);
      const results = method === "map"
        ? await pool.map("double", input())
        : await Array.fromAsync(pool.imap("double", input()));
      assertEquals(results, doubles(6));
    }
  }
});

poolTest("Pool: for a caller that was late no time is up", async () => {
  await using pool = new Pool(service, { size: 2 });
  await assertAll(pool, 2);
  const { workers } = pool.stats();
  const [cancelled, healthy] = [new Gate(), new Gate()];
  const controller = new AbortController();
  const { signal } = controller;
  const call = pool.apply("holdThread", [cancelled.memory], { signal })
    .catch((reason) => reason);
  const other = pool.apply("holdThread", [healthy.memory, 7]);
  await until(() => cancelled.arrived + healthy.arrived === 2);
  controller.abort("enough");
  healthy.open();
  // Both end while this thread is blocked.
  cancelled.blockUntilLeft();
  healthy.blockUntilLeft();
  Atomics.wait(shared(0), 0, 0, 300);
  assertEquals(await Promise.all([call, other]), ["enough", 7]);
  assertEquals(await pool.map("double", [1]), [2]);
  assertEquals(
    pool.stats().workers.map(({ worker }) => worker),
    workers.map(({ worker }) => worker),
  );
  assertEquals([pool.stats().stuck, pool.stats().lost], [0, 0]);
});

poolTest(
  "Pool: nor is a thread unresponsive that ended while the caller was late",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    const gate = new Gate();
    const controller = new AbortController();
    const { signal } = controller;
    const items = [gate.memory, gate.memory];
    const call = pool.map("never", items, { signal }).catch((reason) => reason);
    await until(() => gate.arrived === 2);
    controller.abort("enough");
    assertEquals(await call, "enough");
    await until(() => pool.stats().workers.length === 0); // they are ending
    const next = pool.map("double", [1, 2]);
    await Promise.resolve();
    Atomics.wait(shared(0), 0, 0, 2500); // longer than a thread is waited for
    assertEquals(await next, [2, 4]);
  },
);

poolTest("Pool: init is what it was when the pool was made", async () => {
  const bytes = new Uint8Array([1, 2, 3]);
  const memory = shared(5);
  const init: Record<string, unknown> = { name: "first", bytes, memory };
  await using pool = new Pool(service, { size: 2, init });
  assertEquals(await pool.apply("given", []), {
    ...init,
    bytes: bytes.slice(),
  });
  const wanted = { name: "first", bytes: bytes.slice(), memory };
  init.name = "second";
  init.code = () => {};
  structuredClone(bytes, { transfer: [bytes.buffer] });
  const exits = shared(0);
  for (let lives = 1; lives < 4; lives++) { // each on a new worker
    await pool.apply("exitIfFirst", [exits, lives], { retries: lives });
    Atomics.store(exits, 0, 0);
    const given = await pool.apply("given", []) as typeof wanted;
    assertEquals(given, wanted);
    assertEquals(given.memory[0], 5);
  }
  Atomics.store(memory, 0, 6); // shared memory in `init` is not copied
  assertEquals((await pool.apply("given", []) as typeof wanted).memory[0], 6);
});

poolTest(
  "Pool: what cannot be sent to a new worker is a failed start",
  async () => {
    const { postMessage } = Worker.prototype;
    Worker.prototype.postMessage = () => {
      throw new DOMException("not this one", "DataCloneError");
    };
    try {
      await using pool = new Pool(service, { size: 2 });
      const error = await assertRejects(
        () => pool.map("double", [1, 2]),
        WorkerStartError,
        "not this one",
      );
      assertInstanceOf(error.cause, DOMException);
      Worker.prototype.postMessage = postMessage;
      assertEquals(await pool.map("double", [1, 2]), [2, 4]);
    } finally {
      Worker.prototype.postMessage = postMessage;
    }
  },
);

poolTest(
  "Pool: an error that met no item is reported with its worker",
  async () => {
    const losses: WorkerLoss[] = [];
    const onWorkerLost = (loss: WorkerLoss) => void losses.push(loss);
    await using pool = new Pool(service, { size: 1, onWorkerLost });
    assertEquals(await pool.apply("throwAfterReply", [1]), 1);
    await until(() => losses.length === 1);
    assertEquals(pool.stats().lost, 1);
    // Losses that met an item, and ends without an error, are reported, too.
    await pool.apply("throwLateOn", [1, 1]).catch(() => {});
    await pool.apply("exitOn", [1, 1]).catch(() => {});
    await until(() => losses.length === 3);
    assertEquals(losses.map(({ worker }) => worker), [1, 2, 3]);
    const [first, second, third] = losses.map(({ cause }) => cause);
    assertInstanceOf(first, Error);
    assertEquals(first.message, "after the reply");
    assertStringIncludes(first.stack!, "jobs.ts");
    assertInstanceOf(second, RangeError);
    assertEquals(third, undefined);
    // What was ended on purpose was not lost.
    const controller = new AbortController();
    const gate = new Gate();
    const call = pool.apply("never", [gate.memory], {
      signal: controller.signal,
    })
      .catch(() => {});
    await until(() => gate.arrived === 1);
    controller.abort();
    await call;
    assertEquals(await pool.apply("double", [1]), 2);
    assertEquals(losses.length, 3);
  },
);

Deno.test("Pool: an error that met no item is one line on stderr", async () => {
  const lost = "await until(() => pool.stats().lost > 0);";
  const line = 'error: Uncaught (in worker "w 1") Error: after the reply\n';
  const scripts: [script: string, output: string][] = [
    ['await pool.apply("throwAfterReply", [1]);', line],
    // An error that met an item goes to its call; an end without error is silent.
    ['await pool.apply("throwLateOn", [1, 1]).catch(() => {});', ""],
    ['await pool.apply("exitOn", [1, 1]).catch(() => {});', ""],
    ['await pool.apply("closeOn", [1, 2]);' + "pool.terminate();", ""],
  ];
  await Promise.all(scripts.map(async ([script, output]) => {
    const wait = script.includes("terminate") ? "" : lost;
    const alone = await runAlone(`
      const pool = new Pool(service, { size: 1, name: "w" });
      ${script} ${wait}
      await pool.close();
    `);
    assertEquals(alone, output, script);
  }));
});

poolTest("Pool: an eager one starts its workers when it is made", async () => {
  let made = 0;
  const { Worker } = globalThis;
  globalThis.Worker = class extends Worker {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args);
      made++;
    }
  };
  try {
    const started = shared(0);
    const init: Setup = { started };
    const options = { size: 3, eager: true, init };
    await using pool = new Pool(service, options);
    assertLess(made, 2); // one a turn of the event loop
    await until(() => pool.stats().workers.length === 3);
    assertEquals([made, started[0]], [3, 3]);
    await assertAll(pool, 3);
    // Calls that come at once start no more.
    await using busy = new Pool(service, { ...options, init: undefined });
    assertEquals(await busy.map("double", numbers(100)), doubles(100));
    await assertAll(busy, 3);
    assertEquals(made, 6);
    // If it is ended at once, no more are started.
    const ended = new Pool(service, options);
    await ended.terminate();
    await using _later = new Pool(service, { size: 1, eager: true });
    await until(() => _later.stats().workers.length === 1);
    assertLess(made, 9);
    await new Pool(service, options).close();
  } finally {
    globalThis.Worker = Worker;
  }
});

poolTest("Pool: an eager one that does not start tells its calls", async () => {
  const init: Setup = { started: shared(0), failing: numbers(100) };
  await using pool = new Pool(service, { size: 2, eager: true, init });
  await until(() => init.started![0] >= 2);
  await assertRejects(() => pool.apply("double", [1]), WorkerStartError);
});

Deno.test("serve: twice in one module is refused", async () => {
  const mod = import.meta.resolve("../../mod.ts");
  const code = `
    import { serve } from ${JSON.stringify(mod)};
    export const service = serve(import.meta, { f: () => 1 });
    export const other = serve(import.meta, { g: () => 2 });
  `;
  const url = `data:application/typescript,${encodeURIComponent(code)}`;
  const error = await assertRejects(() => import(url), Error, "twice");
  assertStringIncludes(error.message, url);
  await using pool = new Pool<{ f: () => number }>(url, { size: 1 });
  await assertRejects(() => pool.apply("f", []), WorkerStartError, "twice");
});

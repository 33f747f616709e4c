/** Aborts, timeouts, and jobs that ignore them. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { JobError, Pool, sequential, WorkerLostError } from "../../mod.ts";
import { Gate, HANGS, type Memory, shared, until } from "./gates.ts";
import { service } from "./jobs.ts";
import { doubles, numbers, poolTest, runAlone, runnerTest } from "./runners.ts";
import { watched } from "./spies.ts";

/**
 * A `timeout`, in ms, that no item reaches on the busiest machine unless it
 * never ends. Where only such items have one it is shorter.
 */
const LIMIT = 1000;

runnerTest("an aborted signal keeps a call from beginning", async (runner) => {
  const { memory } = new Gate();
  const signal = AbortSignal.abort("no");
  let pulled = 0;
  const items = function* () {
    for (;;) yield (pulled++, memory);
  };
  const calls = [
    () => runner.apply("hold", [memory], { signal }),
    () => runner.map("hold", items(), { signal }),
    () => runner.imap("hold", items(), { signal }).next(),
    () =>
      runner.imapUnordered("hold", items(), { signal, settle: true }).next(),
  ];
  for (const call of calls) {
    assertEquals(await call().catch((reason) => reason), "no");
  }
  assertEquals(await runner.apply("double", [1]), 2);
  assertEquals([pulled, memory[0]], [0, 0]);
});

runnerTest(
  "an abort rejects a running call with its reason",
  async (runner) => {
    const calls = [
      (gate: Memory, signal: AbortSignal) =>
        runner.apply("hold", [gate], { signal }),
      (gate: Memory, signal: AbortSignal) =>
        runner.map("never", [gate, gate, gate], { signal, settle: true }),
      (gate: Memory, signal: AbortSignal) =>
        runner.imap("never", [gate, gate, gate], { signal }).next(),
      (gate: Memory, signal: AbortSignal) =>
        Array.fromAsync(
          runner.imapUnordered("never", Array(9).fill(gate), { signal }),
        ),
    ];
    for (const call of calls) {
      for (const reason of [new RangeError("enough"), null, 0]) {
        const { abort, signal, listeners } = watched();
        const gate = new Gate();
        const running = call(gate.memory, signal);
        await until(() => gate.arrived > 0);
        abort(reason);
        assertEquals(await running.catch((error) => [error]), [reason]);
        assertEquals(listeners(), 0);
      }
    }
    assertEquals(await runner.map("double", numbers(50)), doubles(50));
  },
);

runnerTest(
  "an abort comes before results that were not read",
  async (runner) => {
    const controller = new AbortController();
    const results = runner.imap("double", numbers(1000), {
      signal: controller.signal,
    });
    assertEquals(await results.next(), { done: false, value: 0 });
    if (runner instanceof Pool) await until(() => runner.stats().done > 1);
    controller.abort("left");
    assertEquals(await results.next().catch((reason) => reason), "left");
    assertEquals(await results.next(), { done: true, value: undefined });
  },
);

runnerTest("an abort also rejects where the input hangs", async (runner) => {
  const controller = new AbortController();
  const waits = Promise.withResolvers<void>();
  const hangs = async function* () {
    yield 1;
    waits.resolve();
    await new Promise(() => {});
  };
  const call = runner.map("double", hangs(), { signal: controller.signal });
  await waits.promise;
  controller.abort("enough");
  assertEquals(await call.catch((reason) => reason), "enough");
});

poolTest("Pool: what is aborted in the queue is never begun", async () => {
  await using pool = new Pool(service, { size: 1 });
  const [busy, waiting] = [new Gate(), new Gate()];
  const controller = new AbortController();
  const running = pool.apply("hold", [busy.memory, 50]);
  const options = { signal: controller.signal };
  const queued = numbers(1000).map(() =>
    pool.apply("hold", [waiting.memory], options)
  );
  const other = pool.map("double", numbers(10));
  await until(() => busy.arrived === 1);
  controller.abort("not any more");
  for (const outcome of await Promise.allSettled(queued)) {
    assertEquals(outcome, { status: "rejected", reason: "not any more" });
  }
  busy.open();
  assertEquals(await running, 50);
  assertEquals(await other, doubles(10));
  assertEquals(waiting.arrived, 0);
  assertEquals(pool.stats().queued, 0);
});

poolTest(
  "Pool: ten thousand calls share a signal, and leave it alone",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    const { abort, signal, listeners } = watched();
    const calls = numbers(10_000).map((n) =>
      pool.apply("double", [n], { signal })
    );
    assert(listeners() <= 1, `${listeners()}`);
    assertEquals(await Promise.all(calls), doubles(10_000));
    assertEquals(listeners(), 0);
    const gate = new Gate();
    const more = Promise.allSettled(
      numbers(10_000).map(() => pool.apply("hold", [gate.memory], { signal })),
    );
    await until(() => gate.arrived > 0);
    abort("all of you");
    for (const outcome of await more) {
      assertEquals(outcome, { status: "rejected", reason: "all of you" });
    }
    assertEquals(listeners(), 0);
    assertEquals(await pool.apply("double", [1]), 2);
  },
);

poolTest("Pool: a job that listens keeps its worker", async () => {
  await using pool = new Pool(service, { size: 1 });
  assertEquals(await pool.apply("worker", []), "manyhands 1");
  for (const job of ["hold", "holdThread"] as const) {
    const controller = new AbortController();
    const gate = new Gate();
    const { signal } = controller;
    const call = pool.apply(job, [gate.memory], { signal })
      .catch((reason) => reason);
    await until(() => gate.arrived === 1);
    controller.abort("listen");
    // It may take as long as it likes to answer: while the caller itself is
    // late, no time limit has passed.
    gate.blockUntilLeft();
    Atomics.wait(shared(0), 0, 0, 200);
    assertEquals(await call, "listen");
    assertEquals(await pool.apply("worker", []), "manyhands 1");
  }
  assertEquals(pool.stats().stuck, 0);
  // Also if the call was not aborted but its results were left unread.
  const gate = new Gate();
  gate.open(1);
  const items = [gate.memory, gate.memory];
  for await (const _ of pool.imap("hold", items, { chunkSize: 1 })) {
    await until(() => gate.arrived === 2);
    break;
  }
  await until(() => gate.left === 2);
  assertEquals(await pool.apply("worker", []), "manyhands 1");
});

poolTest(
  "Pool: a job that only waits is stopped, and its worker replaced",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    const options = { timeout: 30 };
    const error = await assertRejects(
      () => pool.apply("never", [shared(0)], options),
      DOMException,
    );
    assertEquals(error.name, "TimeoutError");
    assertStringIncludes(
      error.message,
      "'never' ran longer than 30 ms on item 0",
    );
    assertEquals(await pool.apply("worker", []), "manyhands 2");
    await until(() => pool.stats().stuck === 0);
    const { lost, failed } = pool.stats();
    assertEquals([lost, failed], [0, 1]);
  },
);

runnerTest("a timeout is an item's own", async (runner) => {
  const items = numbers(40).map((n): [number, number] => [n, 17]);
  const [outcomes] = await Promise.all([
    runner.starmap("pollAt", items, {
      timeout: LIMIT,
      settle: true,
      chunkSize: 40,
    }),
    assertRejects(
      () => runner.starmap("pollAt", items, { timeout: LIMIT }),
      DOMException,
      "item 17",
    ),
  ]);
  for (const [n, outcome] of outcomes.entries()) {
    assertEquals(outcome.status, n === 17 ? "rejected" : "fulfilled", `${n}`);
    if (outcome.status === "rejected") {
      assertEquals(outcome.reason.name, "TimeoutError");
    }
  }
  assertEquals(await runner.apply("double", [1]), 2);
});

runnerTest("a timeout counts only what an item runs", async (runner) => {
  // In the queue they wait longer than they may run.
  const items = Array(20).fill(LIMIT / 16);
  const options = { timeout: LIMIT, chunkSize: 20 };
  assertEquals(await runner.map("block", items, options), items);
});

poolTest("Pool: a caller that blocks is not the job's fault", async () => {
  const blockThread = () => Atomics.wait(shared(0), 0, 0, LIMIT + 200);
  await using pool = new Pool(service, { size: 1 });
  await using slow = new Pool(service, { size: 1, startTimeout: LIMIT });
  await pool.apply("double", [1]);
  const call = pool.map("double", numbers(100), { timeout: LIMIT });
  // Nor does a worker that starts meanwhile count as late.
  const first = slow.apply("double", [1]);
  await Promise.resolve();
  blockThread();
  assertEquals(await call, doubles(100));
  assertEquals(await first, 2);
  // Nor do an item's neighbors time out, if its worker is given up meanwhile.
  const items = numbers(9).map((n): [number, number] => [n, 5]);
  const options = { timeout: LIMIT, settle: true } as const;
  const outcomes = pool.starmap("pollAt", items, options);
  await until(() => pool.stats().failed === 1);
  blockThread();
  assertEquals(
    (await outcomes).map(({ status }) => status[0]).join(""),
    "fffffrfff",
  );
});

runnerTest("a timeout is tried again, an error is not", async (runner) => {
  // A try may time out before it comes to the gate, so only those that come
  // are counted.
  const gate = new Gate();
  const call = runner.apply("hold", [gate.memory, 7], {
    timeout: 50,
    retries: 1000,
  });
  await until(() => gate.left > 0);
  gate.open();
  assertEquals(await call, 7);
  const counter = shared(0);
  await assertRejects(
    () => runner.apply("countAndFail", [counter], { retries: 5 }),
    JobError,
  );
  assertEquals(counter[0], 1);
  await until(async () => {
    const tries = new Gate();
    const options = { timeout: 50, retries: 2 };
    const error = await runner.apply("hold", [tries.memory], options)
      .catch((error) => error);
    assertEquals(error.name, "TimeoutError");
    // Nothing on this thread can stop a job that waits.
    if (!(runner instanceof Pool)) {
      await until(() => tries.left === tries.arrived);
    }
    assertLess(tries.arrived, 4);
    return tries.arrived === 3;
  });
});

poolTest("Pool: a lost item is tried again, in its place", async () => {
  for (const ordered of [true, false]) {
    const kills = shared(25);
    const some = shared(10);
    await using pool = new Pool(service, { size: 3, init: some });
    const items = numbers(10_000).map((n): [number, Memory] => [n, kills]);
    const options = { retries: 35 };
    if (ordered) {
      assertEquals(
        await pool.starmap("fragile", items, options),
        numbers(10_000),
      );
    } else {
      const seen: number[] = [];
      const ns = (function* () {
        for (const [n] of items) yield n;
      })();
      for await (const n of pool.imapUnordered("same", ns, options)) {
        seen.push(n as number);
      }
      assertEquals(seen.sort((a, b) => a - b), numbers(10_000));
    }
    if (ordered) assert(pool.stats().lost >= 25, `${pool.stats().lost}`);
  }
});

poolTest(
  "cancelled: an asynchronous job hears of its own cancellation only",
  async () => {
    await using pool = new Pool(service, { size: 3 });
    for (const runner of [pool, sequential(service)]) {
      const controller = new AbortController();
      const { signal } = controller;
      const [own, others] = [new Gate(), new Gate()];
      const call = runner.apply("hold", [own.memory], { signal })
        .catch((reason) => reason);
      const calls = [
        runner.apply("isCancelled", [others.memory]),
        runner.apply("isCancelled", [others.memory], { timeout: HANGS }),
      ];
      await until(() => own.arrived + others.arrived === 3);
      controller.abort("one");
      assertEquals(await call, "one");
      await until(() => own.left === 1);
      others.open();
      assertEquals(await Promise.all(calls), [false, false]);
    }
  },
);

Deno.test("Pool: a thread that does not listen is given up, counted and replaced", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 2 });
    const [{ reason }] = await pool.map("spin", [shared(0)], { timeout: ${LIMIT}, settle: true });
    console.log(reason.name);
    console.log((await pool.map("double", Array.from({ length: 1000 }, (_, n) => n))).length);
    await until(() => pool.stats().stuck === 1 && pool.stats().workers.every(({ worker }) => worker > 1));
    console.log(pool.stats().stuck, pool.stats().lost);
    const meeting = shared(0);
    console.log(await pool.starmap("meet", [[meeting, 2], [meeting, 2]]));
    await pool.terminate();
    console.log("ended");
    const one = new Pool(service, { size: 1 });
    await one.apply("spin", [shared(0)], { timeout: ${LIMIT} }).catch((e) => console.log(e.name));
    console.log(await one.apply("double", [21]));
    await until(() => one.stats().stuck === 1);
    Deno.exit();
  `);
  assertEquals(
    output,
    "TimeoutError\n1000\n1 0\n[ 2, 2 ]\nended\nTimeoutError\n42\n",
  );
});

Deno.test("Pool: as many stuck threads as workers, and it gives up", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 2 });
    const controller = new AbortController();
    const gate = new Gate();
    const aborted = pool.apply("spin", [gate.memory], { signal: controller.signal }).catch((e) => e);
    const timedOut = pool.apply("spin", [gate.memory], { timeout: ${LIMIT} }).catch((e) => e.name);
    await until(() => gate.arrived === 2);
    controller.abort("stop");
    console.log(await aborted, await timedOut);
    const error = await pool.map("double", [1, 2, 3]).catch((e) => e);
    console.log(error.name, error.message.replace(/.*: /, ""));
    console.log((await pool.apply("double", [1]).catch((e) => e)).name);
    console.log(JSON.stringify(pool.stats()));
    await pool.close();
    Deno.exit();
  `);
  assertEquals(
    output,
    "stop TimeoutError\n" +
      "WorkerStartError 2 jobs were cancelled and do not end\n" +
      "WorkerStartError\n" +
      '{"size":2,"busy":0,"queued":0,"done":0,"failed":1,"lost":0,"stuck":2,"workers":[]}\n',
  );
});

Deno.test("Pool: of a chunk with an endless loop all others are settled", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 2 });
    await pool.starmap("spinAt", Array.from({ length: 2000 }, (_, n) => [n, -1]));
    const items = Array.from({ length: 2000 }, (_, n) => [n, 777]);
    const outcomes = await pool.starmap("spinAt", items, { timeout: ${LIMIT}, settle: true, chunkSize: 100 });
    const bad = outcomes.flatMap(({ status, reason }, n) => status === "rejected" ? [n, reason.name] : []);
    console.log(bad.join(" "));
    Deno.exit();
  `);
  assertEquals(output, "777 TimeoutError\n");
});

poolTest("Pool: close and terminate end calls that hang", async () => {
  const pool = new Pool(service, { size: 2 });
  const call = pool.apply("never", [shared(0)], { timeout: 50 })
    .catch((error) => error.name);
  await pool.close();
  assertEquals(await call, "TimeoutError");
  const other = new Pool(service, { size: 2 });
  const lost = other.apply("exitOn", [1, 1]).catch((error) => error);
  const hangs = other.apply("never", [shared(0)]).catch((error) => error.name);
  assertInstanceOf(await lost, WorkerLostError);
  await other.terminate();
  assertEquals(await hangs, "AbortError");
});

poolTest("Pool: what was timed out and came back is counted once", async () => {
  await using pool = new Pool(service, { size: 1 });
  const items = numbers(9).map((n): [number, number] => [n, 5]);
  const options = { timeout: LIMIT, settle: true, retries: 1 } as const;
  await pool.starmap("pollAt", items, options);
  const gate = new Gate();
  const call = pool.apply("hold", [gate.memory], {
    timeout: 50,
    retries: 1000,
  });
  await until(() => gate.left > 0);
  gate.open();
  await call;
  await until(() => pool.stats().stuck === 0);
  const { done, failed, lost } = pool.stats();
  assertEquals([done, failed, lost], [9, 1, 0]);
});

poolTest(
  "Pool: what was moved does not wait behind a thread that hangs",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    await pool.map("same", numbers(50)); // now it is known to be short
    const transfer = (bytes: Uint8Array<ArrayBuffer>) => [bytes.buffer];
    const [bad, ...good] = await Promise.allSettled([
      pool.apply("never", [shared(0)], { timeout: 50 }),
      ...numbers(8).map((n) =>
        pool.map("same", [new Uint8Array(n)], { transfer })
      ),
    ]);
    assertEquals(bad.status, "rejected");
    assertEquals(good.map(({ status }) => status), Array(8).fill("fulfilled"));
  },
);

poolTest("Pool: what has timed out is not lost as well", async () => {
  await using pool = new Pool(service, { size: 2 });
  const items = numbers(4).map((n): [number, number] => [n, 0]);
  const options = { timeout: LIMIT, settle: true } as const;
  const outcomes = await pool.starmap("neverAt", items, options);
  assertEquals(outcomes.map(({ status }) => status[0]).join(""), "rfff");
  // When its worker ends as well, only one has failed, and none is lost.
  const hasEnded = () =>
    pool.stats().workers.every(({ worker }) => worker !== 1);
  await until(() => hasEnded() && pool.stats().stuck === 0);
  const { failed, lost } = pool.stats();
  assertEquals([failed, lost], [1, 0]);
});

runnerTest("an input is closed, whatever aborts its call", async (runner) => {
  const controllers = numbers(4).map(() => new AbortController());
  let closed = 0;
  const inSync = function* (abortAt: number, controller: AbortController) {
    try {
      for (let n = 0;; n++) {
        if (n === abortAt) controller.abort("enough");
        yield n;
      }
    } finally {
      closed++;
    }
  };
  const input = async function* (abortAt: number, controller: AbortController) {
    yield* inSync(abortAt, controller);
  };
  const gate = new Gate();
  const gates = async function* () {
    for await (const _ of input(Infinity, four)) yield gate.memory;
  };
  const [one, two, three, four] = controllers;
  const calls = [
    () => runner.map("double", input(7, one), { signal: one.signal }),
    () => runner.map("double", inSync(7, two), { signal: two.signal }),
    () =>
      Array.fromAsync(
        runner.imap("double", inSync(7, three), { signal: three.signal }),
      ),
    async () => {
      const call = runner.map("never", gates(), { signal: four.signal });
      await until(() => gate.arrived > 0);
      four.abort("enough");
      return await call;
    },
  ];
  for (const call of calls) {
    assertEquals(await call().catch((reason) => reason), "enough");
  }
  await until(() => closed === 4);
});

Deno.test("Pool: a module that blocks at its top level does not gather threads", async () => {
  const module = `data:application/typescript,${
    encodeURIComponent("for (;;);")
  }`;
  const output = await runAlone(`
    const pool = new Pool(${
    JSON.stringify(module)
  }, { size: 2, startTimeout: 200 });
    for (let i = 0; i < 5; i++) {
      const error = await pool.apply("double", [i]).catch((error) => error);
      console.log(error.name, error.cause.message, pool.stats().stuck <= 2);
    }
    await pool.close();
    Deno.exit();
  `);
  const line = "WorkerStartError it did not serve within 200 ms true\n";
  assertEquals(output, line.repeat(5));
});

Deno.test("Pool: an idle worker keeps nothing of what was cancelled", async () => {
  const output = await runAlone(
    `
    await using pool = new Pool(service, { size: 1 });
    const cancel = async (options) => {
      const gate = new Gate();
      const call = pool.apply("hold", [gate.memory], options(gate));
      await call.catch(({ name }) => console.log(name));
      await until(() => pool.stats().busy === 0);
      return new WeakRef(gate.memory);
    };
    const aborted = (gate) => {
      const controller = new AbortController();
      until(() => gate.arrived > 0).then(() => controller.abort());
      return controller;
    };
    for (const options of [() => ({ timeout: 1 }), aborted]) {
      const argument = await cancel(options);
      await until(() => (gc(), argument.deref() === undefined));
    }
    console.log("nothing is left");
  `,
    ["--v8-flags=--expose-gc"],
  );
  assertEquals(output, "TimeoutError\nAbortError\nnothing is left\n");
});

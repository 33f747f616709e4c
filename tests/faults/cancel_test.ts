/** Aborts, timeouts, and threads that do not listen. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { JobError, Pool, sequential, WorkerLostError } from "../../mod.ts";
import { service } from "../jobs.ts";
import {
  doubles,
  numbers,
  poolTest,
  runAlone,
  runnerTest,
  shared,
} from "../runners.ts";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A signal that counts who listens to it. */
function watched(): {
  abort: (reason?: unknown) => void;
  signal: AbortSignal;
  listeners: () => number;
} {
  const controller = new AbortController();
  const { signal } = controller;
  let count = 0;
  for (
    const [method, step] of [["addEventListener", 1], [
      "removeEventListener",
      -1,
    ]] as const
  ) {
    const original = signal[method];
    Object.defineProperty(signal, method, {
      value: (...args: unknown[]) => {
        count += step;
        Reflect.apply(original, signal, args);
      },
    });
  }
  return {
    abort: (reason) => controller.abort(reason),
    signal,
    listeners: () => count,
  };
}

runnerTest("an aborted signal keeps a call from beginning", async (runner) => {
  const counter = shared(0);
  const signal = AbortSignal.abort("no");
  let pulled = 0;
  const items = function* () {
    for (;;) yield (pulled++, counter);
  };
  const calls = [
    () => runner.apply("pollAsync", [counter], { signal }),
    () => runner.map("pollAsync", items(), { signal }),
    () => runner.imap("pollAsync", items(), { signal }).next(),
    () =>
      runner.imapUnordered("pollAsync", items(), { signal, settle: true })
        .next(),
  ];
  for (const call of calls) {
    assertEquals(await call().catch((reason) => reason), "no");
  }
  assertEquals([pulled, counter[0]], [0, 0]);
  assertEquals(await runner.apply("double", [1]), 2);
});

runnerTest(
  "an abort rejects a running call with its reason",
  async (runner) => {
    const calls = [
      (signal: AbortSignal) =>
        runner.apply("pollAsync", [shared(0)], { signal }),
      (signal: AbortSignal) =>
        runner.map("never", [1, 2, 3], { signal, settle: true }),
      (signal: AbortSignal) =>
        runner.imap("never", [1, 2, 3], { signal }).next(),
      (signal: AbortSignal) =>
        Array.fromAsync(runner.imapUnordered("never", numbers(9), { signal })),
    ];
    for (const call of calls) {
      for (const reason of [new RangeError("enough"), null, 0]) {
        const { abort, signal, listeners } = watched();
        const running = call(signal);
        setTimeout(() => abort(reason), 20);
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
    await pause(20);
    controller.abort("left");
    assertEquals(await results.next().catch((reason) => reason), "left");
    assertEquals(await results.next(), { done: true, value: undefined });
  },
);

runnerTest("an abort also rejects where the input hangs", async (runner) => {
  const controller = new AbortController();
  const hangs = async function* () {
    yield 1;
    await new Promise(() => {});
  };
  const call = runner.map("double", hangs(), { signal: controller.signal });
  setTimeout(() => controller.abort("enough"), 20);
  assertEquals(await call.catch((reason) => reason), "enough");
});

poolTest("Pool: what is aborted in the queue is never begun", async () => {
  await using pool = new Pool(service, { size: 1 });
  const counter = shared(1, 0);
  const controller = new AbortController();
  const busy = pool.apply("block", [50]);
  const queued = numbers(1000).map(() =>
    pool.apply("countOrFail", [counter, 1], { signal: controller.signal })
  );
  const other = pool.map("double", numbers(10));
  await pause(5);
  controller.abort("not any more");
  for (const outcome of await Promise.allSettled(queued)) {
    assertEquals(outcome, { status: "rejected", reason: "not any more" });
  }
  assertEquals(await busy, 50);
  assertEquals(await other, doubles(10));
  assertEquals(counter[0], 1);
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
    const more = Promise.allSettled(
      numbers(10_000).map((n) => pool.apply("sleep", [n], { signal })),
    );
    await pause(20);
    abort("all of you");
    for (const outcome of await more) {
      if (outcome.status === "rejected") {
        assertEquals(
          outcome.reason,
          "all of you",
        );
      }
    }
    assertEquals(listeners(), 0);
    assertEquals(await pool.apply("double", [1]), 2);
  },
);

poolTest("Pool: a job that listens keeps its worker", async () => {
  await using pool = new Pool(service, { size: 1 });
  assertEquals(await pool.apply("worker", []), "manyhands 1");
  for (const job of ["poll", "pollAsync"] as const) {
    const controller = new AbortController();
    const heard = shared(0);
    const options = { signal: controller.signal };
    const call = job === "poll"
      ? pool.apply(job, [1], options)
      : pool.apply(job, [heard], options);
    setTimeout(() => controller.abort("listen"), 30);
    assertEquals(
      await Promise.resolve(call).catch((reason) => reason),
      "listen",
    );
    assertEquals(await pool.apply("worker", []), "manyhands 1");
    if (job === "pollAsync") assertEquals(heard[0], 1);
  }
  assertEquals(pool.stats().stuck, 0);
  // Also when nobody aborted: the call has failed, or was left.
  const items: [Int32Array<SharedArrayBuffer>, number][] = [[shared(0), 1], [
    shared(0),
    0,
  ]];
  await assertRejects(() => pool.starmap("countOrFail", items), JobError);
});

poolTest(
  "Pool: a job that only waits is stopped, and its worker replaced",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    const options = { timeout: 30 };
    const error = await assertRejects(
      () => pool.apply("never", [1], options),
      DOMException,
    );
    assertEquals(error.name, "TimeoutError");
    assertStringIncludes(
      error.message,
      "'never' ran longer than 30 ms on item 0",
    );
    assertEquals(await pool.apply("worker", []), "manyhands 2");
    const { stuck, lost, failed } = pool.stats();
    assertEquals([stuck, lost, failed], [0, 0, 1]);
  },
);

runnerTest("a timeout is an item's own", async (runner) => {
  const items = numbers(40).map((n): [number, number] => [n, 17]);
  const timeout = 100;
  const outcomes = await runner.starmap("pollAt", items, {
    timeout,
    settle: true,
  });
  for (const [n, outcome] of outcomes.entries()) {
    assertEquals(outcome.status, n === 17 ? "rejected" : "fulfilled", `${n}`);
    if (outcome.status === "rejected") {
      assertEquals(outcome.reason.name, "TimeoutError");
    }
  }
  await assertRejects(
    () => runner.starmap("pollAt", items, { timeout }),
    DOMException,
    "item 17",
  );
  assertEquals(await runner.apply("double", [1]), 2);
});

runnerTest("a timeout counts only what an item runs", async (runner) => {
  // Behind one another in the queue they wait much longer than they may run.
  const items = Array(20).fill(30);
  const options = { timeout: 400, chunkSize: 20 };
  assertEquals(await runner.map("block", items, options), items);
});

poolTest("Pool: a caller that blocks is not the job's fault", async () => {
  await using pool = new Pool(service, { size: 1 });
  await pool.apply("double", [1]);
  const call = pool.map("double", numbers(100), { timeout: 50 });
  await Promise.resolve();
  Atomics.wait(shared(0), 0, 0, 300);
  assertEquals(await call, doubles(100));
  // Nor are its neighbours', when one of them is given up meanwhile.
  const items = numbers(9).map((n): [number, number] => [n, 5]);
  const outcomes = pool.starmap("pollAt", items, { timeout: 50, settle: true });
  await pause(60);
  Atomics.wait(shared(0), 0, 0, 300);
  assertEquals(
    (await outcomes).map(({ status }) => status[0]).join(""),
    "fffffrfff",
  );
  // Nor the start of a worker.
  await using slow = new Pool(service, { size: 1, startTimeout: 200 });
  const first = slow.apply("double", [1]);
  await Promise.resolve();
  Atomics.wait(shared(0), 0, 0, 500);
  assertEquals(await first, 2);
});

runnerTest("a timeout is tried again, an error is not", async (runner) => {
  const tries = shared(0);
  assertEquals(
    await runner.apply("spinOnce", [tries], { timeout: 50, retries: 1 }),
    2,
  );
  const counter = shared(0);
  await assertRejects(
    () => runner.apply("countAndFail", [counter], { retries: 5 }),
    JobError,
  );
  assertEquals(counter[0], 1);
  const again = shared(0);
  const error = await runner.apply("pollAsync", [again], {
    timeout: 10,
    retries: 2,
  }).catch((error) => error);
  assertEquals(error.name, "TimeoutError");
  await pause(20);
  assertEquals(again[0], 3);
});

poolTest("Pool: a lost item is tried again, in its place", async () => {
  for (const ordered of [true, false]) {
    const kills = shared(100);
    const some = shared(20);
    await using pool = new Pool(service, { size: 3, init: some });
    const items = numbers(10_000).map((
      n,
    ): [number, typeof kills] => [n, kills]);
    const options = { retries: 120 };
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
    if (ordered) assert(pool.stats().lost >= 100, `${pool.stats().lost}`);
  }
});

poolTest(
  "Pool: beside others, only the one that hangs is given up",
  async () => {
    await using pool = new Pool(service, { size: 1, concurrency: 5 });
    const calls = [
      pool.map("sleep", [300, 300, 300]),
      pool.apply("never", [1], { timeout: 40 }).catch((error) => [error.name]),
    ];
    assertEquals(await Promise.all(calls), [[300, 300, 300], ["TimeoutError"]]);
    assertEquals(await pool.apply("worker", []), "manyhands 2");
    assertEquals(pool.stats().lost, 0);
  },
);

poolTest(
  "cancelled: an asynchronous job hears of its own cancellation only",
  async () => {
    await using pool = new Pool(service, { size: 1, concurrency: 3 });
    for (const runner of [pool, sequential(service)]) {
      const controller = new AbortController();
      const heard = shared(0);
      const options = { signal: controller.signal };
      assertEquals(await runner.apply("double", [1]), 2); // it has started
      const calls = [
        runner.apply("pollAsync", [heard], options).catch((reason) => reason),
        runner.apply("isCancelled", [80]),
        runner.apply("isCancelled", [80], { timeout: 5000 }),
      ];
      setTimeout(() => controller.abort("one"), 30);
      assertEquals(await Promise.all(calls), ["one", false, false]);
      assertEquals(heard[0], 1);
    }
  },
);

Deno.test("Pool: a thread that does not listen is given up, counted and replaced", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 2 });
    const [{ reason }] = await pool.map("spin", [1], { timeout: 60, settle: true });
    console.log(reason.name, pool.stats().stuck);
    console.log((await pool.map("double", Array.from({ length: 1000 }, (_, n) => n))).length);
    await new Promise((resolve) => setTimeout(resolve, 300));
    console.log(pool.stats().stuck, pool.stats().lost);
    console.log((await pool.map("block", [50, 50])).length);
    await pool.terminate();
    console.log("ended");
    const one = new Pool(service, { size: 1 });
    await one.apply("spin", [1], { timeout: 60 }).catch((e) => console.log(e.name));
    console.log(await one.apply("double", [21]), one.stats().stuck);
    Deno.exit();
  `);
  const alone = "TimeoutError\n42 1\n";
  assertEquals(output, `TimeoutError 1\n1000\n1 0\n2\nended\n${alone}`);
});

Deno.test("Pool: as many stuck threads as workers, and it gives up", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 2 });
    const controller = new AbortController();
    const aborted = pool.apply("spin", [1], { signal: controller.signal }).catch((e) => e);
    const timedOut = pool.apply("spin", [1], { timeout: 80 }).catch((e) => e.name);
    while (pool.stats().busy < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    setTimeout(() => controller.abort("stop"), 80);
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
    const outcomes = await pool.starmap("spinAt", items, { timeout: 100, settle: true });
    const bad = outcomes.flatMap(({ status, reason }, n) => status === "rejected" ? [n, reason.name] : []);
    console.log(bad.join(" "));
    Deno.exit();
  `);
  assertEquals(output, "777 TimeoutError\n");
});

Deno.test("Pool: beside others, one that blocks the thread takes them along", async () => {
  const output = await runAlone(`
    const pool = new Pool(service, { size: 1, concurrency: 3 });
    const others = pool.map("sleep", [60_000, 60_000], { settle: true });
    while (pool.stats().busy === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const error = await pool.apply("spin", [1], { timeout: 80 }).catch((e) => e.name);
    console.log(error);
    for (const { reason } of await others) console.log(reason.name);
    Deno.exit();
  `);
  assertEquals(output, "TimeoutError\nWorkerLostError\nWorkerLostError\n");
});

poolTest("Pool: close and terminate end calls that hang", async () => {
  const pool = new Pool(service, { size: 2 });
  const call = pool.apply("never", [1], { timeout: 50 }).catch((error) =>
    error.name
  );
  await pool.close();
  assertEquals(await call, "TimeoutError");
  const other = new Pool(service, { size: 2 });
  const lost = other.apply("exitOn", [1, 1]).catch((error) => error);
  const hangs = other.apply("never", [1]).catch((error) => error.name);
  assertInstanceOf(await lost, WorkerLostError);
  await other.terminate();
  assertEquals(await hangs, "AbortError");
});

poolTest("Pool: what was timed out and came back is counted once", async () => {
  await using pool = new Pool(service, { size: 1 });
  const items = numbers(9).map((n): [number, number] => [n, 5]);
  const options = { timeout: 50, settle: true, retries: 2 } as const;
  await pool.starmap("pollAt", items, options);
  await pool.apply("spinOnce", [shared(0)], { timeout: 50, retries: 1 });
  const { done, failed, lost, stuck } = pool.stats();
  assertEquals([done, failed, lost, stuck], [9, 1, 0, 0]);
});

poolTest(
  "Pool: what was moved does not wait behind a thread that hangs",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    await pool.map("same", numbers(50)); // now it is known to be short
    const transfer = (bytes: Uint8Array<ArrayBuffer>) => [bytes.buffer];
    const [bad, ...good] = await Promise.allSettled([
      pool.apply("never", [1], { timeout: 50 }),
      ...numbers(8).map((n) =>
        pool.map("same", [new Uint8Array(n)], { transfer })
      ),
    ]);
    assertEquals(bad.status, "rejected");
    assertEquals(good.map(({ status }) => status), Array(8).fill("fulfilled"));
  },
);

poolTest(
  "Pool: a death is not overlooked beside a job that hangs",
  async () => {
    await using pool = new Pool(service, { size: 1, concurrency: 4 });
    await pool.apply("double", [1]);
    const calls = Promise.allSettled([
      pool.apply("never", [1], { timeout: 20 }),
      pool.apply("exitAfter", [160]),
      pool.apply("sleep", [5000]),
    ]);
    await pause(125); // by now the thread was asked whether it lives
    Atomics.wait(shared(0), 0, 0, 200);
    const names = (await calls).map((outcome) =>
      outcome.status === "rejected" && outcome.reason.name
    );
    assertEquals(names, ["TimeoutError", "WorkerLostError", "WorkerLostError"]);
  },
);

poolTest("Pool: what has timed out is not lost as well", async () => {
  await using pool = new Pool(service, { size: 2 });
  const items = [60_000, 200, 200, 200];
  const options = { timeout: 300, settle: true } as const;
  const outcomes = await pool.map("sleep", items, options);
  assertEquals(outcomes.map(({ status }) => status[0]).join(""), "rfff");
});

runnerTest("an input is closed, whatever aborts its call", async (runner) => {
  const controllers = numbers(4).map(() => new AbortController());
  let closed = 0;
  const input = async function* (abortAt: number, controller: AbortController) {
    try {
      for (let n = 0;; n++) {
        if (n === abortAt) controller.abort("enough");
        yield n;
      }
    } finally {
      closed++;
    }
  };
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
  const [one, two, three, four] = controllers;
  const calls = [
    () => runner.map("double", input(7, one), { signal: one.signal }),
    () => runner.map("double", inSync(7, two), { signal: two.signal }),
    () =>
      Array.fromAsync(
        runner.imap("double", inSync(7, three), { signal: three.signal }),
      ),
    () => {
      setTimeout(() => four.abort("enough"), 30);
      return runner.map("never", input(1e9, four), { signal: four.signal });
    },
  ];
  for (const call of calls) {
    assertEquals(await call().catch((reason) => reason), "enough");
  }
  await pause(1);
  assertEquals(closed, 4);
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

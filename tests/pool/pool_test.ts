import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  JobError,
  Pool,
  type PoolOptions,
  type Runner,
  sequential,
  serve,
  type TaskTiming,
} from "../../mod.ts";
import { Gate, shared, turn, until } from "./gates.ts";
import { type jobs, service } from "./jobs.ts";
import { doubles, numbers, poolTest, runAlone, runnerTest } from "./runners.ts";

/** Items whose first ends last in a pool; on one thread they end in order. */
function firstEndsLast(runner: Runner<typeof jobs>) {
  const ended = shared(0);
  const order = runner instanceof Pool ? [2, 0, 1] : [0, 1, 2];
  return order.map((others) => ({ ended, others }));
}

async function* slowly<T>(items: Iterable<T>): AsyncGenerator<T> {
  for (const item of items) {
    if (Math.random() < 0.1) await new Promise((r) => setTimeout(r));
    yield item;
  }
}

runnerTest("apply gives one result", async (runner) => {
  assertEquals(await runner.apply("add", [1, 2]), 3);
  assertEquals(await runner.apply("later", [1]), 1);
});

runnerTest(
  "map gives results in order, for any kind of input",
  async (runner) => {
    for (const count of [0, 1, 2, 3, 100, 5000]) {
      const wanted = doubles(count);
      assertEquals(await runner.map("double", numbers(count)), wanted);
      assertEquals(await runner.map("double", new Set(numbers(count))), wanted);
    }
    assertEquals(
      await runner.map("double", slowly(numbers(300))),
      doubles(300),
    );
    const items = firstEndsLast(runner);
    const order = items.map(({ others }) => others);
    assertEquals(await runner.map("endAfter", items), order);
  },
);

runnerTest("starmap spreads its items over the arguments", async (runner) => {
  assertEquals(await runner.starmap("add", [[1, 2], [3, 4]]), [3, 7]);
});

runnerTest("imap yields in order, also what is done early", async (runner) => {
  for (const items of [numbers(2000), slowly(numbers(300))]) {
    let next = 0;
    for await (const n of runner.imap("double", items)) {
      assertEquals(n, 2 * next++);
    }
  }
  const items = firstEndsLast(runner);
  const order = items.map(({ others }) => others);
  assertEquals(await Array.fromAsync(runner.imap("endAfter", items)), order);
});

runnerTest("imapUnordered yields everything once", async (runner) => {
  for (const items of [numbers(2000), slowly(numbers(2000))]) {
    const all = await Array.fromAsync(runner.imapUnordered("double", items));
    assertEquals(all.sort((a, b) => a - b), doubles(2000));
  }
});

runnerTest("chunkSize changes nothing but the messages", async (runner) => {
  for (const chunkSize of [1, 2, 7, 1000]) {
    const options = { chunkSize };
    assertEquals(await runner.map("double", numbers(50), options), doubles(50));
    assertEquals(
      await Array.fromAsync(runner.imap("double", numbers(50), options)),
      doubles(50),
    );
  }
});

runnerTest("settle tells the fate of every item", async (runner) => {
  const options = { settle: true } as const;
  const outcomes = await runner.map("fail", [-1, 5, -2], options);
  const streamed = await Array.fromAsync(
    runner.imap("fail", [-1, 5, -2], options),
  );
  for (const [good, bad, other] of [outcomes, streamed]) {
    assertEquals(good, { status: "fulfilled", value: -1 });
    assertEquals(other, { status: "fulfilled", value: -2 });
    assert(bad.status === "rejected");
    assertInstanceOf(bad.reason, JobError);
  }
  const single = await runner.apply("fail", [1], options);
  assertEquals(single.status, "rejected");
});

runnerTest("an error tells the job, the item and the cause", async (runner) => {
  const error = await assertRejects(
    () => runner.map("fail", [-1, -2, 7, -3]),
    JobError,
    "Job 'fail' failed on item 2: no 7",
  );
  assertEquals([error.name, error.job, error.index], ["JobError", "fail", 2]);
  const cause = error.cause as RangeError;
  assertInstanceOf(cause, RangeError);
  assertEquals([cause.name, cause.message], ["RangeError", "no 7"]);
  assertStringIncludes(cause.stack!, "jobs.ts");
  assertEquals(cause.cause, { n: 7 });
  await assertRejects(() => runner.apply("reject", [1]), JobError, "not 1");
  const missing = await runner.apply("throwNotFound", []).catch((e) => e);
  assertEquals([missing.cause.name, missing.cause.code], [
    "NotFound",
    "ENOENT",
  ]);
  const nothing = await runner.apply("throwNull", []).catch((e) => e);
  assertInstanceOf(nothing, JobError);
  assertEquals(nothing.cause, null);
  assertEquals(await runner.apply("double", [1]), 2);
});

runnerTest("strings are iterable, numbers are not", async (runner) => {
  assertEquals(await runner.map("same", "abc"), ["a", "b", "c"]);
  const items = 5 as unknown as number[];
  await assertRejects(() => runner.map("double", items), TypeError, "'items'");
  assertThrows(() => runner.imap("double", items), TypeError, "is 5");
});

runnerTest("close waits for a map, terminate fails it", async (runner) => {
  const gate = new Gate();
  const events: string[] = [];
  const note = (event: string) => () => void events.push(event);
  const map = runner.map("hold", [gate.memory, gate.memory]);
  const ended = map.then(note("map"));
  await until(() => gate.arrived > 0);
  const closed = runner.close().then(turn).then(note("close"));
  for (let i = 0; i < 10; i++) await turn();
  gate.open();
  await Promise.all([ended, closed]);
  assertEquals(events, ["map", "close"]);
  await using other = runner instanceof Pool
    ? new Pool(service, { size: 1 })
    : sequential(service);
  const shut = new Gate();
  const items = Array(50).fill(shut.memory);
  const failed = other.map("hold", items).catch((error) => error.name);
  await until(() => shut.arrived > 0);
  await other.terminate();
  assertEquals(await failed, "AbortError");
  // Nothing on this thread can stop a job that waits.
  shut.open();
  if (!(runner instanceof Pool)) await until(() => shut.left > 0);
});

runnerTest("imap throws after the results that came before", async (runner) => {
  const seen: number[] = [];
  await assertRejects(
    async () => {
      for await (const n of runner.imap("fail", [-1, -2, 7, -3])) seen.push(n);
    },
    JobError,
    "item 2",
  );
  assertEquals(seen, [-1, -2]);
});

runnerTest("a consumer that leaves early closes the input", async (runner) => {
  for (const method of ["imap", "imapUnordered"] as const) {
    let closed = 0;
    let pulled = 0;
    const endless = function* () {
      try {
        for (;;) yield pulled++;
      } finally {
        closed++;
      }
    };
    const endlessly = async function* () {
      yield* endless();
    };
    for (const [i, items] of [endless(), endlessly()].entries()) {
      pulled = 0;
      let read = 0;
      for await (const _ of runner[method]("double", items)) {
        if (++read === 10) break;
      }
      await until(() => closed > i); // from here on nothing can be pulled
      assertLess(pulled, 30);
    }
    assertEquals(closed, 2);
  }
});

runnerTest(
  "bad options are refused, naming option and value",
  async (runner) => {
    for (const value of [0, -1, 1.5, NaN, Infinity]) {
      for (const option of ["chunkSize", "timeout", "retries"]) {
        const isNone = value === Infinity && option !== "chunkSize";
        if (isNone || option === "retries" && value === 0) continue;
        const options = { [option]: value };
        const error = await assertRejects(
          () => runner.map("double", [1], options),
          RangeError,
        );
        assertStringIncludes(error.message, `'${option}' must be`);
        assertStringIncludes(error.message, `${value}`);
        assertThrows(() => runner.imap("double", [1], options), RangeError);
      }
    }
    for (
      const bad of [{ settle: "yes" }, { transfer: 5 }, { chunkSize: "1" }]
    ) {
      const options = bad as unknown as { settle: true };
      const [[name, value]] = Object.entries(bad);
      const error = await assertRejects(
        () => runner.map("double", [1], options),
        TypeError,
        `'${name}'`,
      );
      assertStringIncludes(error.message, `${value}`);
    }
    const job = "toString" as "double";
    await assertRejects(() => runner.apply(job, [1]), TypeError, "'toString'");
    assertThrows(() => runner.imap(job, [1]), TypeError, "double, add");
  },
);

runnerTest("a closed runner refuses calls", async (runner) => {
  await runner.close();
  await runner.close();
  const error = await assertRejects(
    () => runner.apply("double", [1]),
    DOMException,
    "closed",
  );
  assertEquals(error.name, "InvalidStateError");
  assertThrows(() => runner.imap("double", [1]), DOMException);
});

poolTest("Pool and sequential agree on generated calls", async () => {
  await using pool = new Pool(service, { size: 2 });
  const alone = sequential(service);
  for (let round = 0; round < 30; round++) {
    const items = numbers(Math.floor(200 * Math.random())).map(() =>
      Math.floor(20 * Math.random()) - 15
    );
    const clue = `items ${items}`;
    const tell = (outcomes: PromiseSettledResult<number>[]) =>
      outcomes.map((outcome) =>
        outcome.status === "fulfilled" ? outcome.value : `${outcome.reason}`
      );
    const options = { settle: true } as const;
    assertEquals(
      tell(await pool.map("fail", items, options)),
      tell(await alone.map("fail", items, options)),
      clue,
    );
  }
});

poolTest("Pool: options of a wrong value or type are refused", async () => {
  for (const value of [0, -1, 1.5, NaN, Infinity]) {
    for (
      const option of [
        "size",
        "startTimeout",
        "idleTimeout",
        "maxTasksPerWorker",
      ]
    ) {
      const isNone = value === Infinity &&
        ["idleTimeout", "maxTasksPerWorker"].includes(option);
      if (isNone || option === "idleTimeout" && value === 0) continue;
      const options = { [option]: value } as PoolOptions;
      const error = assertThrows(() => new Pool(service, options), RangeError);
      assertStringIncludes((error as Error).message, `'${option}'`);
      assertStringIncludes((error as Error).message, `${value}`);
    }
  }
  for (
    const bad of [
      { size: "2" },
      { onTask: 5 },
      { name: 5 },
      { eager: 1 },
      { onWorkerLost: "log" },
      { concurrency: 2 }, // no option: what only waits needs no thread
    ]
  ) {
    const options = bad as unknown as PoolOptions;
    const [name] = Object.keys(bad);
    assertThrows(() => new Pool(service, options), TypeError, `'${name}'`);
  }
  const startTimeout = 2 ** 31; // more than a timer can wait
  assertThrows(() => new Pool(service, { startTimeout }), RangeError);
  assertThrows(() => new Pool("not a URL"), TypeError);
  assertThrows(() => new Pool(service, { init: () => {} }), DOMException);
  await Promise.resolve();
});

Deno.test("serve refuses what is not a function", () => {
  const job = 1 as unknown as () => void;
  assertThrows(() => serve(import.meta, { job }), TypeError, "'job'");
});

poolTest("Pool: runs in workers, named and set up once each", async () => {
  await using pool = new Pool(service, { size: 2, name: "w", init: "hi" });
  assertEquals(await pool.apply("isWorker", []), true);
  assertEquals(await pool.map("greeting", numbers(9)), Array(9).fill("hi"));
  const names = new Set(await pool.starmap("worker", Array(50).fill([])));
  for (const name of names) assert(/^w [12]$/.test(name), name);
  const alone = sequential(service, { init: "here" });
  assertEquals(await alone.apply("greeting", []), "here");
  assertEquals(await alone.apply("isWorker", []), false);
});

poolTest("Pool: takes a bare URL, and types by hand", async () => {
  const url = new URL("jobs.ts", import.meta.url);
  for (const given of [url, url.href]) {
    await using pool = new Pool<typeof jobs>(given, { size: 1 });
    assertEquals(await pool.map("double", [1, 2]), [2, 4]);
    const job = "nothing" as "double";
    await assertRejects(() => pool.apply(job, [1]), JobError, "'nothing'");
  }
});

poolTest("Pool: starts no more workers than there is work for", async () => {
  let started = 0;
  const { Worker } = globalThis;
  globalThis.Worker = class extends Worker {
    constructor(...args: ConstructorParameters<typeof Worker>) {
      super(...args);
      started++;
    }
  };
  try {
    await using pool = new Pool(service, { size: 4 });
    for (let i = 0; i < 20; i++) {
      assertEquals(await pool.apply("worker", []), "manyhands 1");
    }
    assertEquals(started, 1);
    const meeting = shared(0);
    await pool.starmap("meet", Array(3).fill([meeting, 3]));
    await pool.map("double", numbers(3));
    assertEquals(started, 3);
  } finally {
    globalThis.Worker = Worker;
  }
});

poolTest("Pool: calls take turns", async () => {
  await using pool = new Pool(service, { size: 1 });
  const gate = new Gate();
  const long = pool.map("hold", Array(40).fill(gate.memory));
  let answered = false;
  const short = pool.apply("double", [1]).then(() => answered = true);
  // Items of the long call pass one by one, until the short call is done.
  for (let passed = 0; !answered; passed++) {
    assertLess(passed, 40);
    gate.open(passed);
    await until(() => answered || gate.arrived > passed);
  }
  gate.open();
  await Promise.all([short, long]);
});

poolTest(
  "Pool: long items at the end do not wait for one another",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    // Short ones first make chunks large; then long ones come in one chunk.
    await pool.starmap("meet", Array(400).fill([shared(0), 1]));
    const meeting = shared(0);
    const long = Array(4).fill([meeting, 2]);
    assertEquals(await pool.starmap("meet", long), [2, 2, 2, 2]);
  },
);

poolTest(
  "Pool: an endless input is pulled no further than needed",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    let pulled = 0;
    const endless = function* (item: number) {
      for (;;) {
        pulled++;
        yield item;
      }
    };
    let read = 0;
    for await (const _ of pool.imap("double", endless(1))) {
      // With this one there are read + 1, and as many ahead, and two.
      assertLess(pulled - read, Math.min(read + 5, 1026), `${read} read`);
      if (++read === 5000) break;
    }
    pulled = read = 0;
    // Each takes longer than a whole chunk should.
    for await (const _ of pool.imapUnordered("block", endless(10))) {
      assertLess(pulled - read, 10, `${read} read`);
      if (++read === 30) break;
    }
  },
);

Deno.test("Pool: a million items pass through a small heap", async () => {
  // Over 200 bytes each: if they were all held, they would exceed the limit.
  const script = `
    await using pool = new Pool(service, { size: 2 });
    const items = function* () {
      for (let i = 0; i < 1_000_000; i++) yield "x".repeat(200) + i;
    };
    let count = 0;
    for await (const _ of pool.imap("same", items())) count++;
    console.log(count);
  `;
  const flags = ["--v8-flags=--max-old-space-size=48"];
  assertEquals(await runAlone(script, flags), "1000000\n");
});

poolTest("Pool: close waits for what is outstanding", async () => {
  const pool = new Pool(service, { size: 2 });
  const stream = pool.imap("double", numbers(500));
  assertEquals((await stream.next()).value, 0);
  const gate = new Gate();
  const calls = [
    pool.starmap("hold", [3, 2, 1].map((n) => [gate.memory, n])),
    pool.apply("hold", [gate.memory, 5]).then((n) => [n]),
  ];
  await until(() => gate.arrived === 2);
  let closed = false;
  const closing = pool.close().then(() => closed = true);
  for (let i = 0; i < 10; i++) await turn();
  assert(!closed);
  gate.open();
  await closing;
  assertEquals(await Promise.all(calls), [[3, 2, 1], [5]]);
  let next = 1;
  for await (const n of stream) assertEquals(n, 2 * next++);
  assertEquals(next, 500);
});

Deno.test("Pool: a program ends after close, however long a start might take", async () => {
  const script = `
    const pool = new Pool(service, { size: 2, startTimeout: ${2 ** 31 - 1} });
    console.log(await pool.map("double", [1, 2]));
    await pool.close();
    const late = setTimeout(() => Deno.exit(console.log("held up")), HANGS / 2);
    Deno.unrefTimer(late); // fires only if something else keeps the program alive
  `;
  assertEquals(await runAlone(script), "[ 2, 4 ]\n");
});

poolTest(
  "Pool: close may be awaited inside a for await, and twice",
  async () => {
    const pool = new Pool(service, { size: 2 });
    const seen: number[] = [];
    for await (const n of pool.imap("double", numbers(3000))) {
      if (n === 10) await Promise.all([pool.close(), pool.close()]);
      seen.push(n);
    }
    assertEquals(seen, doubles(3000));
  },
);

poolTest("Pool: terminate rejects what is outstanding", async () => {
  const pool = new Pool(service, { size: 2 });
  const [open, shut] = [new Gate(), new Gate()];
  open.open();
  const stream = pool.imap("hold", [open.memory, shut.memory]);
  assertEquals((await stream.next()).value, 0);
  const calls = numbers(1000).map(() => pool.apply("hold", [shut.memory]));
  const outcomes = Promise.allSettled(calls);
  await Promise.all([pool.terminate(), pool.terminate()]);
  const [streamed] = await Promise.allSettled([stream.next()]);
  for (const outcome of [...await outcomes, streamed]) {
    assert(outcome.status === "rejected");
    assertEquals(outcome.reason.name, "AbortError");
  }
});

poolTest("Pool: an unused pool has nothing to end", async () => {
  await using _pool = new Pool(service);
  await new Pool(service).close();
});

poolTest("Pool: the input may use the pool itself", async () => {
  await using pool = new Pool(service, { size: 2 });
  const items = async function* () {
    for (let i = 0; i < 50; i++) yield await pool.apply("double", [i]);
  };
  assertEquals(
    await pool.map("double", items()),
    numbers(50).map((n) => 4 * n),
  );
  const promises: Promise<number>[] = [];
  const within = function* () {
    for (let i = 0; i < 50; i++) {
      promises.push(pool.apply("double", [i]));
      yield i;
    }
  };
  assertEquals(await pool.map("double", within()), doubles(50));
  assertEquals(await Promise.all(promises), doubles(50));
});

poolTest("Pool: transfer moves instead of copying, both ways", async () => {
  await using pool = new Pool(service, { size: 2 });
  const buffers = numbers(100).map((n) => new Uint8Array(1000).fill(n));
  const back = await pool.map("same", buffers, {
    transfer: (bytes) => [bytes.buffer], // without a type of its own
  }) as Uint8Array[];
  assertEquals(back.map((bytes) => bytes[999]), numbers(100));
  assertEquals(buffers.map((bytes) => bytes.length), Array(100).fill(0));
  assertEquals((await pool.map("fill", [5, 6])).map((b) => b.length), [5, 6]);
  const shared = new Int32Array(new SharedArrayBuffer(8));
  const same = await pool.apply("same", [shared]);
  Atomics.store(same as Int32Array, 1, 42);
  assertEquals(shared[1], 42);
});

poolTest("Pool: messages of 100 MB pass", async () => {
  await using pool = new Pool(service, { size: 1 });
  const big = new Uint8Array(100 << 20);
  big[big.length - 1] = 9;
  const back = await pool.apply("same", [big]) as Uint8Array;
  assertEquals([back.length, back.at(-1)], [big.length, 9]);
});

poolTest("Pool: onTask tells who did what when, on one clock", async () => {
  const timings: TaskTiming[] = [];
  const onTask = (timing: TaskTiming) => void timings.push(timing);
  const before = performance.timeOrigin + performance.now();
  {
    await using pool = new Pool(service, { size: 2, onTask });
    await pool.map("block", [1, 1, 1, 1]);
    await sequential(service, { onTask }).map("block", [1]);
  }
  const after = performance.timeOrigin + performance.now();
  assertEquals(timings.map(({ index }) => index).sort(), [0, 0, 1, 2, 3]);
  for (const { worker, job, start, end } of timings) {
    assert([0, 1, 2].includes(worker));
    assertEquals(job, "block");
    assert(before - 1 < start && start <= end && end < after + 1);
  }
});

poolTest("Pool: two pools on one module, and pools inside jobs", async () => {
  await using one = new Pool(service, { size: 2 });
  await using other = new Pool(service, { size: 2 });
  const results = await Promise.all([
    one.map("double", numbers(500)),
    other.map("double", numbers(500)),
    one.map("poolInside", [1, 2]),
  ]);
  assertEquals(results, [doubles(500), doubles(500), [[2, 4], [4, 6]]]);
});

poolTest("Pool: a worker runs one item at a time", async () => {
  await using pool = new Pool(service, { size: 1 });
  const counts = shared(0, 0);
  await pool.starmap("crowd", Array(40).fill([counts, 1]));
  assertEquals([...counts], [0, 1]);
});

poolTest("Pool: spare workers end after a while, and come back", async () => {
  await using pool = new Pool(service, { size: 2, idleTimeout: 30 });
  const count = () => pool.stats().workers.length;
  assertEquals(count(), 0);
  assertEquals(await pool.apply("double", [1]), 2);
  const [short, long] = [new Gate(), new Gate()];
  const call = pool.map("hold", [short.memory, long.memory]);
  await until(() => short.arrived + long.arrived === 2);
  assertEquals(count(), 2);
  short.open();
  await until(() => count() === 1); // the other one stays while it works
  assertEquals(pool.stats().busy, 1);
  long.open();
  assertEquals(await call, [0, 0]);
  await until(() => count() === 0);
  assertEquals(await pool.map("double", numbers(9)), doubles(9));
  assertEquals(pool.stats().lost, 0);
});

poolTest("Pool: workers are replaced after so many items", async () => {
  await using pool = new Pool(service, { size: 2, maxTasksPerWorker: 7 });
  const names = await pool.starmap("worker", Array(50).fill([]));
  const counts = Map.groupBy(names, (name) => name);
  for (const [name, { length }] of counts) {
    assert(length <= 7, `${name}: ${length}`);
  }
  assert(counts.size >= 8, `${counts.size}`);
  assertEquals(pool.stats().lost, 0);
});

poolTest("Pool: stats tell what was done, and what is", async () => {
  await using pool = new Pool(service, { size: 2 });
  assertEquals(pool.stats(), {
    size: 2,
    busy: 0,
    queued: 0,
    done: 0,
    failed: 0,
    lost: 0,
    stuck: 0,
    workers: [],
  });
  await pool.map("fail", [1, -1, -1, 2], { settle: true });
  await pool.apply("exitOn", [1, 1]).catch(() => {});
  await assertRejects(() => pool.apply("same", [() => {}]), JobError);
  const gate = new Gate();
  gate.open(2);
  const items = Array(10).fill(gate.memory);
  const call = pool.map("hold", items, { chunkSize: 1 });
  await until(() => gate.arrived === 4 && pool.stats().done === 4);
  const { busy, failed, lost, queued, workers } = pool.stats();
  assertEquals([busy, failed, lost], [2, 3, 1]);
  assertLess(queued, 7);
  gate.open();
  await call;
  assertEquals(pool.stats().done, 12);
  for (const { worker, busy } of workers) {
    assert(worker >= 1 && busy > 0 && busy <= 1, `${worker} ${busy}`);
  }
});

Deno.test("Pool: workers have the permissions that they are given", async () => {
  const script = `
    await using pool = new Pool(service, { size: 1, permissions: "none" });
    console.log(await pool.apply("mayRead", []));
    await using free = new Pool(service, { size: 1 });
    console.log(await free.apply("mayRead", []));
    await using more = new Pool(service, { size: 1, permissions: { net: true } });
    console.log((await more.apply("mayRead", []).catch((error) => error)).message);
  `;
  const flags = ["--no-config", "--unstable-worker-options"];
  const output = await runAlone(script, flags);
  const [none, inherited, more] = output.split("\n");
  assertEquals([none, inherited], ["prompt", "granted"]);
  assertStringIncludes(more, "escalate parent thread permissions");
  // Deno's own words: there is no way to ask for the flag.
  const without = await runAlone(script, ["--no-config"]);
  assertStringIncludes(without, "--unstable-worker-options");
});

runnerTest("options that do not exist are refused", async (runner) => {
  for (const options of [null, 5, "size"]) {
    const wrong = options as unknown as Record<never, never>;
    const call = () => runner.map("double", [1], wrong);
    await assertRejects(call, TypeError, "'options' must be an object");
    assertThrows(() => new Pool(service, wrong), TypeError, "'options'");
  }
  for (const options of [{ tiemout: 5 }, { toString: 1 }]) {
    const [name] = Object.keys(options);
    const wrong = options as Record<never, never>;
    await assertRejects(
      () => runner.map("double", [1], wrong),
      TypeError,
      `'${name}'`,
    );
  }
  for (const signal of [null, 1, {}, new AbortController()]) {
    const wrong = { signal } as unknown as { signal: AbortSignal };
    await assertRejects(
      () => runner.map("double", [1], wrong),
      TypeError,
      "'signal'",
    );
  }
});

Deno.test("Pool: what is neither a service nor an absolute URL is named", () => {
  const bad = ["./jobs.ts", "", undefined, null, 5, {}, { url: 5, jobs: {} }];
  for (const service of [...bad, Object.create(null), Symbol("s")]) {
    const { message } = assertThrows(
      () => new Pool(service as unknown as string),
      TypeError,
    );
    assertStringIncludes(message, "'service' must be what serve returned");
  }
});

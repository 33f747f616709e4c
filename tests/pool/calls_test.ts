/** What a call gives, takes and throws, on a pool and on the calling thread. */
import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import {
  type CallOptions,
  JobError,
  Pool,
  type Runner,
  sequential,
} from "../../mod.ts";
import { Gate, shared, until } from "./gates.ts";
import {
  doubles,
  furtherRunnerTests,
  numbers,
  poolTest,
  runAlone,
} from "./runners.ts";
import { settling, watched } from "./spies.ts";
import { type jobs, service } from "./setups.ts";

type All = Runner<typeof jobs>;

/** The same test on a pool and on the calling thread. */
function runnerTest(
  name: string,
  test: (runner: All, kind: "Pool" | "sequential") => Promise<void>,
): void {
  poolTest(`Pool: ${name}`, async () => {
    await using pool = new Pool(service, { size: 2 });
    await test(pool, "Pool");
  });
  poolTest(`sequential: ${name}`, async () => {
    await using runner = sequential(service);
    await test(runner, "sequential");
  });
  furtherRunnerTests(service, name, test as (runner: All) => Promise<void>);
}

/** Calls by every method that takes items. */
const methods: Record<
  string,
  (runner: All, items: Iterable<number> | AsyncIterable<number>) => Promise<
    number[]
  >
> = {
  map: (runner, items) => runner.map("double", items),
  starmap: (runner, items) =>
    runner.starmap("double", items as unknown as Iterable<[number]>),
  imap: (runner, items) => Array.fromAsync(runner.imap("double", items)),
  imapUnordered: (runner, items) =>
    Array.fromAsync(runner.imapUnordered("double", items)),
};

Deno.test("Pool: items that never end are timed out, as many as there are workers", async () => {
  const timeout = 30;
  const scripts: [script: string, output: string][] = [
    [
      `(await pool.map("spin", [gate, gate], { timeout: ${timeout}, settle: true }))
        .map(({ reason }) => reason.name + reason.message.slice(-6))`,
      "TimeoutErroritem 0,TimeoutErroritem 1",
    ],
    [
      `(await Array.fromAsync(pool.imap("spin", [gate, gate], { timeout: ${timeout}, settle: true })))
        .map(({ reason }) => reason.name)`,
      "TimeoutError,TimeoutError",
    ],
    [
      `(await Promise.allSettled([1, 2].map(() => pool.apply("spin", [gate], { timeout: ${timeout} }))))
        .map(({ reason }) => reason.name)`,
      "TimeoutError,TimeoutError",
    ],
    [
      `await pool.map("spin", [gate, gate], { timeout: ${timeout} }).catch(({ name }) => [name])`,
      "TimeoutError",
    ],
  ];
  await Promise.all(scripts.map(async ([script, output]) => {
    const alone = await runAlone(`
      const pool = new Pool(service, { size: 2 });
      const gate = shared(0);
      console.log((${script}).join());
      Deno.exit();
    `);
    assertEquals(alone, `${output}\n`, script);
  }));
});

Deno.test("the error for which a block is left is the one that is seen", async () => {
  const runners = {
    Pool: "new Pool(service, { size: 2 })",
    sequential: "sequential(service)",
  };
  const gate = "new Gate().memory";
  const outstanding = [
    `runner.apply("hold", [${gate}])`,
    `runner.map("hold", [${gate}, ${gate}, ${gate}])`,
    `runner.imap("hold", [${gate}]).next()`,
    `runner.imapUnordered("hold", [${gate}], { settle: true }).next()`,
    `nextTwice(runner.imap("hold", [${gate}]))`,
  ];
  const scripts = Object.entries(runners).flatMap(([name, runner]) =>
    outstanding.map((call) => [name, runner, call])
  );
  for (const [name, runner, call] of scripts) {
    const output = await runAlone(`
      const nextTwice = (results) => [results.next(), results.next()][1];
      try {
        await using runner = ${runner};
        const bad = runner.apply("fail", [1]);
        const other = ${call};
        await bad;
        await other;
      } catch (error) {
        console.log(error.message);
      }
      // By now every unhandled rejection would have been reported.
      await new Promise((resolve) => setTimeout(resolve));
      console.log("on");
      Deno.exit(); // on this thread the others never end
    `);
    assertEquals(
      output,
      "Job 'fail' failed on item 0: no 1\non\n",
      name + call,
    );
  }
});

Deno.test("a rejection that nobody handles is an uncaught error, unless the runner's end caused it", async () => {
  for (
    const runner of ["new Pool(service, { size: 2 })", "sequential(service)"]
  ) {
    const output = await runAlone(`
      const runner = ${runner};
      runner.apply("fail", [1]);
      await until(() => false);
    `);
    assertStringIncludes(output, "Uncaught (in promise) JobError", runner);
  }
});

runnerTest("what is thrown is of the platform's class", async (runner) => {
  const classes: Record<string, new (...args: never[]) => Error> = {
    NotFound: Deno.errors.NotFound,
    PermissionDenied: Deno.errors.PermissionDenied,
    URIError,
    AggregateError,
    DOMException,
    QuotaExceededError: DOMException,
    CompileError: WebAssembly.CompileError,
    Own: Error,
  };
  for (const [name, type] of Object.entries(classes)) {
    const error = await runner.apply("throwNamed", [name]).catch((e) => e);
    assertInstanceOf(error, JobError);
    assertInstanceOf(error.cause, type, name);
    assertInstanceOf(error.cause, Error, name);
    assertStringIncludes(error.cause.stack!, "setups.ts");
    const wanted = name === "DOMException" ? "AbortError" : name;
    assertEquals(error.cause.name, wanted);
    if (type === DOMException) {
      const codes: Record<string, number> = {
        DOMException: DOMException.ABORT_ERR,
        QuotaExceededError: DOMException.QUOTA_EXCEEDED_ERR,
      };
      assertEquals((error.cause as DOMException).code, codes[name]);
    } else assert(!(error.cause instanceof DOMException), name);
  }
  const missing = await runner.apply("throwNotFound", []).catch((e) => e);
  assertInstanceOf(missing.cause, Deno.errors.NotFound);
});

runnerTest(
  "an input that has failed or ended is not closed",
  async (runner) => {
    let closed = 0;
    const iterator = (next: (n: number) => unknown) => {
      let n = 0;
      return {
        next: () => next(n++),
        return: () => ({ done: true, value: ++closed }),
      };
    };
    const endings: Record<string, () => unknown> = {
      "it throws": () => {
        throw new RangeError("no more");
      },
      "no object": () => 5,
      "it ends": () => ({ done: true, value: undefined }),
    };
    for (const [name, method] of Object.entries(methods)) {
      for (const [kind, end] of Object.entries(endings)) {
        for (const after of [0, 1, 3, 40]) {
          const item = (n: number) => name === "starmap" ? [n] : n;
          const next = (n: number) =>
            n < after ? { done: false, value: item(n) } : end();
          const inputs = [
            { [Symbol.iterator]: () => iterator(next) },
            // deno-lint-ignore require-await
            { [Symbol.asyncIterator]: () => iterator(async (n) => next(n)) },
          ] as unknown as Iterable<number>[];
          for (const input of inputs) {
            const results = await method(runner, input).catch((error) => error);
            const clue = `${name}, ${kind} after ${after}`;
            if (kind === "it ends") {
              assertEquals(
                results.toSorted((a: number, b: number) => a - b),
                doubles(after),
                clue,
              );
            } else if (kind === "it throws") {
              assertEquals(results.message, "no more", clue);
            } else assertInstanceOf(results, TypeError, clue);
            assertEquals(closed, 0, clue);
          }
        }
      }
    }
  },
);

runnerTest("an input is closed when its results are left", async (runner) => {
  const leave: Record<
    string,
    (results: AsyncGenerator<unknown, void, void>) => PromiseLike<unknown>
  > = {
    "returned unread": (results) => results.return(),
    "thrown into unread": (results) =>
      results.throw(new Error("left")).catch(() => {}),
    "disposed unread": (results) => results[Symbol.asyncDispose](),
    "returned after one": async (results) => {
      await results.next();
      await results.return();
    },
    "thrown into after one": async (results) => {
      await results.next();
      await results.throw(new Error("left")).catch(() => {});
    },
    "a loop that is left": async (results) => {
      for await (const _ of results) break;
    },
  };
  for (const method of ["imap", "imapUnordered"] as const) {
    for (const [name, leaves] of Object.entries(leave)) {
      let closed = 0;
      const input = {
        [Symbol.iterator]: () => ({
          next: () => ({ done: false, value: 1 }),
          return: () => ({ done: true, value: ++closed }),
        }),
      } as Iterable<number>;
      await leaves(runner[method]("double", input));
      assertEquals(closed, 1, `${method}, ${name}`);
      const cancelled = Promise.withResolvers<void>();
      const stream = new ReadableStream<number>({
        pull: (controller) => controller.enqueue(1),
        cancel: () => cancelled.resolve(),
      });
      const results = runner[method]("double", stream);
      await leaves(results);
      await cancelled.promise;
      await until(() => !stream.locked);
      assertEquals(await results.next(), { done: true, value: undefined });
    }
  }
});

runnerTest("arguments that are no list are refused at once", async (runner) => {
  for (const args of [undefined, null, "ab", 5, { length: 1 }, new Set([1])]) {
    const wrong = args as unknown as [number, number];
    const error = await assertRejects(
      () => runner.apply("add", wrong),
      TypeError,
      "Cannot run 'add' as 'args' must be an array",
    );
    assert(!(error instanceof JobError));
  }
  for (const items of [undefined, null, 5, {}, { length: 1 }]) {
    const wrong = items as unknown as number[];
    for (const [name, method] of Object.entries(methods)) {
      await assertRejects(
        async () => await method(runner, wrong),
        TypeError,
        "'items' must be iterable",
        name,
      );
    }
    assertThrows(() => runner.imap("double", wrong), TypeError, "'items'");
  }
  assertEquals(await runner.apply("add", [1, 2]), 3);
});

runnerTest("Infinity means none", async (runner) => {
  const options: CallOptions = { timeout: Infinity, retries: Infinity };
  assertEquals(await runner.map("double", numbers(50), options), doubles(50));
  const gate = new Gate();
  const call = settling(runner.apply("hold", [gate.memory, 5], options));
  await until(() => gate.arrived === 1);
  gate.open();
  assertEquals(await call.promise, 5);
  const counter = shared(0);
  await assertRejects(
    () => runner.apply("countAndFail", [counter], options),
    JobError,
  );
  assertEquals(counter[0], 1); // what threw is not tried again
});

poolTest("Pool: Infinity means none, for its own options, too", async () => {
  const options = { maxTasksPerWorker: Infinity, idleTimeout: Infinity };
  await using pool = new Pool(service, { size: 1, ...options });
  assertEquals(await pool.map("double", numbers(50)), doubles(50));
  assertEquals(await pool.apply("worker", []), "manyhands 1");
  const retries = Infinity;
  const counter = shared(0);
  // More failures than any plausible default of `retries`.
  const lives = 12;
  const call = pool.apply("exitIfFirst", [counter, lives], { retries });
  assertEquals(await call, lives);
});

poolTest("Pool: an idleTimeout of 0 ends workers at once", async () => {
  await using pool = new Pool(service, { size: 2, idleTimeout: 0 });
  for (let round = 1; round < 4; round++) {
    assertEquals(await pool.map("double", numbers(9)), doubles(9));
    await until(() => pool.stats().workers.length === 0);
  }
  const { lost, stuck } = pool.stats();
  assertEquals([lost, stuck], [0, 0]);
});

poolTest(
  "Pool: of ten thousand aborted calls none is begun any more",
  async () => {
    const count = 10_000;
    for (const isOwn of [false, true]) {
      await using pool = new Pool(service, { size: 2 });
      const gate = new Gate();
      gate.open(count / 4);
      const marks = new Int32Array(new SharedArrayBuffer(4 * count));
      const begun = () => marks.reduce((sum, mark) => sum + mark, 0);
      const one = watched();
      const signals = numbers(count).map(() => isOwn ? watched() : one);
      const calls = signals.map(({ signal }, n) =>
        pool.apply("mark", [marks, n, gate.memory], { signal })
      );
      const outcomes = Promise.allSettled(calls);
      await until(() => gate.arrived === count / 4 + 2);
      const before = begun();
      // With a signal each, only every second one is aborted.
      const isAborted = (n: number) => !isOwn || n % 2 === 1;
      for (const [n, { abort }] of signals.entries()) {
        if (isAborted(n)) abort("enough");
        if (!isOwn) break;
      }
      const wasBegun = marks.slice();
      gate.open();
      for (const [n, outcome] of (await outcomes).entries()) {
        if (outcome.status === "rejected") {
          assertEquals([outcome.reason, isAborted(n)], ["enough", true]);
        } else {
          assertEquals(outcome.value, n);
          assert(!isAborted(n) || wasBegun[n] > 0, `${n}`);
        }
        assert(marks[n] <= 1, `${n} was begun ${marks[n]} times`);
      }
      await until(() => pool.stats().busy === 0);
      assert(before <= count / 4 + 2, `${before}`);
      for (const n of numbers(count)) {
        if (isAborted(n)) assertEquals(marks[n], wasBegun[n], `${n}`);
        else assertEquals(marks[n], 1, `${n}`);
      }
      for (const { listeners } of signals) assertEquals(listeners(), 0);
      assertEquals(await pool.apply("double", [1]), 2);
    }
  },
);

runnerTest("options are those of the time of the call", async (runner) => {
  const options = { settle: true, chunkSize: 1 };
  const outcomes = runner.map("fail", [1, 2], options);
  const results = runner.imap("fail", [3, 4], options);
  options.settle = false;
  options.chunkSize = -1;
  const statuses = (all: unknown[]) =>
    (all as PromiseSettledResult<number>[]).map(({ status }) => status);
  const rejected = ["rejected", "rejected"];
  assertEquals(statuses(await outcomes), rejected);
  assertEquals(statuses(await Array.fromAsync(results)), rejected);
  const controller = new AbortController();
  const held = runner.apply("hold", [new Gate().memory], controller);
  controller.abort("inherited");
  assertEquals(await held.catch((reason) => reason), "inherited");
});

runnerTest("a signal is heard between jobs that block", async (runner) => {
  const signal = AbortSignal.timeout(1);
  const error = await assertRejects(() =>
    runner.map("block", Array(20).fill(50), { signal })
  );
  assert(error === signal.reason);
});

poolTest(
  "sequential: what onTask throws does not hold up the call",
  async () => {
    const error = new Error("told");
    const onTask = () => {
      throw error;
    };
    for (const job of ["double", "later"] as const) {
      const calls = sequential(service, { onTask });
      const thrown = await assertRejects(() => calls.map(job, [1, 2]));
      assert(thrown === error, job);
    }
  },
);

runnerTest(
  "a job is told that its call was left, and no other",
  async (runner) => {
    const [left, kept] = [new Gate(), new Gate()];
    const results = runner.imap("hold", [left.memory]);
    const next = results.next();
    const other = runner.apply("isCancelled", [kept.memory]);
    await until(() => left.arrived + kept.arrived === 2);
    await results.return();
    assertEquals(await next, { done: true, value: undefined });
    kept.open();
    assertEquals(await other, false);
    await until(() => left.left > 0);
  },
);

poolTest(
  "sequential: a job is told that its runner was terminated",
  async () => {
    const runner = sequential(service);
    const gate = new Gate();
    const call = runner.apply("hold", [gate.memory]);
    await until(() => gate.arrived > 0);
    await Promise.all([assertRejects(() => call), runner.terminate()]);
    await until(() => gate.left > 0);
  },
);

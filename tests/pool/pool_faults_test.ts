import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  JobError,
  Pool,
  sequential,
  WorkerLostError,
  WorkerStartError,
} from "../../mod.ts";
import { Gate, HANGS, type Memory, shared, until } from "./gates.ts";
import { type jobs, oddities, service } from "./jobs.ts";
import { doubles, numbers, poolTest, runnerTest } from "./runners.ts";

runnerTest("whatever is thrown is the cause of a JobError", async (runner) => {
  for (const kind of oddities) {
    const error = await runner.apply("throwOdd", [kind]).catch((e) => e);
    assertInstanceOf(error, JobError, kind);
    assertEquals(error.index, 0, kind);
    if (kind === "aggregate") {
      const [one, two] = (error.cause as AggregateError).errors;
      assertInstanceOf(one, RangeError);
      assertEquals([one.message, two], ["one", 2]);
    }
    if (kind === "properties that cannot be cloned") {
      assertEquals((error.cause as { code: number }).code, 7);
    }
    if (kind === "DOMException") {
      assertEquals((error.cause as Error).name, "AbortError");
    }
  }
  assertEquals(await runner.apply("double", [1]), 2);
});

poolTest("whatever is thrown has the same text from both", async () => {
  await using pool = new Pool(service, { size: 1 });
  const runners = [pool, sequential(service)];
  const text = ({ message }: Error) => message;
  for (const kind of oddities) {
    const [ours, theirs] = await Promise.all(
      runners.map((runner) => runner.apply("throwOdd", [kind]).catch(text)),
    );
    assertEquals(ours, theirs, kind);
  }
  for (const list of [undefined, null, 1, {}]) {
    const [ours, theirs] = await Promise.all(
      runners.map((runner) =>
        runner.starmap("add", [list as never]).catch(text)
      ),
    );
    assertEquals(ours, theirs);
  }
});

poolTest("an error in circles is the same again", async () => {
  await using pool = new Pool(service, { size: 1 });
  const { cause } = await assertRejects(
    () => pool.apply("throwOdd", ["causes and errors in circles"]),
  ) as Error;
  assertInstanceOf(cause, AggregateError);
  assertEquals(cause.errors.map(({ message }) => message), ["1", "2", "3"]);
  for (const error of cause.errors) assert(error.cause === cause);
});

poolTest("an error of another realm is an error", async () => {
  await using pool = new Pool(service, { size: 1 });
  for (const runner of [pool, sequential(service)]) {
    const error = await assertRejects(() =>
      runner.apply("throwOdd", ["another realm"])
    ) as Error;
    assertEquals(error.message, "Job 'throwOdd' failed on item 0: there");
    assertEquals((error.cause as Error).name, "TypeError");
  }
});

runnerTest("the error of a pool in a job is of its class", async (runner) => {
  const { cause } = await assertRejects(
    () => runner.apply("failInside", []),
    JobError,
  );
  assertInstanceOf(cause, JobError);
  assertEquals([cause.job, cause.index], ["fail", 1]);
  assertInstanceOf(cause.cause, RangeError);
});

runnerTest("to move what is no list is the job's error", async (runner) => {
  const call = () => runner.apply("moveNoList", []);
  const { cause } = await assertRejects(call, JobError);
  assertInstanceOf(cause, TypeError);
});

runnerTest("an error without a stack gets none", async (runner) => {
  const error = await assertRejects(() =>
    runner.apply("throwOdd", ["no stack"])
  );
  assertEquals(((error as Error).cause as Error).stack, undefined);
});

runnerTest("a promise of any realm, or none, is awaited", async (runner) => {
  assertEquals(await runner.apply("returnPromiseOfAnotherRealm", []), 7);
  assertEquals(await runner.apply("returnThenableWithoutPrototype", []), 7);
});

runnerTest("the holes of an array are items", async (runner) => {
  const items = [1, 2, 3];
  delete items[1];
  // Known to be short, calls share messages.
  await runner.map("same", numbers(1000));
  const calls = numbers(100).map(() => runner.map("same", items));
  for (const results of await Promise.all(calls)) {
    assertEquals(results, [1, undefined, 3]);
  }
  assertEquals(
    await runner.map("same", new Array(3)),
    Array(3).fill(undefined),
  );
});

poolTest("Pool: a result without a prototype can be moved", async () => {
  await using pool = new Pool(service, { size: 1 });
  await pool.apply("moveWithoutPrototype", [new Uint8Array(3)]);
  assertEquals(await pool.apply("moveWithoutPrototype", []), 0);
});

runnerTest(
  "an input that throws fails the call, and is not closed",
  async (runner) => {
    let pulled = 0;
    let returned = 0;
    const bad = {
      [Symbol.iterator]: () => ({
        next: () => {
          if (pulled++ === 50) throw new Error("no more");
          return { done: false, value: pulled };
        },
        return: () => ({ done: true, value: returned++ }),
      }),
    };
    for (const method of ["map", "imap", "imapUnordered"] as const) {
      pulled = returned = 0;
      let read = 0;
      await assertRejects(
        async () => {
          const call = runner[method]("double", bad as Iterable<number>);
          if (call instanceof Promise) await call;
          else for await (const _ of call) read++;
        },
        Error,
        "no more",
      );
      assertEquals(pulled, 51);
      assertEquals(returned, 0); // as with `for … of`, since it ended by itself
      // What came before the error is given before it.
      if (method !== "map") assertEquals(read, 50);
    }
    assertEquals(await runner.apply("double", [1]), 2);
  },
);

poolTest("Pool: terminate while the workers start", async () => {
  const pool = new Pool(service, { size: 4 });
  const call = pool.map("double", numbers(100)).catch((error) => error.name);
  await pool.terminate();
  assertEquals(await call, "AbortError");
});

for (
  const job of ["exitOn", "closeOn", "throwLateOn", "rejectLateOn"] as const
) {
  poolTest(`Pool: a worker lost by ${job} costs one item`, async () => {
    await using pool = new Pool(service, { size: 2 });
    // Several times: what the worker sent just before its end may be late.
    for (let round = 0; round < (job.includes("Late") ? 1 : 12); round++) {
      const items = numbers(12).map((n): [number, number] => [n, 7]);
      const outcomes = await pool.starmap(job, items, { settle: true });
      for (const [n, outcome] of outcomes.entries()) {
        if (n !== 7) assertEquals(outcome, { status: "fulfilled", value: n });
      }
      const lost = outcomes[7];
      assert(lost.status === "rejected");
      assertInstanceOf(lost.reason, WorkerLostError);
      assertEquals([lost.reason.job, lost.reason.index], [job, 7]);
      if (job.includes("Late")) assertInstanceOf(lost.reason.cause, RangeError);
    }
    await assertRejects(() => pool.apply(job, [1, 1]), WorkerLostError);
    assertEquals(await pool.apply("double", [2]), 4);
  });
}

poolTest("Pool: an error after the reply harms nobody", async () => {
  await using pool = new Pool(service, { size: 1 });
  for (let i = 0; i < 5; i++) {
    assertEquals(await pool.apply("throwAfterReply", [i]), i);
    await until(() => pool.stats().lost === i + 1);
  }
  assertEquals(await pool.apply("double", [2]), 4);
});

poolTest("Pool: every worker may die, and the work is done", async () => {
  await using pool = new Pool(service, { size: 3 });
  const items = numbers(300).map((n): [number, number] => [n, n - n % 10]);
  const outcomes = await pool.starmap("exitOn", items, {
    settle: true,
    chunkSize: 1,
  });
  for (const [n, outcome] of outcomes.entries()) {
    assertEquals(outcome.status, n % 10 ? "fulfilled" : "rejected", `${n}`);
  }
});

poolTest(
  "Pool: what cannot be cloned fails alone, again and again",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    for (let i = 0; i < 20; i++) {
      for (const job of ["returnFunction", "returnDetached"] as const) {
        const error = await pool.apply(job, []).catch((error) => error);
        assertInstanceOf(error, JobError);
        assertEquals((error.cause as Error).name, "DataCloneError");
      }
      const items = numbers(9).map((n) => n === 4 ? () => n : n);
      const outcomes = await pool.map("same", items, { settle: true });
      assertEquals(
        outcomes.map(({ status }) => status[0]).join(""),
        "ffffrffff",
      );
      assertEquals(await pool.apply("double", [i]), 2 * i);
    }
  },
);

poolTest(
  "Pool: one bad item of many is found, in chunks of any size",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    for (const chunkSize of [undefined, 7, 60_000]) {
      const items: unknown[] = numbers(40_000);
      items[30_000] = () => {};
      const options = { settle: true, chunkSize } as const;
      const outcomes = await pool.map("same", items, options);
      const bad = outcomes.flatMap(({ status }, i) =>
        status === "rejected" ? [i] : []
      );
      assertEquals(bad, [30_000]);
    }
  },
);

poolTest(
  "Pool: a bad result takes no neighbour along, moved or not",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    const options = { settle: true, chunkSize: 100 } as const;
    for (const items of [numbers(100), doubles(100)]) {
      const outcomes = await pool.map("returnMixed", items, options);
      for (const [i, { status }] of outcomes.entries()) {
        const wanted = items[i] === 4 ? "rejected" : "fulfilled";
        assertEquals(status, wanted, `${items[i]}`);
      }
    }
    const buffers = numbers(9).map((n) =>
      n === 4 ? () => n : new Uint8Array(n)
    );
    const moved = await pool.map("same", buffers, {
      settle: true,
      transfer: (item: { buffer?: ArrayBuffer }) =>
        item.buffer ? [item.buffer] : [],
    });
    assertEquals(moved.map(({ status }) => status[0]).join(""), "ffffrffff");
  },
);

poolTest("Pool: nothing more of a failed call is begun", async () => {
  await using pool = new Pool(service, { size: 2 });
  const gate = new Gate();
  const items = numbers(500).map((n): [Memory, boolean] => [
    gate.memory,
    n === 250,
  ]);
  const options = { chunkSize: 250 };
  await assertRejects(() => pool.starmap("holdOrFail", items, options));
  await until(() => pool.stats().busy === 0);
  // The first had begun, and those after the failed one may have: they saw
  // that they are cancelled.
  assertLess(gate.arrived, 3);
  assertEquals(gate.left, gate.arrived);
});

poolTest("Pool: the input may end the pool", async () => {
  for (const end of ["terminate", "close"] as const) {
    const pool = new Pool(service, { size: 2 });
    let ended: Promise<void> | undefined;
    const items = function* () {
      for (let i = 0; i < 20; i++) {
        if (i === 5) ended = pool[end]();
        yield i;
      }
    };
    const call = pool.map("double", items()).catch((error) => error.name);
    const wanted = end === "close" ? doubles(20) : "AbortError";
    assertEquals(await call, wanted);
    await ended;
    const late = {
      [Symbol.iterator]: () => {
        throw new Error("the input is not begun");
      },
    };
    await assertRejects(() => pool.map("double", late), DOMException);
  }
});

poolTest("Pool: a module that does not start is one clear error", async () => {
  const folder = await Deno.makeTempDir();
  const never = "within 50 ms";
  const modules: Record<string, [content: string, why: string]> = {
    "syntax.ts": ["const = 1;", "syntax.ts"],
    "throws.ts": ["throw new RangeError('at load');", "at load"],
    "imports.ts": ["import './none.ts';", "none.ts"],
    "silent.ts": ["export {};", never],
    "closes.ts": ["self.close();", never],
    "hangs.ts": ["await new Promise(() => {});", never],
  };
  for (const [name, [content]] of Object.entries(modules)) {
    await Deno.writeTextFile(`${folder}/${name}`, content);
  }
  for (
    const [name, [, why]] of [
      ...Object.entries(modules),
      ["none.ts", ["", "none.ts"]] as const,
    ]
  ) {
    const url = new URL(`file://${folder}/${name}`);
    const startTimeout = why === never ? 50 : HANGS;
    await using pool = new Pool<typeof jobs>(url, { size: 3, startTimeout });
    const calls = [
      pool.map("double", [1, 2, 3]),
      Array.fromAsync(pool.imap("double", [1, 2, 3])),
    ];
    for (const call of calls) {
      const error = await assertRejects(() => call, WorkerStartError, name);
      assertStringIncludes((error as Error).message, why);
    }
    await assertRejects(() => pool.apply("double", [1]), WorkerStartError);
  }
  await Deno.remove(folder, { recursive: true });
});

poolTest("Pool: setup that fails is a failed start", async () => {
  await using pool = new Pool(service, { size: 2, init: "bad" });
  const error = await assertRejects(
    () => pool.map("double", [1, 2, 3]),
    WorkerStartError,
    "cannot set up",
  );
  assertStringIncludes((error.cause as Error).stack!, "jobs.ts");
  const alone = sequential(service, { init: "bad" });
  await assertRejects(() => alone.apply("double", [1]), Error, "cannot set up");
});

poolTest(
  "Pool: a consumer that leaves early leaves nothing behind",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    for (const method of ["imap", "imapUnordered"] as const) {
      const gate = new Gate();
      gate.open(4);
      let closed = 0;
      const endless = function* () {
        try {
          for (;;) yield gate.memory;
        } finally {
          closed++;
        }
      };
      const options = { chunkSize: 1 };
      let read = 0;
      for await (const _ of pool[method]("hold", endless(), options)) {
        if (++read === 4) break;
      }
      assertEquals(closed, 1);
      assertEquals(await pool.map("double", numbers(9)), doubles(9));
      await until(() => pool.stats().busy === 0);
      assertEquals(pool.stats().queued, 0);
    }
  },
);

poolTest(
  "Pool: an input that does not let itself be closed holds up nobody",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    const inputs: AsyncIterable<number>[] = [
      () => new Promise<never>(() => {}),
      () => Promise.reject(new Error("stays")),
      () => {
        throw new Error("stays");
      },
    ].map((close) => ({
      [Symbol.asyncIterator]: () => ({
        next: () => Promise.resolve({ done: false, value: 1 }),
        return: close,
      }),
    }));
    for (const input of inputs) {
      for await (const n of pool.imap("double", input)) {
        assertEquals(n, 2);
        break;
      }
    }
  },
);

poolTest("Pool: 64 workers on a few cores", async () => {
  await using pool = new Pool(service, { size: 64, startTimeout: HANGS });
  // None of them ends before all have begun.
  const meeting = shared(0);
  const items = numbers(64).map((): [typeof meeting, number] => [meeting, 64]);
  assertEquals(await pool.starmap("meet", items), Array(64).fill(64));
  assertEquals(pool.stats().workers.length, 64);
  assertEquals(await pool.map("double", numbers(50_000)), doubles(50_000));
});

poolTest(
  "Pool: a worker that ends at its start is tried again, but not for ever",
  async () => {
    await using pool = new Pool(service, { size: 2, init: "exit" });
    const error = await assertRejects(
      () => pool.map("double", [1, 2, 3]),
      WorkerStartError,
    );
    assertStringIncludes((error as Error).message, "ended before any job");
  },
);

poolTest(
  "Pool: what was reported before a death is not lost with it",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    for (let round = 0; round < 3; round++) {
      await pool.apply("double", [1]); // there is a worker
      const gate = new Gate();
      const items = numbers(3001).map((
        n,
      ): [number, number, Memory] => [n, 3000, gate.memory]);
      const options = {
        settle: true,
        chunkSize: 3001,
        timeout: HANGS,
      } as const;
      const call = pool.starmap("exitReported", items, options);
      await Promise.resolve();
      gate.blockUntilLeft();
      const lost = (await call).filter(({ status }) => status === "rejected");
      assertEquals(lost.length, 1);
    }
  },
);

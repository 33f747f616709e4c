/** Which item runs when, and how many messages that takes. */
import { assert, assertEquals, assertLess } from "@std/assert";
import { type CallOptions, JobError, Pool } from "../../mod.ts";
import { Gate, HANGS, type Memory, shared, turn, until } from "./gates.ts";
import { doubles, numbers, poolTest } from "./runners.ts";
import { counted, sentBy, settling } from "./spies.ts";
import { type jobs, service, type Setup } from "./setups.ts";

/** Makes both workers of a pool start and become idle. */
async function warmUp(pool: Pool<typeof jobs>): Promise<void> {
  const meeting = shared(0);
  const { size } = pool;
  await pool.starmap("meet", Array(size).fill([meeting, size]));
}

const moved = {
  transfer: ([bytes]: [Uint8Array<ArrayBuffer>]) => [bytes.buffer],
};

poolTest(
  "Pool: a large argument is sent once, also beside an idle worker",
  async () => {
    await using pool = new Pool(service, { size: 2 });
    await warmUp(pool);
    const rows = numbers(100_000).map((id) => ({ id, name: `name ${id}` }));
    const bytes = { length: 1, bytes: new Uint8Array(50 << 20) };
    for (const large of [rows, bytes]) {
      const { value, times } = counted(large, 1);
      assertEquals(await pool.apply("length", [value]), large.length);
      assertEquals(times(), 1);
    }
    // Of several at once each is sent once, too.
    const many = numbers(6).map(() =>
      counted(numbers(20_000).map((id) => ({ id })), 2)
    );
    const calls = many.map(({ value }) => pool.apply("length", [value]));
    assertEquals(await Promise.all(calls), Array(6).fill(20_000));
    for (const { times } of many) assertEquals(times(), 1);
  },
);

poolTest("Pool: no item is sent more than twice", async () => {
  await using pool = new Pool(service, { size: 3 });
  // Short ones make chunks large; long ones then come in few, and are shared.
  const open = new Gate();
  open.open();
  await pool.map("holdThread", Array(1000).fill(open.memory));
  const gate = new Gate();
  const items = numbers(60).map((n) => {
    const { value, times } = counted([gate.memory, n]);
    return { value: value as unknown as [Memory, number], times };
  });
  const call = pool.starmap("holdThread", items.map(({ value }) => value));
  // They are redistributed repeatedly, as one after another is slow.
  for (let passed = 0; passed < 60; passed++) {
    gate.open(passed);
    await until(() => gate.arrived === Math.min(60, passed + 3));
    await turn();
  }
  gate.open();
  assertEquals(await call, numbers(60));
  for (const { times } of items) assert(times() === 1 || times() === 2);
});

poolTest(
  "Pool: a call ends with its last item, whatever others hold the workers",
  async () => {
    const once = async function* () {
      yield await turn().then(() => 1);
    };
    const calls: ((pool: Pool<typeof jobs>) => Promise<unknown>)[] = [
      (pool) => pool.apply("double", [1]),
      (pool) => pool.map("double", [1]),
      (pool) => pool.map("double", new Set([1])),
      (pool) => pool.map("double", once()),
      (pool) => Array.fromAsync(pool.imap("double", [1])),
      (pool) => Array.fromAsync(pool.imapUnordered("double", new Set([1]))),
      (pool) => Array.fromAsync(pool.imap("double", once())),
    ];
    const cases = calls.flatMap((call) =>
      [1, 2].map((size) => ({ call, size }))
    );
    for (const { call, size } of cases) {
      // A new pool, which does not know yet how long these jobs take.
      await using pool = new Pool(service, { size });
      const gate = new Gate();
      const held = pool.map("hold", Array(6).fill(gate.memory));
      await until(() => gate.arrived === size);
      const ended = settling(call(pool));
      // Others pass until the call's item has run; then none does.
      const before = pool.stats().done;
      const isDone = () => pool.stats().done - before > gate.left;
      let passed = 0;
      while (!isDone()) {
        assertLess(passed, 3, `${call}`);
        gate.open(++passed);
        await until(() => isDone() || gate.arrived === passed + size);
      }
      const isHeld = () =>
        pool.stats().busy === size && gate.arrived === passed + size;
      await until(() => ended.isSettled || isHeld());
      for (let i = 0; i < 20 && !ended.isSettled; i++) await turn();
      assert(ended.isSettled, `${call} of ${size}`);
      assertEquals(gate.left, passed);
      gate.open();
      await Promise.all([held, ended.promise]);
    }
  },
);

poolTest(
  "Pool: an item that cannot be cloned costs other calls no messages",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    await pool.map("same", numbers(5000)); // now they go in large chunks
    const sent = await sentBy(async () => {
      const [good, bad, other] = await Promise.allSettled([
        pool.map("same", numbers(20_000)),
        pool.apply("same", [() => {}]),
        pool.map("same", [1, () => {}, 3], { settle: true }),
      ]);
      assert(good.status === "fulfilled");
      assertEquals(good.value, numbers(20_000));
      assert(bad.status === "rejected" && bad.reason instanceof JobError);
      assert(other.status === "fulfilled");
      const fates = other.value.map(({ status }) => status[0]).join("");
      assertEquals(fates, "frf");
    });
    assertLess(sent.length, 1000);
    // Nor do those that come later.
    const later = await sentBy(() => pool.map("same", numbers(20_000)));
    assertLess(later.length, 1000);
  },
);

/** Counts the messages of calls of many short items, there and back. */
async function assertFewMessages(
  methods: ("map" | "imap")[],
  all: CallOptions[],
): Promise<void> {
  const posts = shared(0);
  const init: Setup = { posts };
  await using pool = new Pool(service, { size: 2, init });
  const count = 50_000;
  const items = numbers(count);
  for (const options of all) {
    for (const method of methods) {
      Atomics.store(posts, 0, 0);
      const sent = await sentBy(async () => {
        if (method === "map") await pool.map("double", items, options);
        else for await (const _ of pool.imap("double", items, options));
      });
      const names = `${method} ${Object.keys(options)}`;
      assertLess(sent.length, count / 20, names);
      assertLess(Atomics.load(posts, 0), count / 20, `back, ${names}`);
    }
  }
}

poolTest(
  "Pool: short items share messages, with a signal and a timeout, too",
  async () => {
    const { signal } = new AbortController();
    const timeout = HANGS;
    await assertFewMessages(["map"], [
      {},
      { signal },
      { timeout },
      { signal, timeout },
      { signal, settle: true },
    ]);
    await assertFewMessages(["imap"], [{}, { signal }]);
  },
);

poolTest(
  "Pool: short items share messages, also where each result counts for itself",
  async () => {
    const timeout = HANGS;
    await assertFewMessages(["map"], [
      { timeout, retries: 1 },
      { timeout, settle: true },
    ]);
    await assertFewMessages(["imap"], [{ timeout }]);
  },
);

poolTest(
  "Pool: behind a chunk of long items a call waits for few of them",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    for (const job of ["greeting", "isWorker"] as const) {
      const open = new Gate();
      open.open();
      await pool.map("holdThread", Array(200).fill(open.memory));
      const gate = new Gate();
      const long = pool.map("holdThread", Array(40).fill(gate.memory));
      await until(() => gate.arrived === 1); // they went out in one chunk
      const short = settling<unknown>(pool.apply(job, []));
      for (let passed = 0; !short.isSettled; passed++) {
        assertLess(passed, 20);
        gate.open(passed);
        await until(() => short.isSettled || gate.arrived > passed);
        for (let i = 0; i < 20; i++) await turn();
      }
      gate.open();
      await Promise.all([short.promise, long]);
    }
  },
);

poolTest(
  "Pool: what is moved never goes to a worker that is being given up",
  async () => {
    await using pool = new Pool(service, { size: 1 });
    await pool.starmap("neverAt", numbers(200).map((n) => [n, -1]));
    for (let round = 0; round < 3; round++) {
      const controller = new AbortController();
      const { signal } = controller;
      const hangs = pool.apply("neverAt", [1, 1], { signal });
      await until(() => pool.stats().busy === 1 && pool.stats().queued === 0);
      const before = pool.apply("length", [new Uint8Array(8)], moved);
      controller.abort("given up");
      assertEquals(await hangs.catch((reason) => reason), "given up");
      const after = pool.apply("length", [new Uint8Array(9)], moved);
      assertEquals(await Promise.all([before, after]), [8, 9]);
    }
  },
);

poolTest("Pool: short calls that keep coming starve no other", async () => {
  for (const callers of [3, 8]) {
    await using pool = new Pool(service, { size: 1 });
    await pool.map("double", numbers(1000)); // now they are known to be short
    let others = 0;
    let isOver = false;
    const loops = numbers(callers).map(async () => {
      while (!isOver) {
        await pool.apply("double", [1]);
        others++;
      }
    });
    const calls: Record<string, () => Promise<unknown>> = {
      "a new job": () => pool.apply("isWorker", []),
      "a long job": () => pool.apply("block", [20]),
      "a long job, known": () => pool.apply("block", [20]),
      "what is moved": () => pool.apply("length", [new Uint8Array(9)], moved),
      "a few": () => pool.map("block", [20, 20]),
    };
    for (const [name, call] of Object.entries(calls)) {
      const before = others;
      let passed = Infinity; // how many ran before it
      const ended = call().then(() => passed = others - before);
      await until(() => passed < Infinity || others - before > 1000);
      isOver ||= passed > 10 * callers;
      await ended;
      assert(!isOver, `${name} beside ${callers} came after ${passed}`);
    }
    isOver = true;
    await Promise.all(loops);
  }
});

poolTest(
  "Pool: calls of one job on one worker end in their order",
  async () => {
    for (let round = 0; round < 3; round++) {
      await using pool = new Pool(service, { size: 1 });
      for (const job of ["double", "later", "block"] as const) {
        const order: number[] = [];
        const calls = numbers(8).map((n) =>
          pool.apply(job, [n % 2]).then(() => order.push(n))
        );
        await Promise.all(calls);
        assertEquals(order, numbers(8), job);
        order.length = 0;
        const more = numbers(200).map((n) =>
          pool.apply(job, [0]).then(() => order.push(n))
        );
        await Promise.all(more);
        assertEquals(order, numbers(200), job);
      }
    }
  },
);

poolTest("Pool: what waits is counted, whatever it came by", async () => {
  await using pool = new Pool(service, { size: 1 });
  const gate = new Gate();
  const calls = numbers(100).map(() => pool.apply("hold", [gate.memory]));
  assertEquals(pool.stats().queued, 100);
  await until(() => gate.arrived === 1);
  assertEquals(pool.stats().queued, 99);
  const map = pool.map("double", numbers(50));
  const starmap = pool.starmap("add", Array(7).fill([1, 2]));
  assertEquals(pool.stats().queued, 156);
  const stream = pool.imap("double", new Set(numbers(1000)));
  const first = stream.next();
  // Of an iterator only what was pulled is counted.
  assertLess(pool.stats().queued, 200);
  gate.open();
  assertEquals(await map, doubles(50));
  await Promise.all([...calls, starmap, first]);
  await stream.return();
  await until(() => pool.stats().busy === 0);
  assertEquals(pool.stats().queued, 0);
});

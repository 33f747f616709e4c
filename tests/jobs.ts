/** Jobs that do all that jobs may do, good and bad. */
import { cancelled, Pool, serve, transfer } from "../mod.ts";

let greeting = "not set up";

function wait(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

/** What nobody should throw, and somebody does. */
const odd: Record<string, () => unknown> = {
  undefined: () => undefined,
  symbol: () => Symbol("s"),
  function: () => () => {},
  "no text": () => ({ toString: "x", valueOf: 1 }),
  "no text inside": () =>
    Object.assign(new Error(), { message: { toString: 1 } }),
  "circular cause": () => {
    const error = new Error("round");
    error.cause = error;
    return error;
  },
  "a getter that throws": () =>
    Object.defineProperty(new Error("x"), "message", {
      get: () => {
        throw new Error("getter");
      },
    }),
  "a proxy that throws": () =>
    new Proxy({}, {
      getPrototypeOf: () => {
        throw new Error("trap");
      },
    }),
  "properties that cannot be cloned": () =>
    Object.assign(new Error("x"), { fn: () => {}, code: 7 }),
  "a name of another class": () =>
    Object.assign(new Error("x"), { name: "DOMException", code: 1 }),
  DOMException: () => new DOMException("x", "AbortError"),
  aggregate: () => new AggregateError([new RangeError("one"), 2], "both"),
};

/** The names of what `throwOdd` throws. */
export const oddities = Object.keys(odd);

export const jobs = {
  double: (n: number) => 2 * n,
  add: (a: number, b: number) => a + b,
  same: <T>(value: T) => value,
  greeting: (_?: number) => greeting,
  worker: () => self.name,
  isWorker: () => "WorkerGlobalScope" in globalThis,
  block: (ms: number) => (wait(ms), ms),
  sleep: async (ms: number) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    return ms;
  },
  /** Counts in shared memory, slowly, and fails at the first. */
  countOrFail: (counter: Int32Array<SharedArrayBuffer>, n: number) => {
    if (n === 0) throw new Error("the first one");
    Atomics.add(counter, 0, 1);
    wait(5);
  },
  countAndFail: (counter: Int32Array<SharedArrayBuffer>) => {
    Atomics.add(counter, 0, 1);
    throw new Error("counted");
  },
  fill: (length: number) => {
    const bytes = new Uint8Array(length).fill(7);
    return transfer(bytes, [bytes.buffer]);
  },
  fail: (n: number) => {
    if (n >= 0) throw new RangeError(`no ${n}`, { cause: { n } });
    return n;
  },
  reject: (n: number) => Promise.reject(new TypeError(`not ${n}`)),
  throwNull: () => {
    throw null;
  },
  throwNotFound: () => Deno.readTextFileSync("no such file"),
  throwOdd: (kind: string) => {
    throw odd[kind]();
  },
  returnFunction: (): unknown => () => {},
  /** Numbers as they are, odd ones in a buffer to be moved, 4 not at all. */
  returnMixed: (n: number): unknown => {
    if (n === 4) return () => {};
    const bytes = new Uint8Array(n);
    return n % 2 ? transfer(bytes, [bytes.buffer]) : n;
  },
  returnDetached: () => {
    const bytes = new Uint8Array(8);
    structuredClone(bytes, { transfer: [bytes.buffer] });
    return transfer(bytes, [bytes.buffer]);
  },
  exitOn: (n: number, fatal: number) => n === fatal ? Deno.exit(3) : n,
  closeOn: (n: number, fatal: number) => {
    if (n === fatal) self.close();
    return n;
  },
  throwLateOn: async (n: number, fatal: number) => {
    if (n === fatal) {
      setTimeout(() => {
        throw new RangeError("too late");
      });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    return n;
  },
  rejectLateOn: async (n: number, fatal: number) => {
    if (n === fatal) {
      Promise.reject(new RangeError("not handled"));
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    return n;
  },
  throwAfterReply: (n: number) => {
    setTimeout(() => {
      throw new Error("after the reply");
    });
    return n;
  },
  /** Blocks the thread for ever. */
  spin: (_?: number) => {
    for (;;);
  },
  spinAt: (n: number, fatal: number) => {
    while (n === fatal);
    return n;
  },
  /** Blocks the thread, but listens. */
  poll: (n: number) => {
    while (!cancelled()) wait(1);
    return n;
  },
  pollAt: (n: number, at: number) => {
    while (n === at && !cancelled()) wait(1);
    return n;
  },
  pollAsync: async (heard: Int32Array<SharedArrayBuffer>) => {
    while (!cancelled()) await new Promise((done) => setTimeout(done, 1));
    Atomics.add(heard, 0, 1);
  },
  never: (_?: number) => new Promise<void>(() => {}),
  /** Blocks for ever at its first try only. */
  spinOnce: (tries: Int32Array<SharedArrayBuffer>) => {
    const first = Atomics.add(tries, 0, 1) === 0;
    while (first && !cancelled()) wait(1);
    return Atomics.load(tries, 0);
  },
  /** Exits now and then, as long as there are kills left. */
  fragile: (n: number, kills: Int32Array<SharedArrayBuffer>) => {
    if (Math.random() < 0.02 && Atomics.sub(kills, 0, 1) > 0) Deno.exit(1);
    return n;
  },
  exitAfter: async (ms: number) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    Deno.exit(1);
  },
  /** Notes how many are under way at once. */
  crowd: async (counts: Int32Array<SharedArrayBuffer>, ms: number) => {
    const now = Atomics.add(counts, 0, 1) + 1;
    if (now > Atomics.load(counts, 1)) Atomics.store(counts, 1, now);
    await new Promise((resolve) => setTimeout(resolve, ms));
    Atomics.sub(counts, 0, 1);
    return ms;
  },
  /** Waits until so many have come. */
  meet: async (counter: Int32Array<SharedArrayBuffer>, count: number) => {
    Atomics.add(counter, 0, 1);
    while (Atomics.load(counter, 0) < count) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return count;
  },
  isCancelled: async (ms: number) => {
    await new Promise((resolve) => setTimeout(resolve, ms));
    return cancelled();
  },
  mayRead: async (_?: number) => {
    const { state } = await Deno.permissions.query({ name: "read" });
    return state;
  },
  poolInside: async (n: number): Promise<number[]> => {
    await using pool = new Pool<typeof jobs>(import.meta.url, { size: 2 });
    return await pool.map("double", [n, n + 1]);
  },
};

export const service = serve(import.meta, jobs, {
  setup: (init: string | Int32Array<SharedArrayBuffer> | undefined) => {
    if (init === "bad") throw new Error("cannot set up");
    if (init === "exit") Deno.exit(1);
    if (typeof init !== "object") greeting = init ?? "hello";
    else if (Atomics.sub(init, 0, 1) > 0) { // killed at some time
      setTimeout(() => self.close(), 30 * Math.random());
    }
  },
});

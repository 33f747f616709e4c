/** Jobs that do everything a job can do, good and bad. */
import { cancelled, Pool, serve, transfer } from "../../mod.ts";
import { arrive, leave, type Memory, shared, turn } from "./gates.ts";

let greeting = "not set up";
let left: Uint8Array | undefined;

/** Blocks the thread for at least that many milliseconds. */
function wait(ms: number): void {
  Atomics.wait(shared(0), 0, 0, ms);
}

/** Blocks the thread until other threads have made a condition true. */
function waitIn(memory: Memory, condition: (value: number) => boolean): void {
  for (let value; !condition(value = Atomics.load(memory, 0));) {
    Atomics.wait(memory, 0, value);
  }
}

function inAnotherRealm(code: string): unknown {
  const { getBuiltinModule } = Reflect.get(globalThis, "process");
  return getBuiltinModule("node:vm").runInNewContext(code);
}

/** Odd values that code may throw. */
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
  "causes and errors in circles": () => {
    const all = new AggregateError([], "all");
    all.errors = [1, 2, 3].map((n) => new Error(`${n}`, { cause: all }));
    return all;
  },
  "no stack": () => {
    const error = new Error("x");
    delete error.stack;
    return error;
  },
  "another realm": () => inAnotherRealm("new TypeError('there')"),
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
  /** Takes at least that many milliseconds. */
  block: (ms: number) => (wait(ms), ms),
  later: async <T>(value: T) => (await turn(), value),
  /** Waits at a gate, until it is cancelled. */
  hold: async (gate: Memory, value = 0) => {
    const mayPass = arrive(gate);
    while (!mayPass() && !cancelled()) await turn();
    leave(gate);
    return value;
  },
  /** The same, and blocks its thread. */
  holdThread: (gate: Memory, value = 0) => {
    const mayPass = arrive(gate);
    while (!mayPass() && !cancelled()) wait(1);
    leave(gate);
    return value;
  },
  /** Holds its thread; or waits until another one does, then fails. */
  holdOrFail: (gate: Memory, fails: boolean) => {
    if (!fails) return jobs.holdThread(gate);
    while (Atomics.load(gate, 0) === 0) wait(1);
    wait(10); // so that results before it are reported first
    throw new Error("the other holds");
  },
  countAndFail: (counter: Memory) => {
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
  returnPromiseOfAnotherRealm: () => inAnotherRealm("Promise.resolve(7)"),
  returnThenableWithoutPrototype: (): unknown => {
    const then = (resolve: (value: number) => void) => resolve(7);
    return Object.assign(Object.create(null), { then });
  },
  /** As a job in JavaScript may have it. */
  moveNoList: () => {
    const bytes = new Uint8Array(8);
    return transfer(bytes, bytes.buffer as never);
  },
  /** Moves a buffer in an object without a prototype; gives what is left of it. */
  moveWithoutPrototype: (bytes?: Uint8Array<ArrayBuffer>): unknown => {
    left = bytes ?? left;
    if (!bytes) return left!.length;
    return transfer(Object.assign(Object.create(null), { bytes }), [
      bytes.buffer,
    ]);
  },
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
      await new Promise(() => {});
    }
    return n;
  },
  rejectLateOn: async (n: number, fatal: number) => {
    if (n === fatal) {
      Promise.reject(new RangeError("not handled"));
      await new Promise(() => {});
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
  spin: (gate: Memory) => {
    arrive(gate);
    for (;;);
  },
  spinAt: (n: number, fatal: number) => {
    while (n === fatal);
    return n;
  },
  /** Blocks the thread, but asks whether it is cancelled. */
  pollAt: (n: number, at: number) => {
    while (n === at && !cancelled()) wait(1);
    return n;
  },
  never: async (gate: Memory) => {
    arrive(gate);
    await new Promise(() => {});
  },
  neverAt: async (n: number, at: number) => {
    if (n === at) await new Promise(() => {});
    return n;
  },
  /** Exits now and then, as long as there are kills left. */
  fragile: (n: number, kills: Memory) => {
    if (Math.random() < 0.05 && Atomics.sub(kills, 0, 1) > 0) Deno.exit(1);
    return n;
  },
  exitAt: async (gate: Memory) => {
    await jobs.hold(gate);
    Deno.exit(1);
  },
  exitReported: (n: number, fatal: number, gate: Memory) => {
    // Results before this one are reported meanwhile.
    if (n === fatal - 1) wait(10);
    if (n === fatal) Deno.exit((leave(gate), 1));
    return n;
  },
  /** Records how many run at once; waits until at least `least` have. */
  crowd: async (counts: Memory, least: number) => {
    const now = Atomics.add(counts, 0, 1) + 1;
    if (now > Atomics.load(counts, 1)) Atomics.store(counts, 1, now);
    while (Atomics.load(counts, 1) < least) await turn();
    await turn();
    Atomics.sub(counts, 0, 1);
    return least;
  },
  /** Waits until `count` have come, each on a thread of its own. */
  meet: (counter: Memory, count: number) => {
    Atomics.add(counter, 0, 1);
    Atomics.notify(counter, 0);
    waitIn(counter, (arrived) => arrived >= count);
    return count;
  },
  /** Ends after `others` others, which do not wait for it. */
  endAfter: ({ ended, others }: { ended: Memory; others: number }) => {
    waitIn(ended, (count) => count >= others);
    Atomics.add(ended, 0, 1);
    Atomics.notify(ended, 0);
    return others;
  },
  isCancelled: async (gate: Memory) => {
    const mayPass = arrive(gate);
    while (!mayPass()) await turn();
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
  failInside: async (): Promise<number[]> => {
    await using pool = new Pool<typeof jobs>(import.meta.url, { size: 1 });
    return await pool.map("fail", [-1, 5]);
  },
};

export const service = serve(import.meta, jobs, {
  setup: (init: string | Memory | undefined) => {
    if (init === "bad") throw new Error("cannot set up");
    if (init === "exit") Deno.exit(1);
    if (typeof init !== "object") greeting = init ?? "hello";
    else if (Atomics.sub(init, 0, 1) > 0) { // the worker is ended later
      setTimeout(() => self.close(), 30 * Math.random());
    }
  },
});

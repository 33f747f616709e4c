/** Jobs in workers that a test has set up as it likes. */
import { serve } from "../../mod.ts";
import { type Memory, turn } from "./gates.ts";
import { jobs as all } from "./jobs.ts";

/** What a worker does when it starts. */
export interface Setup {
  /** Counts the workers that have begun to start. */
  started?: Memory;
  /** Which of them fail, counted from 0, and how. */
  failing?: number[];
  by?: "throw" | "close" | "exit";
  /** No worker is ready before that many have begun to start. */
  together?: number;
  /** Counts the messages that the worker sends. */
  posts?: Memory;
}

let given: unknown;

/** Makes this thread count the messages that it sends. */
function countPosts(counter: Memory): void {
  const { postMessage } = MessagePort.prototype;
  MessagePort.prototype.postMessage = function (...args: unknown[]) {
    Atomics.add(counter, 0, 1);
    Reflect.apply(postMessage, this, args);
  };
}

export const jobs = {
  ...all,
  /** What `setup` was given. */
  given: () => given,
  length: (list: ArrayLike<unknown>) => list.length,
  /** Records that it has begun, and waits at a gate. */
  mark: async (marks: Memory, n: number, gate: Memory) => {
    Atomics.add(marks, n, 1);
    return await all.hold(gate, n);
  },
  /** Fails when another one has come to the gate. */
  failBeside: async (gate: Memory) => {
    while (Atomics.load(gate, 0) === 0) await turn();
    throw new RangeError("beside");
  },
  /** The first ones wait at a gate, the last one fails beside them. */
  neverOrFail: (gate: Memory, fails: boolean) =>
    fails ? jobs.failBeside(gate) : all.never(gate),
  exitIfFirst: (counter: Memory, lives: number): number => {
    if (Atomics.add(counter, 0, 1) < lives) Deno.exit(1);
    return lives;
  },
  throwNamed: (name: string): never => {
    throw namedError(name);
  },
};

/** An error of a class that the platform has, or of another one. */
function namedError(name: string): Error {
  const make: Record<string, () => Error> = {
    NotFound: () => new Deno.errors.NotFound("gone"),
    PermissionDenied: () => new Deno.errors.PermissionDenied("no"),
    URIError: () => new URIError("bad"),
    AggregateError: () => new AggregateError([1, 2], "two"),
    DOMException: () => new DOMException("aborted", "AbortError"),
    QuotaExceededError: () => new DOMException("full", "QuotaExceededError"),
    CompileError: () => new WebAssembly.CompileError("bad module"),
    Own: () =>
      new (class Own extends TypeError {
        override name = "Own";
      })("own"),
  };
  return make[name]();
}

async function setup(init: Setup | undefined): Promise<void> {
  given = init;
  const { started, failing = [], by = "throw", together = 0, posts } = init ??
    {};
  if (posts) countPosts(posts);
  if (!started) return;
  const place = Atomics.add(started, 0, 1);
  if (failing.includes(place)) {
    if (by === "close") self.close();
    else if (by === "exit") Deno.exit(1);
    else throw new RangeError(`no worker ${place}`);
  }
  while (Atomics.load(started, 0) < together) await turn();
}

export const service = serve(import.meta, jobs, { setup });

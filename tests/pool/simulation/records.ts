/** What is known of every call and item, beside what the pool knows. */
import type { CallOptions } from "../../../mod.ts";
import type { Thread } from "./worker.ts";

/** What may go wrong with an item. */
export const FAULTS = [
  /** The job throws. */
  "throws",
  /** Its result cannot be cloned. */
  "result",
  /** Its argument cannot be cloned. */
  "argument",
  /** The job ends its thread (`Deno.exit`, `close`): nothing tells so. */
  "exits",
  /** Something that it started throws where nobody catches it. */
  "crashes",
  /** It has returned when what it started throws. */
  "crashes later",
  /** It has returned when its thread ends. */
  "exits later",
  /** It never ends and blocks its thread, which nothing can stop. */
  "blocks",
  /** It never ends, but asks whether it is cancelled. */
  "listens",
  /** It never ends, but awaits: its thread can be stopped. */
  "waits",
] as const;
export type Fault = typeof FAULTS[number];

/** Those with which an item never ends by itself. */
export const ENDLESS: readonly Fault[] = ["blocks", "listens", "waits"];

/** One item of a call; it is what the job gets as its argument. */
export interface Item {
  call: Call;
  index: number;
  /** How long the job runs, in ms. */
  duration: number;
  /** How long its message takes to be written, and to be read, in ms. */
  size: number;
  fault?: Fault;
  /** In how many runs the fault shows, from the first. */
  faults: number;
  /** How long it takes to end when it was cancelled and listens, in ms. */
  reaction: number;
  /** It was moved to a worker. */
  detached: boolean;
  /** What it was sent in last, and how often it was sent. */
  chunk?: Chunk;
  sends: number;
  /** Its last run, and how many there were. */
  run?: Run;
  runs: number;
  /** How often it was lost or timed out. */
  missed: number;
  /** What became of it, as far as the pool can know. */
  over?: "answered" | "failed" | "timed out" | "lost" | "not sent";
}

/** Items that were sent together. */
export interface Chunk {
  seat: Seat;
  slot: number;
  items: Item[];
  /** Whether the thread had nothing to do when it was sent. */
  first: boolean;
  sent: number;
  /** When its first item began. */
  begun?: number;
  /** By position; none of what was not begun, or skipped. */
  runs: Run[];
  /** How many results the pool has got. */
  answered: number;
  /** The pool knows that nothing more comes. */
  over: boolean;
}

/** What an item did in a thread. */
export interface Run {
  item: Item;
  chunk: Chunk;
  position: number;
  start: number;
  end?: number;
  /** When it was told that it is cancelled, and whether its time was up. */
  told?: number;
  timedOut?: boolean;
  /** Its worker is given up where it does not end. */
  mustEnd?: boolean;
  /** Its outcome has reached the pool. */
  delivered?: boolean;
  /** Its thread has ended, or was given up, before its outcome arrived. */
  lost?: boolean;
}

/** A worker as the pool can know it. */
export interface Seat {
  thread: Thread;
  /** When it was made, and how long the caller had been busy by then. */
  made: number;
  blocked: number;
  /** When the pool heard that it is ready. */
  ready?: number;
  /** Something uncaught was told of it. */
  crashed: boolean;
  /** The pool has ended it; or it must know that it has not started. */
  ended: boolean;
  left: boolean;
  /** What is with it. */
  chunks: Chunk[];
  /** How many items it has begun, or skipped. */
  claims: number;
}

export const METHODS = [
  "apply",
  "map",
  "starmap",
  "imap",
  "imapUnordered",
] as const;

/** One call. */
export interface Call {
  id: number;
  method: typeof METHODS[number];
  job: string;
  /** Its job awaits: between two items a thread can be stopped. */
  awaits: boolean;
  options: CallOptions;
  items: Item[];

  // Its input

  input: "array" | "sync" | "async";
  /** Which item the input throws at, instead of giving it. */
  throwsAt: number;
  /** What the input does beside giving an item, and at which one. */
  aside?: { at: number; run: () => void };
  /** The input is doing something: nobody can know what comes. */
  asked: boolean;
  /** How many items the input has given; of an array, all. */
  pulled: number;
  /** The task in which it has said that there are no more, or has thrown. */
  exhaustedIn?: number;
  /** How often it was told that no more is wanted, and whether after its end. */
  closed: number;
  closedLate?: boolean;

  // Its life

  /** When it began, in ms; undefined: not yet. */
  submitted?: number;
  /** How long the caller's thread had been busy with itself by then. */
  blocked: number;
  /** The calls that were open then. */
  before: Call[];
  /** How long a turn of it may take, in ms. */
  turn: number;
  /** When its first item began. */
  begun?: number;
  /** How many of its items are over, and how many of those without a value. */
  over: number;
  bad: number;
  /** The task in which the last one was. */
  overIn?: number;
  /** When the signal was aborted, and in which task. */
  aborted?: number;
  abortedIn?: number;
  /** Somebody waits for the next result. */
  reading: boolean;
  /** How many results were read. */
  read: number;
  /** When it ended, and in which task; its error, if it had one. */
  ended?: number;
  endedIn?: number;
  error?: unknown;
  /** It was left before its end. */
  left?: boolean;
  /** How many messages went either way with its items. */
  sent: number;
  received: number;
  /** It has shared a message with calls whose results do not wait. */
  isPrompt?: boolean;
  /** How many items were sent again, from workers that go on. */
  resent: number;
}

/** Whether its results are read one by one. */
export function isStream({ method }: Call): boolean {
  return method.startsWith("imap");
}

/** No call has more items. */
const INDEX_MAX = 10_000;

/** What the job gives for an item: a number, or a text. */
export function valueOf({ call: { id }, index }: Item): number | string {
  return id % 2 === 0 ? id * INDEX_MAX + index : `${id}/${index}`;
}

/** Which item of its call gave a value. */
export function indexOf(value: unknown): number {
  if (typeof value === "number") return value % INDEX_MAX;
  return Number(String(value).split("/")[1]);
}

// For the trace

export function nameOf({ call, index }: Item): string {
  return `item ${index} of call ${call.id}`;
}

/** Which items these are, in short. */
export function rangesOf(items: Item[]): string {
  const ranges: string[] = [];
  for (let from = 0; from < items.length;) {
    const { call, index } = items[from];
    let to = from + 1;
    while (items[to]?.call === call && items[to].index === index + to - from) {
      to++;
    }
    const last = to - from > 1 ? `…${index + to - from - 1}` : "";
    ranges.push(`${index}${last} of call ${call.id}`);
    from = to;
  }
  return ranges.join(", ");
}

export function describe(call: Call): string {
  const { id, method, job, items, input } = call;
  const options = Object.entries(call.options)
    .map(([name, value]) => Object(value) === value ? name : `${name} ${value}`)
    .join(", ");
  return `call ${id}, ${method} '${job}' on ${items.length} of ${input}` +
    (options ? ` (${options}),` : ",");
}

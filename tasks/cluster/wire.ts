/**
 * What travels through the queue: chunks of items, and their answers.
 *
 * Both are what a structured clone of them is to V8, as base64, since BullMQ's
 * own form is JSON: typed arrays, maps, `undefined` and errors survive, and what
 * an item has in common with another one of its chunk, such as a list of
 * keywords, travels once. To read it calls nothing, however it was made.
 *
 * @module
 */

import { deserialize, serialize } from "node:v8";
import { type Failure, revive } from "../../mod.ts";

/** Items of one job that are done together on one machine. */
export interface ChunkMessage {
  job: string;
  /** Whether an item is the list of arguments or the only argument. */
  spread: boolean;
  /** How long one item may run, in ms. */
  timeout?: number;
  items: unknown[];
}

/** Stands for a value that travels by itself, as many items have it in common. */
export interface Reference {
  reference: string;
}

/** Above this size a value that items have in common travels by itself. */
export const COMMON_CHARS = 1 << 14;

/** What became of an item. */
export type ItemAnswer =
  | { kind: "done"; value: unknown }
  | { kind: "failed" | "lost"; cause: unknown }
  | { kind: "timed out" };

/** The same on its way. A value is packed by itself: so its size is known. */
export type PackedAnswer =
  | { kind: "done"; value: Uint8Array }
  | { kind: "failed" | "lost"; cause?: Failure }
  | { kind: "timed out" };

/** What became of a chunk's items, in their order; what is missing is not done. */
export interface AnswerMessage<A = PackedAnswer> {
  /** Who did it: the machine, and which of its workers, counted from 1. */
  machine: string;
  worker: number;
  answers: A[];
  /** How many files these items stood for. */
  files: number;
  /** When each item began and ended, in the machine's time, in ms. */
  times: number[];
  /** When the chunk was begun and answered, in the machine's time, in ms. */
  began: number;
  ended: number;
}

/** The most items in a chunk. */
export const ITEMS_MAX = 256;
/**
 * How large a chunk may be, in characters: so what is under way does not grow with
 * the items. It is some 3,000 small logs, a tenth of a second of work.
 */
export const CHUNK_CHARS = 1 << 18;
/** An answer with more than this is sent as it is, in bytes; the rest comes later. */
export const ANSWER_BYTES = 16 << 20;
/** A single result may be so large, in bytes. */
export const VALUE_BYTES = 40 << 20;
/** What is larger is refused, in characters. */
export const MESSAGE_CHARS = 64 << 20;

/**
 * Puts a message into a text.
 *
 * @throws {Error} If it cannot be cloned, or is too large
 */
export function encode(message: ChunkMessage | AnswerMessage): string {
  const text = new Uint8Array(serialize(message)).toBase64();
  if (text.length > MESSAGE_CHARS) {
    throw new RangeError(`too large for the queue: ${text.length} characters`);
  }
  return text;
}

/** Puts a value into a text. */
export function encodeValue(value: unknown): string {
  return encode({ value } as never);
}

/** Reads it. */
export function decodeValue(data: unknown): unknown {
  return (decode(data) as { value: unknown }).value;
}

/** Packs a value. */
export function pack(value: unknown): Uint8Array {
  return new Uint8Array(serialize(value));
}

/**
 * Reads a chunk.
 *
 * @throws {Error} If it is none; the message is a line
 */
export function decodeChunk(data: unknown): ChunkMessage {
  const message = decode(data) as ChunkMessage;
  const { job, spread, timeout = 1, items } = message;
  if (
    typeof job !== "string" || typeof spread !== "boolean" ||
    !Number.isInteger(timeout) || timeout < 1 || !Array.isArray(items)
  ) throw new TypeError("it is not a chunk");
  if (items.length > ITEMS_MAX) {
    throw new RangeError(`it has ${items.length} items: ${ITEMS_MAX} may be`);
  }
  return message;
}

/**
 * Reads an answer.
 *
 * @param data What came
 * @param count How many items it may be about
 * @throws {Error} If it is none; the message is a line
 */
export function decodeAnswer(
  data: unknown,
  count: number,
): AnswerMessage<ItemAnswer> {
  const message = decode(data) as AnswerMessage;
  const { machine, worker, answers, files, times, began, ended } = message;
  const numbers = [worker, files, began, ended];
  if (
    typeof machine !== "string" || !numbers.every(Number.isFinite) ||
    !Array.isArray(answers) || answers.length > count ||
    !Array.isArray(times) || !times.every(Number.isFinite)
  ) throw new TypeError("it is not an answer");
  return { ...message, answers: answers.map(unpack) };
}

function unpack(answer: PackedAnswer): ItemAnswer {
  const { kind } = answer;
  if (kind === "done") return { kind, value: deserialize(answer.value) };
  if (kind === "timed out") return { kind };
  if (kind !== "failed" && kind !== "lost") {
    throw new TypeError("it is not an answer");
  }
  return { kind, cause: answer.cause && revive(answer.cause) };
}

function decode(data: unknown): Record<never, never> {
  if (typeof data !== "string") throw new TypeError("it is not a text");
  if (data.length > MESSAGE_CHARS) {
    throw new RangeError(`it is too large: ${data.length} characters`);
  }
  const message = deserialize(Uint8Array.fromBase64(data));
  if (typeof message !== "object" || message === null) {
    throw new TypeError("it is not a message");
  }
  return message;
}

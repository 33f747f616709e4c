/**
 * Where the Redis server is, as the user says it.
 *
 * @module
 */

import { UsageError } from "../cli/flags.ts";

/** A Redis server. */
export interface Address {
  /** Its URL, which may hold a password: never to be printed. */
  readonly url: string;
  /** The URL without user and password. */
  readonly shown: string;
}

/** The variable with the URL, where it is not to be seen in lists of processes. */
export const VARIABLE = "REDIS_URL";

/**
 * Reads the URL of a Redis server.
 *
 * @param given The value of `--redis`; empty for that of `REDIS_URL`
 * @returns The server
 * @throws {UsageError} If it is no such URL; its text, which may hold a password,
 * is not in the message
 */
export function addressOf(given: string): Address {
  const url = given || Deno.env.get(VARIABLE);
  const name = given ? "--redis" : VARIABLE;
  if (!url) {
    throw new UsageError(`--redis needs a URL, or ${VARIABLE} must be set`);
  }
  const { protocol, hostname, host, pathname } = URL.parse(url) ?? {};
  const isRedis = protocol === "redis:" || protocol === "rediss:";
  if (!isRedis || !hostname || !/^(\/\d*)?$/.test(pathname!)) {
    throw new UsageError(
      `${name} must be a URL like redis://HOST:6379 or rediss://HOST:6379`,
    );
  }
  const port = /:\d+$/.test(host!) ? "" : ":6379";
  return { url, shown: `${protocol}//${host}${port}${pathname}` };
}

/**
 * The flags of a batch that other machines take part in.
 *
 * @module
 */

import type { Jobs, Service } from "../../mod.ts";
import { type Flags, UsageError } from "../cli/flags.ts";
import type { StartRemote } from "../report/measure.ts";
import { addressOf } from "./address.ts";

/** The flags that have a text, and those that have a number. */
export const CLUSTER_TEXTS = ["redis", "root"];
export const CLUSTER_NUMBERS = { wait: 1 };

/** Their part of `--help`. */
export const CLUSTER_HELP =
  `      --redis URL     have it done by all machines that run deno task join with
                      the same redis://HOST:6379 or rediss://…; without a URL,
                      that of the variable REDIS_URL, where a password belongs
      --root DIR      with --redis: where the shared folder is on this machine,
                      if it is elsewhere on the others
      --wait SECONDS  with --redis: how long to wait for a machine to join, and
                      for Redis to come back (default 60)
`;

/**
 * Gives `--redis` without a URL the one of `REDIS_URL`.
 *
 * @param args The command line
 * @returns The same with a value for each flag
 */
export function withVariable(args: string[]): string[] {
  const end = args.indexOf("--");
  return args.map((arg, i) => {
    if (arg !== "--redis" || end >= 0 && i > end) return arg;
    if (/^\w+:\/\//.test(args[i + 1] ?? "")) return arg;
    return `--redis=${addressOf("").url}`;
  });
}

/**
 * Gives up what only `--redis` needs, the network and the environment, where it is
 * not given: the permissions of a task are the same for all of its flags.
 */
export function confine({ text, number, is }: Flags): void {
  if (text.redis !== undefined) {
    if (number.workers === undefined) return;
    throw new UsageError("--workers is a flag of deno task join, with --redis");
  }
  for (const name of ["root", "wait"]) {
    if (text[name] === undefined && number[name] === undefined) continue;
    if (!is.help) throw new UsageError(`--${name} needs --redis`);
  }
  Deno.permissions.revokeSync({ name: "net" });
  Deno.permissions.revokeSync({ name: "env" });
}

/** Not a literal, or Deno would fetch BullMQ for every run. */
const START = "./start.ts";

/** Loads what starts such a batch. */
export function loadCluster(): Promise<typeof import("./start.ts")> {
  return import(START);
}

/** Starts such a runner for a comparison, where there is `--redis`. */
export function remotely<J extends Jobs>(
  flags: Flags,
  name: string,
  service: Service<J>,
  permissions?: { read: string[]; write: string[] },
): StartRemote<J> | undefined {
  if (flags.text.redis === undefined) return;
  return async (onTask) => {
    const { startCluster } = await loadCluster();
    return await startCluster(flags, name, service, { permissions, onTask });
  };
}

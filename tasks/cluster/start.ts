/**
 * The flags of a batch that other machines take part in, and its runner.
 *
 * Nothing here is loaded from npm before there is `--redis`.
 *
 * @module
 */

import { resolve } from "@std/path/resolve";
import type { Jobs, Service, TaskTiming } from "../../mod.ts";
import { causeOf } from "../../workers/shared/files.ts";
import { type Flags, UsageError } from "../cli/flags.ts";
import { userFolder } from "../cli/paths.ts";
import { onInterrupt } from "../cli/program.ts";
import { count, warn } from "../cli/terminal.ts";
import { addressOf } from "./address.ts";
import type { StartRemote } from "../report/measure.ts";
import type { Cluster, MachineWork } from "./cluster.ts";
import { Root } from "./roots.ts";

/** Not a literal, or Deno would fetch BullMQ for every run. */
const CLUSTER = "./cluster.ts";

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

/**
 * Starts a runner on the machines that join.
 *
 * @param flags The command line, with `--redis`
 * @param name The service's name
 * @param service The service
 * @param more What its workers may do; who is told of each item
 * @throws {UsageError} If the URL or the root is wrong
 * @throws {Error} If Redis cannot be reached
 */
export async function startCluster<J extends Jobs>(
  { text, number }: Flags,
  name: string,
  service: Service<J>,
  more: {
    permissions?: { read: string[]; write: string[] };
    onTask?: (timing: TaskTiming) => void;
  } = {},
): Promise<Cluster<J>> {
  const address = addressOf(text.redis!);
  const root = text.root === undefined ? undefined : rootOf(text.root);
  const wait = number.wait ?? 60;
  const { Cluster }: typeof import("./cluster.ts") = await import(CLUSTER);
  const say = (line: string) => warn(`${name}: ${line}`);
  const options = { address, name, root, wait, say, ...more };
  const cluster = await Cluster.start(service, options);
  onInterrupt(() => cluster.terminate());
  return cluster;
}

/** Starts such a runner for a comparison, where there is `--redis`. */
export function remotely<J extends Jobs>(
  flags: Flags,
  name: string,
  service: Service<J>,
  permissions?: { read: string[]; write: string[] },
): StartRemote<J> | undefined {
  if (flags.text.redis === undefined) return;
  return (onTask) =>
    startCluster(flags, name, service, { permissions, onTask });
}

/**
 * The folder that `--root` names.
 *
 * @throws {UsageError} If there is none
 */
export function rootOf(folder: string): Root {
  try {
    return new Root(resolve(userFolder, folder));
  } catch (error) {
    throw new UsageError(`--root ${folder}: ${causeOf(error)}`);
  }
}

/** What each machine did, a line each. */
export function workText(work: MachineWork[]): string {
  return work.map(({ name, workers, files, seconds }) =>
    `${name}: ${count(files, "files")}, ${
      count(workers, "workers")
    } busy for ` +
    `${seconds.toFixed(1)} s together\n`
  ).join("");
}

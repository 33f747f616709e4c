/**
 * Starts the runner of a batch that other machines take part in.
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
import { Cluster, type MachineWork } from "./cluster.ts";
import { Root } from "./roots.ts";

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
  const say = (line: string) => warn(`${name}: ${line}`);
  const options = { address, name, root, wait, say, ...more };
  const cluster = await Cluster.start(service, options);
  onInterrupt(() => cluster.terminate());
  return cluster;
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

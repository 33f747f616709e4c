/**
 * The conversion of a batch, to be measured.
 *
 * @module
 */

import { causeOf } from "../../workers/shared/files.ts";
import { type GrayJobs, service } from "../../workers/grayscale.ts";
import { totalSize } from "../cli/paths.ts";
import { Turns } from "../cli/program.ts";
import type { Work } from "../report/measure.ts";
import type { Order } from "./orders.ts";

/** The conversion of a batch, to be compared. */
export async function grayscaleWork(
  orders: Order[],
  permissions?: Deno.PermissionOptions,
): Promise<Work<GrayJobs> & { failures: Map<number, string> }> {
  const failures = new Map<number, string>();
  return {
    failures,
    service,
    permissions,
    items: orders.length,
    unit: "images",
    bytes: await totalSize(orders.map((order) => order.path)),
    run: async (runner, times) => {
      failures.clear();
      using turns = new Turns(); // for Ctrl-C, between images on this thread
      const many = Array.from({ length: times }, () => orders).flat();
      const outcomes = runner.imap("grayscaleFile", many, { settle: true });
      let index = 0;
      for await (const outcome of outcomes) {
        if (outcome.status === "rejected") {
          failures.set(index % orders.length, causeOf(outcome.reason));
        }
        index++;
        await turns.take();
      }
    },
    answer: () => digest(orders.map((order) => order.out), failures),
  };
}

/** One text for all that was written, and for what was not. */
async function digest(
  paths: string[],
  failures: Map<number, string>,
): Promise<string> {
  const parts: string[] = [];
  for (const [i, path] of paths.entries()) { // one at a time: they may be many
    const failure = failures.get(i);
    if (failure === undefined) {
      const bytes = await Deno.readFile(path);
      const hash = await crypto.subtle.digest("SHA-256", bytes);
      parts.push(new Uint8Array(hash).toHex());
    } else parts.push(failure);
  }
  return parts.join("\n");
}

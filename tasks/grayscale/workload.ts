/**
 * The conversion of images as work that can be measured.
 *
 * @module
 */

import { causeOf } from "../../workers/shared/files.ts";
import {
  type GrayJobs,
  type GrayscaleFileOptions,
  type GrayscaleFileResult,
  service,
} from "../../workers/grayscale.ts";
import { totalSize } from "../cli/paths.ts";
import { Yielder } from "../cli/program.ts";
import type { Workload } from "../report/measure.ts";

/** What became of the images, by their numbers. */
interface Outcomes {
  /** Those that were converted. */
  results: Map<number, GrayscaleFileResult>;
  /** Why others were not. */
  failures: Map<number, string>;
}

/** The conversion of images as work that can be measured. */
export async function grayscaleWork(
  conversions: GrayscaleFileOptions[],
  permissions?: Deno.PermissionOptions,
): Promise<Workload<GrayJobs> & Outcomes> {
  const failures = new Map<number, string>();
  const results = new Map<number, GrayscaleFileResult>();
  return {
    failures,
    results,
    service,
    permissions,
    items: conversions.length,
    unit: "images",
    bytes: await totalSize(conversions.map(({ path }) => path)),
    run: async (runner, times) => {
      failures.clear();
      using yielder = new Yielder(); // so that Ctrl-C is heard between two images
      const many = Array.from({ length: times }, () => conversions).flat();
      const outcomes = runner.imap("grayscaleFile", many, { settle: true });
      let index = 0;
      for await (const outcome of outcomes) {
        const image = index++ % conversions.length;
        if (outcome.status === "rejected") {
          failures.set(image, causeOf(outcome.reason));
        } else results.set(image, outcome.value);
        await yielder.yield();
      }
    },
    answer: () => digest(conversions.map(({ out }) => out), failures),
  };
}

/** One text that stands for all outputs, and for the failures. */
async function digest(
  paths: string[],
  failures: Map<number, string>,
): Promise<string> {
  const parts: string[] = [];
  for (const [i, path] of paths.entries()) { // one by one, as they may be many
    const failure = failures.get(i);
    if (failure === undefined) {
      const bytes = await Deno.readFile(path);
      const hash = await crypto.subtle.digest("SHA-256", bytes);
      parts.push(new Uint8Array(hash).toHex());
    } else parts.push(failure);
  }
  return parts.join("\n");
}

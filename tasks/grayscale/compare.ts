/**
 * Compares the conversion on one thread with that of a pool.
 *
 * @module
 */

import { join } from "@std/path/join";
import { service } from "../../workers/grayscale.ts";
import { lastPart, projectFolder } from "../cli/paths.ts";
import { print } from "../cli/terminal.ts";
import { remotely } from "../cluster/flags.ts";
import * as report from "../report/markdown.ts";
import { AllFailedError, compare } from "../report/measure.ts";
import type { Batch } from "./batch.ts";
import { conversionsOf, permissionsFor, TemporaryFiles } from "./plan.ts";
import { grayscaleWork } from "./workload.ts";

/**
 * Converts a batch sequentially and in parallel, and reports on that.
 *
 * @param batch The images
 * @param command The command line, for the report
 * @returns The exit status
 */
export async function compareConversions(
  batch: Batch,
  command: string,
): Promise<number> {
  const { quiet, json } = batch.flags.is;
  const nothing = () => batch.print(`${batch.summary()}: nothing to compare\n`);
  const conversions = [...conversionsOf(batch, new TemporaryFiles())];
  if (conversions.length === 0) return nothing();
  const permissions = permissionsFor(batch);
  const workload = await grayscaleWork(conversions, permissions);
  const workers = batch.flags.number.workers ?? navigator.hardwareConcurrency;
  const { flags } = batch;
  const startRemote = remotely(flags, "grayscale", service, permissions);
  const comparison = await compare(workload, workers, quiet, startRemote)
    .catch((error) => {
      if (!(error instanceof AllFailedError)) throw error;
    });
  for (const [i, { name, out }] of conversions.entries()) {
    const failure = workload.failures.get(i);
    const { bytes, warning } = workload.results.get(i) ?? {};
    if (failure !== undefined) batch.addFailed(name, failure);
    else batch.addConverted(name, out, bytes, warning);
  }
  if (!comparison) return nothing();
  const status = batch.print(
    `${batch.summary()}\n\n${report.table(comparison)}\n${
      report.conclusion(comparison)
    }\n`,
  );
  const path = await report.writeReport(
    join(projectFolder, "reports", "grayscale.md"),
    report.render(
      "Grayscale",
      command,
      comparison,
      conversions.map(({ name }) => lastPart(name)),
    ),
  );
  if (!json && !quiet) print(`\nReport: ${path}\n`);
  return status;
}

/**
 * The scan of logs, to be measured.
 *
 * @module
 */

import {
  type LogJobs,
  type Report,
  scanLogs,
  type ScanOptions,
  service,
} from "../../workers/logscan.ts";
import { totalSize } from "../cli/paths.ts";
import type { Work } from "../report/measure.ts";

/** The scan of files, to be compared; `reports` are of its last run. */
export async function logscanWork(
  paths: string[],
  options: ScanOptions,
): Promise<Work<LogJobs> & { reports: Report[] }> {
  const failures = new Map<number, string>();
  const work: Work<LogJobs> & { reports: Report[] } = {
    reports: [],
    failures,
    service,
    items: paths.length,
    unit: "logs",
    bytes: await totalSize(paths),
    run: async (runner, times) => {
      const many = Array.from({ length: times }, () => paths).flat();
      work.reports = await Array.fromAsync(scanLogs(runner, many, options));
      failures.clear();
      for (
        const [i, { error }] of work.reports.slice(0, paths.length).entries()
      ) {
        if (error !== undefined) failures.set(i, error);
      }
    },
    answer: () => JSON.stringify(work.reports),
  };
  return work;
}

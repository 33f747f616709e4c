/**
 * The scan of logs as workload that can be measured.
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
import type { Workload } from "../report/measure.ts";

/** The scan of files as workload; `reports` are those of its last run. */
export async function logscanWork(
  paths: string[],
  options: ScanOptions,
): Promise<Workload<LogJobs> & { reports: Report[] }> {
  const failures = new Map<number, string>();
  const workload: Workload<LogJobs> & { reports: Report[] } = {
    reports: [],
    failures,
    service,
    items: paths.length,
    unit: "logs",
    bytes: await totalSize(paths),
    run: async (runner, times) => {
      const many = Array.from({ length: times }, () => paths).flat();
      workload.reports = await Array.fromAsync(scanLogs(runner, many, options));
      failures.clear();
      for (
        const [i, { error }] of workload.reports.slice(0, paths.length)
          .entries()
      ) {
        if (error !== undefined) failures.set(i, error);
      }
    },
    answer: () => JSON.stringify(workload.reports),
  };
  return workload;
}

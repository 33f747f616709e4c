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

/** The scan of files as workload. */
export interface LogscanWork extends Workload<LogJobs> {
  /**
   * What the last run reported of each file: of the members of an archive, then of
   * the file itself.
   */
  reports: Report[][];
}

/** The scan of files as workload. */
export async function logscanWork(
  paths: string[],
  options: ScanOptions,
): Promise<LogscanWork> {
  const failures = new Map<number, string>();
  const workload: LogscanWork = {
    reports: [],
    failures,
    service,
    items: paths.length,
    unit: "logs",
    bytes: await totalSize(paths),
    run: async (runner, times) => {
      const many = Array.from({ length: times }, () => paths).flat();
      const reports: Report[][] = [[]];
      for await (const report of scanLogs(runner, many, options)) {
        reports.at(-1)!.push(report);
        if (report.member === undefined) reports.push([]);
      }
      workload.reports = reports.slice(0, many.length);
      failures.clear();
      for (const [i, own] of reports.slice(0, paths.length).entries()) {
        const error = own.find(({ error }) => error !== undefined)?.error;
        if (error !== undefined) failures.set(i, error);
      }
    },
    answer: () => JSON.stringify(workload.reports),
  };
  return workload;
}

/**
 * The jobs that may be called through the queue, and the paths in their items.
 *
 * @module
 */

import { newSpanReport, type Span } from "../../workers/logscan/scan.ts";
import { forWorkers, type Query } from "../../workers/logscan/search.ts";
import { causeOf } from "../../workers/shared/files.ts";
import type { Access } from "./roots.ts";

/** Gives the path to be used instead of one; it throws where that is refused. */
export type Translate = (path: unknown, access: Access) => string;

/** What a machine is to do for an item. */
export interface LocalItem {
  item: unknown;
  /** How many files the item stands for. */
  files: number;
  /** What was refused: of some items, a part may be. */
  refused: string[];
  /** Makes the item's result of the one that the job gave. */
  complete?: (result: unknown) => unknown;
}

/** How the items of a job travel. */
interface JobPaths {
  /** Replaces the paths in an item, which may be anything. */
  translate(item: unknown, translate: Translate): LocalItem;
  /**
   * What many items have in common: its name in an item. Where it is large, it
   * travels once, and `prepare` makes of it what the workers of a machine share.
   */
  common?: { name: string; prepare(value: unknown): unknown };
  /** Puts the paths of the item into its result. */
  restore?(result: unknown, item: unknown): unknown;
}

/** The most spans that a request may have. */
const SPANS_MAX = 4096;

/** Each service's jobs; nothing else can be called. */
export const JOBS: Record<string, Record<string, JobPaths>> = {
  grayscale: {
    grayscaleFile: {
      translate(item, translate) {
        const { path, out } = fieldsOf(item);
        const paths = {
          path: translate(path, "read"),
          out: translate(out, "write"),
        };
        return whole({ ...item as object, ...paths }, 1);
      },
      restore: (result, item) => {
        const { path, out } = fieldsOf(item);
        return { ...result as object, path, out };
      },
    },
  },
  logscan: {
    scanSpans: {
      translate: translateRequest,
      common: {
        name: "query",
        prepare: (query) => forWorkers(query as Query),
      },
    },
    countLines: {
      translate: (item, translate) => whole(translateSpan(item, translate)),
    },
  },
};

/** An item of which nothing was refused. */
export const whole = (item: unknown, files = 0): LocalItem => (
  { item, files, refused: [] }
);

function fieldsOf(item: unknown): Record<string, unknown> {
  if (typeof item !== "object" || item === null) {
    throw new TypeError("it is not an item of this job");
  }
  return item as Record<string, unknown>;
}

function translateSpan(span: unknown, translate: Translate): Span {
  const fields = fieldsOf(span) as unknown as Span;
  return { ...fields, path: translate(fields.path, "read") };
}

/** Of a request, spans may be refused: the others are searched all the same. */
function translateRequest(item: unknown, translate: Translate): LocalItem {
  const { spans } = fieldsOf(item);
  if (!Array.isArray(spans) || spans.length > SPANS_MAX) {
    throw new TypeError("it is not an item of this job");
  }
  const passed: (Span | string)[] = [];
  const causes = new Map<number, string>();
  const refused: string[] = [];
  let files = 0;
  for (let i = 0; i < spans.length; i++) {
    const span = spans[i];
    const isPath = typeof span === "string";
    if (isPath || fieldsOf(span).start === 0) files++;
    try {
      passed.push(
        isPath ? translate(span, "read") : translateSpan(span, translate),
      );
    } catch (error) {
      causes.set(i, causeOf(error));
      const path = isPath ? span : fieldsOf(span).path;
      refused.push(`${path}: ${causeOf(error)}`);
    }
  }
  const complete = (result: unknown) => {
    const reports = (result as unknown[]).values();
    return spans.map((_, i) => {
      const error = causes.get(i);
      return error === undefined
        ? reports.next().value
        : { ...newSpanReport(), error };
    });
  };
  return {
    item: { ...item as object, spans: passed },
    files,
    refused,
    ...refused.length > 0 && { complete },
  };
}

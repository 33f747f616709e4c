import { serve } from "../../../mod.ts";
import { length, same } from "./jobs.mjs";

export const service = serve(import.meta, {
  same: same as <T>(value: T) => T,
  length: length as (bytes: Uint8Array) => number,
});

/** Jobs that do nothing, to measure what a pool costs. */
import { serve } from "../../mod.ts";

export const service = serve(import.meta, {
  same: (n: number) => n,
  length: (bytes: Uint8Array) => bytes.length,
});

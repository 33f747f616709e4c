/**
 * Everything that is in kernels.wasm: one module, one memory, an entry
 * file per job. Nothing stays in the memory from one call to the next: whoever
 * calls lays it out from `base()` on, grows it as needed, and has done with it
 * before the next `await`.
 */

export {
  build,
  checkBand,
  findMarker,
  recode,
  recodeRow,
  stuff,
  tablesSize,
} from "./jpeg";
export { base, collect, count, label, last, next, search } from "./search";
export { filter, lookUp, luma16, luma8, unfilter } from "./png";

/**
 * All functions of kernels.wasm: one module with one memory. The kernels keep
 * nothing in the memory from one call to the next. The caller lays it out from
 * `base()` on, grows it as needed, and is done with it before the next `await`.
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
export { fold } from "./fold";
export { buildList, listSize, scratchSize } from "./list";
export { base, collect, count, label, last, mark, next, search } from "./search";
export { filter, lookUp, luma16, luma8, unfilter } from "./png";

/**
 * All functions of kernels.wasm: one module with one memory. The kernels keep
 * nothing in the memory from one call to the next but what they would make again.
 * The caller lays it out from `base()` on, grows it as needed, and is done with it
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
export { automatonSize } from "./automaton";
export { fold } from "./fold";
export { buildList, listSize, SCRATCH } from "./list";
export { base, collect, count, has, label, last, mark, next } from "./search";
export { filter, lookUp, luma16, luma8, unfilter } from "./png";

/** Jobs that do nothing, to measure what a pool costs. */
export const same = (value) => value;
export const length = (bytes) => bytes.length;

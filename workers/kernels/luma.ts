/**
 * The luma of a color, ITU-R BT.601: what Pillow's `convert("L")` gives. It is
 * TypeScript and AssemblyScript at once, so that the kernels and the modules that
 * call them have the very same formula.
 *
 * @module
 */

/** The weights, in 65,536ths, which they are together. */
export const RED = 19595, GREEN = 38470, BLUE = 7471;
/** What makes the division by 65,536 round to the nearest. */
export const HALF = 32768;

/**
 * The luma of one pixel; the kernels have functions of their own for many.
 *
 * @param r Its red, from 0 to 255
 * @param g Its green
 * @param b Its blue
 * @returns Its luma, from 0 to 255
 */
export function luma(r: number, g: number, b: number): number {
  return (RED * r + GREEN * g + BLUE * b + HALF) >> 16;
}

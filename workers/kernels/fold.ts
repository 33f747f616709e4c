/**
 * Folds case: writes each character as one of those that differ from it in case
 * only and are as long as UTF-8, so that every byte stays in its place.
 *
 * A few characters have another form that is longer or shorter, as k has the sign
 * of Kelvin. Where one occurs in its rare form, it stays as it is, which the caller
 * is told.
 */

import { codeAt, lengthAt, PAGES, writeCode } from "./utf8";

/**
 * Folds a range, and writes up to 16 bytes more.
 *
 * @param table for each 256 characters a byte that says which of the pages behind
 * is theirs. A page has for each character which bits of its code change, times 2,
 * and 1 more if it is a rare form. If it is 0, only ASCII can be folded
 * @returns 0; 1 if there was a rare form; 2 if there is more than ASCII, but no
 * table
 */
export function fold(table: usize, from: usize, end: usize, to: usize): u32 {
  let rare: u32 = 0;
  while (from < end) {
    const bytes = v128.load(from);
    const letters = i8x16.lt_u(
      i8x16.sub(bytes, i8x16.splat(65)),
      i8x16.splat(26),
    );
    v128.store(to, v128.or(bytes, v128.and(letters, i8x16.splat(0x20))));
    const others = i8x16.bitmask(bytes);
    if (!others) { // as mostly, so that the next step need not wait for this one
      from += 16;
      to += 16;
      continue;
    }
    from += ctz(others);
    to += ctz(others);
    // A character that is not ASCII mostly has another one beside it.
    while (from < end && load<u8>(from) > 0x7f) {
      if (!table) return 2;
      const length = lengthAt(from);
      if (length == 0) {
        store<u8>(to++, load<u8>(from++));
        continue;
      }
      const code = codeAt(from, length);
      const page = <usize> load<u8>(table + (code >> 8)) << 10;
      const change = load<u32>(table + PAGES + page + ((code & 255) << 2));
      rare |= change & 1;
      writeCode(code ^ change >> 1, length, to);
      from += length;
      to += length;
    }
  }
  return rare;
}

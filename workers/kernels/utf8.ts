/** Reads and writes characters of UTF-8. */

/** How many times 256 characters there are, for tables of them. */
export const PAGES: usize = 0x1100;

/** How many bytes the character at a place has, or 0 if it is not valid. */
export function lengthAt(at: usize): usize {
  const first = load<u8>(at);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const second = load<u8>(at + 1);
  if (!isTail(second)) return 0;
  if (first < 0xe0) return 2;
  if (!isTail(load<u8>(at + 2))) return 0;
  if (first < 0xf0) {
    // No shorter character, and no half of a pair of UTF-16.
    return first == 0xe0 && second < 0xa0 || first == 0xed && second > 0x9f ? 0 : 3;
  }
  if (first == 0xf0 && second < 0x90 || first == 0xf4 && second > 0x8f) return 0;
  return isTail(load<u8>(at + 3)) ? 4 : 0;
}

@inline
function isTail(byte: u8): bool {
  return (byte & 0xc0) == 0x80;
}

/** The code of the character at a place that has so many bytes. */
export function codeAt(at: usize, length: usize): u32 {
  let code = <u32> load<u8>(at);
  if (length > 1) code &= 0x7f >> <u32> length;
  for (let i: usize = 1; i < length; i++) {
    code = code << 6 | load<u8>(at + i) & 0x3f;
  }
  return code;
}

/** Writes a character that has so many bytes, two or more. */
export function writeCode(code: u32, length: usize, to: usize): void {
  for (let i = length - 1; i > 0; code >>= 6) {
    store<u8>(to + i--, <u8> (0x80 | code & 0x3f));
  }
  store<u8>(to, <u8> (0xf00 >> <u32> length | code));
}

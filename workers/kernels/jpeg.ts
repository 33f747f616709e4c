/**
 * Takes the luma out of the scans of a JPEG without decoding a coefficient.
 * Clauses are those of ITU-T T.81.
 *
 * Entropy-coded data are held unstuffed (B.1.1.5) and reversed: byte i of the
 * stream is at `top - 1 - i`. A little-endian load of 64 bits is then a window on
 * the stream, with the first bit as its highest one. Positions in a stream count
 * bits. Output is written the same way, then reversed and stuffed at the end.
 *
 * The blocks of a scan are skipped, several symbols at a time. The bits of the
 * luma are copied: only the order of its blocks changes, from MCU by MCU to row by
 * row, and with it some of the DC differences.
 *
 * Tried and not taken: two streams side by side in one loop, so that the look-ups
 * of one hide the latency of the other's. That skips blocks in 0.75 of the time
 * (17 photographs, 0.70 to 0.82), which is about a tenth of what an image takes in
 * all, for twice the code of a block and for jobs of two images each.
 */

/** How many bits of the stream, a prefix, are looked up at a time. */
const PREFIX: u32 = 13, ENTRIES: u32 = 1 << PREFIX;

/**
 * The tables for the blocks of one component. An entry describes all symbols
 * whose codes are complete within a prefix:
 *
 *     bits 0 to 4    their length in bits, including the last value's bits
 *     bits 5 to 10   how many coefficients they advance; one more for an EOB
 *     bit 11         set if the first code is longer than a prefix, or undefined
 *     bit 12         set if the block ends (EOB)
 *     bits 13 to 17  `START` only: the length of the DC code and its value
 *     bits 18 to 31  `START` only: the DC difference
 *
 * An entry of `START` is 0 if DC is longer than a prefix. Bits 5 to 12 of the
 * entries of a block can be added up: the block goes on while the sum is below 63,
 * and bit 6 of the sum is set if an entry was missing or went beyond the block.
 */
const START: usize = 0; // u32: the first symbols
const MORE: usize = START + ENTRIES * 4; // u16: AC symbols
const DC_CODES: usize = MORE + ENTRIES * 2; // Codes
const AC_CODES: usize = DC_CODES + 400; // Codes
const TABLES: usize = AC_CODES + 400;
const ENDED: u32 = 1 << 12, NONE: u32 = 1 << 11, BEYOND: u32 = 64;

/**
 * A band of AC coefficients has other tables. `MORE` has the first symbol of a
 * prefix, with the length of its code from bit 8 on. `START` is for scans that
 * refine; it describes all symbols that are complete within a prefix:
 *
 *     bits 0 to 4    their length in bits, including the values' bits
 *     bits 5 to 9    how many coefficients they advance (up to 20), if all of
 *                    these were zero before
 *     bit 10         set if the block ends (EOB0)
 *     bits 12 to 31  which of these coefficients become nonzero
 *
 * An entry is 0 if there is no such symbol.
 */
const BAND_ENDED: u32 = 1 << 10, BAND_MOST: u32 = 20;

/** ITU-T T.81, F.2.2.3: how to decode a symbol of any length. */
@unmanaged
class Codes {
  /** The end of the codes of each length, as a prefix of 16 bits. */
  @inline static end(codes: usize, length: u32): u32 {
    return load<u32>(codes + (<usize> length << 2));
  }
  /** What is added to a code of this length to get the index of its value. */
  @inline static shift(codes: usize, length: u32): i32 {
    return load<i16>(codes + 68 + (<usize> length << 1));
  }
  @inline static value(codes: usize, index: u32): u32 {
    return load<u8>(codes + 102 + index);
  }
}

/** What is wrong with a scan; the messages are in ../grayscale/jpeg.ts. */
const SHORT: u32 = 1, NO_CODE: u32 = 2, LONG_BLOCK: u32 = 3, DC_RANGE: u32 = 4;
const LEFT_OVER: u32 = 5, OUT_OF_SEQUENCE: u32 = 6, LONG_RUN: u32 = 7;
const NO_CATEGORY: u32 = 8;

/** A scan, laid out by ../grayscale/jpeg.ts. */
@unmanaged
class Scan {
  /** Where the entropy-coded data begin, and the end of the file. */
  from: usize;
  end: usize;
  /** The tops of the reversed streams: data, result, luma rows of an MCU. */
  data: usize;
  result: usize;
  rows: usize;
  /** The distance of two such luma rows; each lies below the one before. */
  rowSize: usize;
  mcusWide: u32;
  mcusHigh: u32;
  /** How many MCUs a restart interval has; 0 if there are no restart markers. */
  interval: u32;
  /** How many components there are, and which one is the luma. */
  count: u32;
  luma: u32;
  /** The luma's blocks in an MCU, across and down. */
  lumaWide: u32;
  lumaHigh: u32;
  /** The luma's blocks in all, without those that only fill up an MCU. */
  blocksWide: u32;
  blocksHigh: u32;
  /** Whether to write all DC differences anew, not only those that change. */
  all: u32;
  /** For each DC category: its code, its length << 16, and 1 << 31. */
  categories: usize;
  /** Output: what is wrong, in the data that begin at `segment`, at which bit. */
  error: u32;
  segment: usize;
  bit: u32;
  /** Output: where the data end. */
  next: usize;
  /** How many bits the current restart interval has. */
  bits: u32;
  /** The DC prediction in the order of the data. */
  prediction: i32;
  /** For up to four components: their blocks in an MCU, and their tables. */
  blocks: u32;
  tables: usize;
  blocks1: u32;
  tables1: usize;
  blocks2: u32;
  tables2: usize;
  blocks3: u32;
  tables3: usize;
  /** For up to four luma rows of an MCU: bits written, first and last DC. */
  written: u32;
  written1: u32;
  written2: u32;
  written3: u32;
  first: i32;
  first1: i32;
  first2: i32;
  first3: i32;
  last: i32;
  last1: i32;
  last2: i32;
  last3: i32;
  /**
   * A band of AC coefficients: the first and the last one, whether the scan
   * refines them, and 64 bits for each block, which are kept from one scan to the
   * next: which coefficients are nonzero.
   */
  bandFirst: u32;
  bandLast: u32;
  refines: u32;
  masks: usize;
  /** How many blocks after the current one an EOBn ends as well. */
  run: u32;
  /** MCUs until the next restart marker, and how many markers there were. */
  left: u32;
  restarts: u32;
}

// Streams

/** A window on the stream: at least 57 bits, from the highest one on. */
@inline
function window(top: usize, at: u32): u64 {
  return load<u64>(top - 8 - (at >> 3)) << (at & 7);
}

/** Writes the highest 56 bits, and overwrites what follows them. */
@inline
function put(top: usize, at: u32, bits: u64): void {
  const byte = top - 8 - (at >> 3), held = <u64> at & 7;
  const before = <u64> load<u8>(byte + 7) << 56 & ~(<u64> -1 >> held);
  store<u64>(byte, before | bits >> held);
}

/** Copies bits from one stream to another; 14 bytes may be overwritten. */
@inline
function copy(from: usize, at: u32, end: u32, to: usize, out: u32): u32 {
  const next = out + (end - at);
  // This is enough for most blocks, and faster than a branch that is often
  // predicted wrong.
  put(to, out, window(from, at));
  put(to, out + 56, window(from, at + 56));
  for (let done = out + 112; done < next; done += 56) {
    put(to, done, window(from, at + (done - out)));
  }
  return next;
}

/** Reverses data up to a marker, without the zeros behind FF (B.1.1.5). */
function unstuff(scan: Scan, from: usize): void {
  const ff = i8x16.splat(-1), end = scan.end;
  let at = from, to = scan.data;
  while (at < end) {
    const bytes = v128.load(at);
    v128.store(to - 16, reversed(bytes));
    const found = i8x16.bitmask(i8x16.eq(bytes, ff));
    const plain = found ? <usize> ctz(found) : 16;
    if (at + plain >= end) {
      to -= end - at;
      at = end;
    } else if (plain == 16) {
      at += 16;
      to -= 16;
    } else {
      at += plain;
      to -= plain;
      if (at + 1 >= end) at = end; // half a marker
      else if (load<u8>(at + 1) != 0) break;
      else {
        to -= 1;
        at += 2;
      }
    }
  }
  store<u64>(to - 8, 0); // so that a window on the end shows no older data
  scan.segment = from;
  scan.bits = <u32> (scan.data - to) << 3;
  scan.next = min(at, end);
}

@inline
function reversed(bytes: v128): v128 {
  return i8x16.shuffle(
    bytes,
    bytes,
    15,
    14,
    13,
    12,
    11,
    10,
    9,
    8,
    7,
    6,
    5,
    4,
    3,
    2,
    1,
    0,
  );
}

/** Reverses a stream into bytes, with a zero behind each FF. */
export function stuff(top: usize, size: u32, to: usize): usize {
  const ff = i8x16.splat(-1), end = top - size;
  let at = top, out = to;
  while (at > end) {
    const bytes = reversed(v128.load(at - 16));
    v128.store(out, bytes);
    const found = i8x16.bitmask(i8x16.eq(bytes, ff));
    const plain = found ? <usize> ctz(found) : 16;
    if (at - end <= plain) return out + (at - end);
    at -= plain;
    out += plain;
    if (plain < 16) {
      at -= 1;
      store<u16>(out, 0xff);
      out += 2;
    }
  }
  return out;
}

/** The FF of the next marker behind entropy-coded data, also of RSTn; or `end`. */
export function findMarker(from: usize, end: usize): usize {
  const ff = i8x16.splat(-1);
  for (let at = from; at < end; at += 16) {
    let found = i8x16.bitmask(i8x16.eq(v128.load(at), ff));
    for (; found; found &= found - 1) {
      const marker = at + <usize> ctz(found);
      if (marker + 1 < end && load<u8>(marker + 1) != 0) return marker;
    }
  }
  return end;
}

// Tables

/** How much memory the tables of a component take. */
export function tablesSize(): usize {
  return TABLES;
}

/**
 * Builds the tables of a component from the counts and values of a DHT (B.2.4.2)
 * for DC and AC, which ../grayscale/jpeg.ts has checked. An address of 0 means
 * that there is no such table: a scan of DC alone has no AC table, a band of AC no
 * DC table, and a scan of one more DC bit has neither (G.1.2.1). `symbols` is
 * memory for a u16 per prefix.
 */
export function build(
  tables: usize,
  dc: usize,
  ac: usize,
  symbols: usize,
): void {
  memory.fill(tables, 0, TABLES);
  if (dc) newCodes(tables + DC_CODES, dc);
  if (ac) {
    newCodes(tables + AC_CODES, ac);
    if (!dc) symbols = tables + MORE;
    spreadSymbols(symbols, ac);
  }
  for (let prefix: u32 = 0; prefix < ENTRIES; prefix++) {
    const start = tables + START + (<usize> prefix << 2);
    const entry = dc
      ? dcEntry(tables, symbols, prefix, ac)
      : ac
      ? bandEntry(symbols, prefix)
      : 1 | ENDED;
    store<u32>(start, entry);
    if (dc && ac) {
      const entry = acEntry(symbols, prefix, 0);
      const more = tables + MORE + (<usize> prefix << 1);
      store<u16>(more, <u16> (entry ? entry : NONE));
    }
  }
}

/** For each prefix its first symbol, if the code is complete within it. */
function spreadSymbols(symbols: usize, dht: usize): void {
  memory.fill(symbols, 0, ENTRIES * 2);
  let to = symbols, value = dht + 16;
  for (let length: u32 = 1; length <= PREFIX; length++) {
    for (let count = load<u8>(dht + length - 1); count; count--) {
      const symbol = <u16> (length << 8 | load<u8>(value++));
      for (const end = to + (2 << (PREFIX - length)); to < end; to += 2) {
        store<u16>(to, symbol);
      }
    }
  }
}

/** The symbol at a bit of a prefix, if its code is complete within it. */
@inline
function symbolBehind(symbols: usize, prefix: u32, bits: u32): u32 {
  const rest = prefix << bits & (ENTRIES - 1);
  const symbol = <u32> load<u16>(symbols + (<usize> rest << 1));
  return symbol >> 8 > PREFIX - bits ? 0 : symbol;
}

/** C.2: codes are consecutive numbers within a length, and from length to length. */
function newCodes(codes: usize, dht: usize): void {
  let code: u32 = 0, index: u32 = 0;
  for (let length: u32 = 1; length <= 16; length++) {
    store<i16>(codes + 68 + (<usize> length << 1), <i16> (index - code));
    const count = load<u8>(dht + length - 1);
    code += count;
    index += count;
    store<u32>(codes + (<usize> length << 2), code << (16 - length));
    code <<= 1;
  }
  memory.copy(codes + 102, dht + 16, 256);
}

/** A symbol, and its code's length above 8 bits; 0 where there is no code. */
@inline
function symbolAt(codes: usize, prefix16: u32): u32 {
  for (let length: u32 = 1; length <= 16; length++) {
    if (prefix16 < Codes.end(codes, length)) {
      const code = <i32> (prefix16 >> (16 - length));
      const index = <u32> (code + Codes.shift(codes, length)) & 255;
      return length << 8 | Codes.value(codes, index);
    }
  }
  return 0;
}

function dcEntry(
  tables: usize,
  symbols: usize,
  prefix: u32,
  more: usize,
): u32 {
  const symbol = symbolAt(tables + DC_CODES, prefix << (16 - PREFIX));
  const length = symbol >> 8, size = symbol & 255;
  if (length == 0 || length > PREFIX || size > 11) return 0;
  const bits = length + size;
  if (bits > PREFIX) return 0;
  const value = differenceOf(<u64> prefix << (64 - PREFIX), length, size);
  const first = bits << 13 | <u32> value << 18;
  if (!more) return first | bits | ENDED;
  return first | acEntry(symbols, prefix, bits);
}

/** The entry for the AC symbols from a bit of a prefix on. */
function acEntry(symbols: usize, prefix: u32, from: u32): u32 {
  let bits = from, k: u32 = 0;
  while (bits < PREFIX && k < 63) {
    const symbol = symbolBehind(symbols, prefix, bits);
    const length = symbol >> 8, run = symbol >> 4 & 15, size = symbol & 15;
    if (length == 0 || size > 10) break;
    if (size == 0 && run == 0) return bits + length | ENDED | (k + 1) << 5;
    if (size == 0 && run != 15 || k + run + 1 > 63) break;
    k += run + 1;
    bits += length + size;
  }
  return bits | k << 5;
}

/** The entry for a band that is refined. */
function bandEntry(symbols: usize, prefix: u32): u32 {
  let bits: u32 = 0, k: u32 = 0, found: u32 = 0;
  while (bits < PREFIX) {
    const symbol = symbolBehind(symbols, prefix, bits);
    const length = symbol >> 8, run = symbol >> 4 & 15, size = symbol & 15;
    if (length == 0 || size > 1) break;
    if (size == 0 && run == 0) {
      return bits + length | k << 5 | BAND_ENDED | found << 12;
    }
    if (size == 0 && run != 15 || k + run + 1 > BAND_MOST) break;
    found |= size << (k + run);
    k += run + 1;
    bits += length + size;
  }
  return bits | k << 5 | found << 12;
}

// Blocks

/** The "end" of a block that is broken. It is larger than any real end. */
const BAD: u32 = 0xffffffff;

@inline
function fail(scan: Scan, error: u32, at: u32): u32 {
  // A code that reaches beyond the end of the data is truncated, not wrong.
  const end = error == NO_CODE ? at + 16 : at;
  scan.error = end > scan.bits ? SHORT : error;
  scan.bit = at;
  return BAD;
}

/** Skips the symbols of a block behind its first entry; returns where it ends. */
@inline
function skipRest(
  scan: Scan,
  tables: usize,
  at: u32,
  bits: u64,
  entry: u32,
): u32 {
  const top = scan.data;
  let used = entry & 31, state = entry >> 5 & 255;
  while (state < 63) {
    if (used > 57 - PREFIX) {
      at += used;
      used = 0;
      bits = window(top, at);
    }
    const prefix = <usize> (bits << used >> (64 - PREFIX));
    const more = <u32> load<u16>(tables + MORE + (prefix << 1));
    const next = state + (more >> 5);
    // Also if a block ends without an EOB: the bits behind it are another block's.
    if (next & BEYOND) return skipSlowly(scan, tables, at + used, state);
    state = next;
    used += more & 31;
  }
  return at + used;
}

/** The same symbol by symbol, for codes that are longer than a prefix. */
function skipSlowly(scan: Scan, tables: usize, at: u32, k: u32): u32 {
  while (k < 63) {
    const prefix = <u32> (window(scan.data, at) >> 48);
    const symbol = symbolAt(tables + AC_CODES, prefix);
    const run = symbol >> 4 & 15, size = symbol & 15;
    const undefined = size == 0 && run != 0 && run != 15;
    if (symbol == 0 || size > 10 || undefined) return fail(scan, NO_CODE, at);
    at += (symbol >> 8) + size;
    if (size == 0 && run == 0) return at;
    k += run + 1;
    if (k > 63) return fail(scan, LONG_BLOCK, at);
  }
  return at;
}

/** Makes the entry of a block whose DC is longer than a prefix; or 0. */
function startSlowly(tables: usize, bits: u64): u32 {
  const symbol = symbolAt(tables + DC_CODES, <u32> (bits >> 48));
  const length = symbol >> 8, size = symbol & 255;
  if (length == 0 || size > 11) return 0;
  const isWhole = load<u32>(tables + AC_CODES + 64) == 0; // no AC codes
  const value = differenceOf(bits, length, size), width = length + size;
  return <u32> value << 18 | width << 13 | (isWhole ? ENDED : 0) | width;
}

@inline
function startOf(tables: usize, bits: u64): u32 {
  const prefix = <usize> (bits >> (64 - PREFIX));
  return load<u32>(tables + START + (prefix << 2));
}

/** Skips the blocks of a component in an MCU. */
@inline
function skipBlocks(scan: Scan, tables: usize, count: u32, from: u32): u32 {
  let at = from;
  for (; count; count--) {
    const bits = window(scan.data, at);
    let entry = startOf(tables, bits);
    if (!entry) {
      entry = startSlowly(tables, bits);
      if (!entry) return fail(scan, NO_CODE, at);
    }
    at = skipRest(scan, tables, at, bits, entry);
    if (at == BAD) return BAD;
  }
  return at;
}

// Luma

/** F.1.2.1.1: the value of a DC difference, of `size` bits after its code. */
@inline
function differenceOf(bits: u64, length: u32, size: u32): i32 {
  const value = <i32> (bits << length >> 1 >> (63 - size));
  const isNegative = size != 0 && value >> (size - 1) == 0;
  return isNegative ? value - (1 << size) + 1 : value;
}

/** Writes a DC difference; returns the position behind it, or BAD. */
function putDc(
  scan: Scan,
  top: usize,
  at: u32,
  difference: i32,
  source: u32,
): u32 {
  const size = 32 - <u32> clz(abs(difference));
  if (size > 11) return fail(scan, DC_RANGE, source);
  const category = load<u32>(scan.categories + (<usize> size << 2));
  if (!category) return fail(scan, NO_CATEGORY, source);
  const length = category >> 16 & 31, width = length + size;
  const value = <u32> (difference - i32(difference < 0)) & ((1 << size) - 1);
  const bits = <u64> (category & 0xffff) << size | value;
  if (width) put(top, at, bits << (64 - width));
  return at + width;
}

@inline
function field(scan: Scan, offset: usize, row: u32): usize {
  return changetype<usize>(scan) + offset + (<usize> row << 2);
}

@inline
function rowTop(scan: Scan, row: u32): usize {
  return row ? scan.rows - <usize> (row - 1) * scan.rowSize : scan.result;
}

/** Copies the luma blocks of an MCU, each row of them to its own stream. */
function copyLuma(
  scan: Scan,
  tables: usize,
  from: u32,
  mcuRow: u32,
  mcuColumn: u32,
): u32 {
  const high = scan.lumaHigh, blocksHigh = scan.blocksHigh;
  let at = from;
  for (let row: u32 = 0; row < high; row++) {
    const isThere = mcuRow * high + row < blocksHigh;
    at = copyLumaRow(scan, tables, at, row, mcuColumn, isThere);
    if (at == BAD) return BAD;
  }
  return at;
}

@inline
function copyLumaRow(
  scan: Scan,
  tables: usize,
  from: u32,
  row: u32,
  mcuColumn: u32,
  isThere: bool,
): u32 {
  const wide = scan.lumaWide, all = scan.all, data = scan.data;
  const there = isThere ? scan.blocksWide - mcuColumn * wide : 0;
  const top = rowTop(scan, row);
  const written = field(scan, offsetof<Scan>("written"), row);
  const last = field(scan, offsetof<Scan>("last"), row);
  let out = load<u32>(written), copied = from, end = from, at = from;
  let dc = scan.prediction, lastDc = load<i32>(last);
  for (let column: u32 = 0; column < wide; column++) {
    const bits = window(data, at);
    let entry = startOf(tables, bits);
    if (!entry) {
      entry = startSlowly(tables, bits);
      if (!entry) return fail(scan, NO_CODE, at);
    }
    const difference = <i32> entry >> 18;
    dc += difference;
    if (column < there && (column == 0 || all)) {
      const rest = at + (entry >> 13 & 31), wanted = dc - lastDc;
      if (row && mcuColumn == 0 && column == 0) {
        // `appendRows` writes this difference, when the row above is finished.
        store<i32>(field(scan, offsetof<Scan>("first"), row), dc);
        copied = rest;
      } else if (wanted != difference || all) {
        if (column) out = copy(data, copied, at, top, out);
        out = putDc(scan, top, out, wanted, rest);
        if (out == BAD) return BAD;
        copied = rest;
      }
    }
    at = skipRest(scan, tables, at, bits, entry);
    if (at == BAD) return BAD;
    if (column < there) {
      end = at;
      lastDc = dc;
    }
  }
  scan.prediction = dc;
  store<i32>(last, lastDc);
  store<u32>(written, copy(data, copied, max(copied, end), top, out));
  return at;
}

/** Appends the other luma rows of a row of MCUs to the first one. */
function appendRows(scan: Scan, mcuRow: u32): bool {
  const high = min(scan.lumaHigh, scan.blocksHigh - mcuRow * scan.lumaHigh);
  let out = scan.written;
  for (let row: u32 = 1; row < high; row++) {
    const first = load<i32>(field(scan, offsetof<Scan>("first"), row));
    out = putDc(scan, scan.result, out, first - scan.last, scan.bits);
    if (out == BAD) return false;
    const written = field(scan, offsetof<Scan>("written"), row);
    const size = load<u32>(written);
    out = copy(rowTop(scan, row), 0, size, scan.result, out);
    store<u32>(written, 0);
    scan.last = load<i32>(field(scan, offsetof<Scan>("last"), row));
  }
  scan.written = out;
  return true;
}

// Scans

/**
 * Whether data are left over. Ones fill up the last byte (F.1.2.3), and some
 * encoders write another byte of ones if there is nothing to fill up.
 */
function hasLeftOver(scan: Scan, at: u32): bool {
  const left = scan.bits - at;
  if (left < 8) return false;
  return left > 15 || ~window(scan.data, at) >> (64 - left) != 0;
}

/** Continues behind the next restart marker, if it is the right one (E.2.4). */
function restart(scan: Scan, at: u32): bool {
  if (hasLeftOver(scan, at)) {
    fail(scan, LEFT_OVER, at);
    return false;
  }
  let marker = scan.next;
  const end = scan.end;
  while (marker < end && load<u8>(marker) == 0xff) marker++; // fill bytes
  if (marker >= end || load<u8>(marker) != 0xd0 + (scan.restarts & 7)) {
    fail(scan, marker >= end ? SHORT : OUT_OF_SEQUENCE, at);
    return false;
  }
  unstuff(scan, marker + 1);
  scan.restarts++;
  scan.prediction = 0;
  return true;
}

/**
 * Makes the entropy-coded data of a scan of the luma alone, without restart
 * markers, from a scan that may have other components as well. Returns their size
 * before stuffing, in bytes; 0 if something is wrong.
 */
export function recode(scan: Scan): u32 {
  unstuff(scan, scan.from);
  scan.left = scan.interval ? scan.interval : 0xffffffff;
  let at: u32 = 0;
  for (let row: u32 = 0; row < scan.mcusHigh; row++) {
    at = recodeRow(scan, at, row);
    if (at == BAD) return 0;
  }
  if (hasLeftOver(scan, at)) {
    fail(scan, LEFT_OVER, at);
    return 0;
  }
  put(scan.result, scan.written, -1); // F.1.2.3: the last byte ends with ones
  return (scan.written + 7) >> 3;
}

/**
 * The same for a row of MCUs. It is exported so that the compiler does not inline
 * it: V8 optimizes a function that is called often, but not one long call.
 */
export function recodeRow(scan: Scan, from: u32, row: u32): u32 {
  const isBits = scan.refines != 0;
  let at = from, left = scan.left;
  for (let column: u32 = 0; column < scan.mcusWide; column++) {
    if (left == 0) {
      if (!restart(scan, at)) return BAD;
      at = 0;
      left = scan.interval;
    }
    left--;
    at = isBits
      ? moveBits(scan, at, column)
      : recodeMcu(scan, at, row, column);
    if (at == BAD) return BAD;
    if (at > scan.bits) return fail(scan, SHORT, at);
  }
  scan.left = left;
  return appendRows(scan, row) ? at : BAD;
}

@inline
function recodeMcu(scan: Scan, from: u32, row: u32, column: u32): u32 {
  let at = from;
  const count = scan.count, luma = scan.luma;
  for (let i: u32 = 0; i < count; i++) {
    const component = changetype<usize>(scan) + (<usize> i << 3);
    const blocks = load<u32>(component, offsetof<Scan>("blocks"));
    const tables = load<u32>(component, offsetof<Scan>("tables"));
    at = i == luma
      ? copyLuma(scan, tables, at, row, column)
      : skipBlocks(scan, tables, blocks, at);
    if (at == BAD) return BAD;
  }
  return at;
}

/** An MCU of a scan with one more bit of each DC (G.1.2.1): copies these bits. */
@inline
function moveBits(scan: Scan, from: u32, column: u32): u32 {
  const wide = scan.lumaWide, luma = scan.luma;
  let at = from, own = from;
  for (let i: u32 = 0; i < scan.count; i++) {
    if (i == luma) own = at;
    const component = changetype<usize>(scan) + (<usize> i << 3);
    at += load<u32>(component, offsetof<Scan>("blocks"));
  }
  const columns = min(wide, scan.blocksWide - column * wide);
  // `appendRows` leaves out rows below the last one of the picture.
  for (let i: u32 = 0; i < scan.lumaHigh; i++) {
    const written = field(scan, offsetof<Scan>("written"), i);
    const out = load<u32>(written);
    put(rowTop(scan, i), out, window(scan.data, own + i * wide));
    store<u32>(written, out + columns);
  }
  return at;
}

// Bands of AC coefficients

/**
 * Checks a scan of AC coefficients, whose data are copied as they are, and records
 * which coefficients are nonzero: in later scans these have a bit without a code.
 * Returns whether something is wrong.
 */
export function checkBand(scan: Scan): bool {
  unstuff(scan, scan.from);
  let at: u32 = 0, left = scan.mcusWide * scan.mcusHigh;
  let mask = scan.masks;
  for (;;) {
    const count = scan.interval ? min(scan.interval, left) : left;
    at = checkBlocks(scan, mask, mask + (<usize> count << 3));
    if (at == BAD) return true;
    left -= count;
    if (!left) break;
    mask += <usize> count << 3;
    if (!restart(scan, at)) return true;
  }
  return hasLeftOver(scan, at) && fail(scan, LEFT_OVER, at) == BAD;
}

/** Checks the blocks of a restart interval. */
function checkBlocks(scan: Scan, from: usize, end: usize): u32 {
  const first = scan.bandFirst, last = scan.bandLast, refines = scan.refines;
  const band = between(first, last);
  let at: u32 = 0;
  for (let mask = from; mask < end; mask += 8) {
    at = refines
      ? refineBlock(scan, mask, at, first, last)
      : skipBlock(scan, mask, at, first, last);
    if (at > scan.bits) return at == BAD ? BAD : fail(scan, SHORT, at);
    if (!scan.run) continue;
    const next = mask + (<usize> scan.run << 3);
    if (next >= end) return fail(scan, LONG_RUN, at);
    scan.run = 0;
    if (!refines) mask = next;
    else while (mask < next) {
      mask += 8;
      at += <u32> popcnt(load<u64>(mask) & band);
    }
    if (at > scan.bits) return fail(scan, SHORT, at);
  }
  return at;
}

/** A mask of the coefficients of a band. */
@inline
function between(first: u32, last: u32): u64 {
  return (<u64> -1 << first) & (<u64> -1 >> (63 - last));
}

/** A symbol, and its code's length above 8 bits; 0 where there is no code. */
@inline
function nextSymbol(tables: usize, bits: u64): u32 {
  const prefix = <usize> (bits >> (64 - PREFIX));
  const symbol = <u32> load<u16>(tables + MORE + (prefix << 1));
  return symbol ? symbol : symbolAt(tables + AC_CODES, <u32> (bits >> 48));
}

/** G.1.2.2: an EOBn; sets how many blocks after this one it ends. */
@inline
function endOfBand(scan: Scan, bits: u64, length: u32, size: u32): u32 {
  const more = <u32> (bits << length >> 1 >> (63 - size));
  scan.run = (1 << size) - 1 + more;
  return length + size;
}

@inline
function skipBlock(
  scan: Scan,
  mask: usize,
  from: u32,
  first: u32,
  last: u32,
): u32 {
  const tables = scan.tables, data = scan.data;
  let at = from, k = first, found = load<u64>(mask);
  let bits = window(data, at), used: u32 = 0;
  while (k <= last) {
    if (used > 27) { // a code of 16 bits and a run of 14 must be in the window
      at += used;
      used = 0;
      bits = window(data, at);
    }
    const here = bits << used, symbol = nextSymbol(tables, here);
    const length = symbol >> 8, run = symbol >> 4 & 15, size = symbol & 15;
    if (length == 0 || size > 10) return fail(scan, NO_CODE, at + used);
    if (size == 0 && run < 15) {
      used += endOfBand(scan, here, length, run);
      break;
    }
    used += length + size;
    k += run;
    if (k > last) return fail(scan, LONG_BLOCK, at + used);
    found |= u64(size != 0) << k;
    k++;
  }
  store<u64>(mask, found);
  return at + used;
}

/**
 * G.1.2.3: a run counts only coefficients that were zero before. Each of the
 * others that it passes has a bit, behind the symbol.
 */
@inline
function refineBlock(
  scan: Scan,
  mask: usize,
  from: u32,
  first: u32,
  last: u32,
): u32 {
  const tables = scan.tables, data = scan.data, known = load<u64>(mask);
  // The coefficients that were nonzero before, from coefficient k on.
  let old = (known & between(first, last)) >> first;
  let at = from, k = first, found: u64 = 0;
  let bits = window(data, at), used: u32 = 0;
  while (k <= last) {
    if (used > 27) { // as in `skipBlock`
      at += used;
      used = 0;
      bits = window(data, at);
    }
    const here = bits << used, prefix = <usize> (here >> (64 - PREFIX));
    const entry = load<u32>(tables + START + (prefix << 2));
    const zeros = entry >> 5 & 31, isEnd = entry >> 10 & 1;
    // Several symbols can be taken at a time if they pass no such coefficient and
    // do not go beyond the last one, where the next block's symbols begin.
    const isFree = (old & ((<u64> 1 << zeros) - 1)) == 0;
    if (entry && isFree && k + zeros + isEnd <= last + 1) {
      used += entry & 31;
      found |= <u64> (entry >> 12) << k;
      old >>= zeros;
      k += zeros;
      if (!isEnd) continue;
      used += <u32> popcnt(old);
      break;
    }
    const symbol = nextSymbol(tables, here);
    const length = symbol >> 8, run = symbol >> 4 & 15, size = symbol & 15;
    if (length == 0 || size > 1) return fail(scan, NO_CODE, at + used);
    if (size == 0 && run < 15) {
      used += endOfBand(scan, here, length, run) + <u32> popcnt(old);
      break;
    }
    // Each coefficient that is passed moves the place of the new one by one.
    let passed = ones(old, run), more = ones(old, run + passed);
    while (more != passed) {
      passed = more;
      more = ones(old, run + passed);
    }
    const step = run + passed;
    used += length + size + passed;
    if (k + step > last) return fail(scan, LONG_BLOCK, at + used);
    found |= <u64> size << (k + step);
    old >>= step + 1;
    k += step + 1;
  }
  store<u64>(mask, known | found);
  return at + used;
}

/** How many of the coefficients up to `last` are nonzero. */
@inline
function ones(old: u64, last: u32): u32 {
  return <u32> popcnt(old & ((<u64> 2 << min(last, 62)) - 1));
}

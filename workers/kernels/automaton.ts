/**
 * Finds any number of needles in any text at the same speed: the automaton of Aho
 * and Corasick.
 *
 * It does 100 to 600 MB/s, or 15 to 40 where 20,000 needles are nearly there at each
 * place. The other searches do up to 20 GB/s, as they look for what is rare in a
 * needle. But where the text is made of what the needles have in
 * common (lists of numbers, or of words with the same beginning), those compare
 * needle after needle at each place, down to 1 MB/s. So a text is searched in
 * chunks, and one that makes them compare too much is searched by this one. It is
 * made when the first such chunk is met, as most texts have none.
 *
 * A state stands for the longest beginning of needles that the text ends with. Where
 * only one needle begins like that, it is compared, so that the last bytes of the
 * needles need no states.
 */

import { agreement, isWhole, Kind, matches, Needle, Table } from "./needles";

/** All states. It lies in the memory that a table has for it. */
@unmanaged
class Automaton {
  /**
   * For each byte its class, as the place in a state; bytes that are in no needle
   * share one.
   */
  classes: usize;
  /** The states lie one after another, the first one stands for no beginning. */
  states: usize;
  stateSize: u32;
  /** How many there are, are going to be, and may be. */
  count: u32;
  planned: u32;
  most: u32;
  /** How many more bytes of a needle have states than tell it from all others. */
  more: u32;
  /** Whether a needle that was seen once need not be looked at again. */
  isPlain: bool;
}

/**
 * A beginning of needles. Behind it lies for each class the next state, with `FOUND`
 * in its address if needles are to be compared there. Large lists wait for memory
 * most of the time: with both apart, they took 1.2 times as long.
 */
@unmanaged
class State {
  /**
   * Pointers to the needles that begin with it lie from `from` to `end`, those that
   * are to be compared first.
   */
  from: u32;
  to: u32;
  end: u32;
  /** How many bytes it has, and how many of them no other needle begins with. */
  depth: u32;
  own: u32;
  /** The longest other beginning that it ends with. */
  fallback: State;
  /** The next shorter one with needles to be compared; or 0. */
  next: usize;
  /** If it is about one needle: up to 4 bytes that follow, and which bits they are. */
  ahead: u32;
  aheadMask: u32;
  /** Whether there are needles to be compared that are longer, here or next. */
  isCut: bool;
}

/** Where the next states lie behind a state. */
const NEXT: u32 = (offsetof<State>() + 3) & ~3;
/** A bit that no state has in its address, as they are at multiples of 4. */
const FOUND: u32 = 1;
/** The most bytes that all states take. */
const STATES: u32 = 16 << 20;

/** How many bytes the automaton of so many needles takes at most. */
export function automatonSize(count: u32): usize {
  return offsetof<Automaton>() + (256 << 2) + STATES + (<usize> count << 2) + 16;
}

/** Finds a needle, or with `all` marks every one, as `search` does. */
export function searchStates(
  table: Table,
  from: usize,
  end: usize,
  all: bool,
): usize {
  if (!table.automaton) build(table);
  const automaton = changetype<Automaton>(table.automaton);
  const classes = automaton.classes;
  let state = <u32> automaton.states;
  for (let at = from; at < end; at++) {
    state = load<u32>(state + load<u32>(classes + (<usize> load<u8>(at) << 2)));
    if (!(state & FOUND)) continue;
    state -= FOUND;
    if (compare(table, automaton, state, at + 1, end, all)) return at;
  }
  return end;
}

/** Compares the needles of a state, and of those that it ends with. */
function compare(
  table: Table,
  automaton: Automaton,
  first: usize,
  at: usize,
  end: usize,
  all: bool,
): bool {
  const isOnce = all && automaton.isPlain;
  for (let i = first; i; i = changetype<State>(i).next) {
    const state = changetype<State>(i);
    if ((load<u32>(at) ^ state.ahead) & state.aheadMask) continue;
    const start = at - state.depth;
    for (let pointer = state.from; pointer < state.to; pointer += 4) {
      const needle = changetype<Needle>(load<u32>(pointer));
      // Whoever has seen it has seen the shorter ones, too.
      if (isOnce && !state.isCut && isSeen(table, needle)) return false;
      if (start + needle.length > end) continue;
      const isThere = needle.length > state.depth
        ? matches(table, needle, start)
        : isWhole(table, needle, start);
      if (isThere && !all) return true;
    }
  }
  return false;
}

function isSeen(table: Table, needle: Needle): bool {
  return load<u8>(table.seen.flags + needle.keyword) != 0;
}

// Making it

/** Makes the automaton of a table, in the memory that is there for it. */
function build(table: Table): void {
  const automaton = changetype<Automaton>(table.room);
  const classes = table.room + offsetof<Automaton>();
  const pointers = classes + (256 << 2);
  const end = addPointers(table, pointers);
  sort(pointers, end, 0);
  automaton.classes = classes;
  addClasses(automaton, pointers, end);
  automaton.states = (end + 15) & ~15;
  automaton.isPlain = <usize> table.keywords == (end - pointers) >> 2;
  automaton.most = STATES / automaton.stateSize;
  const distinct = countDistinct(pointers, end), few = automaton.most / 4;
  automaton.more = distinct < few
    ? (few - distinct) / <u32> ((end - pointers) >> 2)
    : 0;
  automaton.planned = 1;
  automaton.count = 0;
  const first = changetype<State>(automaton.states);
  addState(automaton, <u32> pointers, <u32> end, 0, 0, first);
  for (let i: u32 = 0; i < automaton.count; i++) addNext(automaton, i);
  table.automaton = table.room;
}

/** Lists the needles of a table, each once; returns where the list ends. */
function addPointers(table: Table, to: usize): usize {
  for (let i: usize = 0; i < table.count; i++) {
    const needle = changetype<Needle>(table.needles + i * offsetof<Needle>());
    if (table.kind == Kind.FEW && needle.isOther) continue;
    store<u32>(to, <u32> changetype<usize>(needle));
    to += 4;
  }
  return table.short ? addPointers(changetype<Table>(table.short), to) : to;
}

/** How many beginnings the needles have up to those that tell them from others. */
function countDistinct(from: usize, end: usize): u32 {
  let sum: u32 = 1, before: u32 = 0;
  for (; from < end; from += 4) {
    const needle = needleAt(<u32> from);
    let behind: u32 = 0;
    if (from + 4 < end) {
      const other = needleAt(<u32> from + 4);
      behind = agreement(needle, other.bytes, min(needle.length, other.length));
    }
    sum += min(max(before, behind) + 1, needle.length) - before;
    before = behind;
  }
  return sum;
}

/** Gives each byte its class. */
function addClasses(automaton: Automaton, from: usize, end: usize): void {
  const classes = automaton.classes, others = NEXT;
  for (let i: usize = 0; i < 256; i++) store<u32>(classes + (i << 2), others);
  let size = others + 4;
  for (; from < end; from += 4) {
    const needle = needleAt(<u32> from);
    for (let i: u32 = 0; i < needle.length; i++) {
      const slot = classes + (<usize> load<u8>(needle.bytes + i) << 2);
      if (load<u32>(slot) != others) continue;
      store<u32>(slot, size);
      size += 4;
    }
  }
  automaton.stateSize = size;
}

/**
 * Adds a state with the needles of a range, which are sorted. Returns its address,
 * with `FOUND` in it if needles are to be compared there.
 */
function addState(
  automaton: Automaton,
  from: u32,
  end: u32,
  depth: u32,
  own: u32,
  fallback: State,
): u32 {
  const state = stateAt(automaton, automaton.count++);
  let to = from;
  while (to < end && needleAt(to).length == depth) to += 4;
  state.isCut = false;
  if (to < end) {
    const more = groups(to, end, depth);
    if (own > automaton.more || automaton.planned + more > automaton.most) {
      to = end;
      state.isCut = true;
    } else automaton.planned += more;
  }
  state.from = from;
  state.to = to;
  state.end = end;
  state.depth = depth;
  state.own = own;
  state.fallback = fallback;
  state.aheadMask = 0;
  if (state.isCut && end - from == 4) {
    const needle = needleAt(from);
    state.ahead = load<u32>(needle.bytes + depth);
    state.aheadMask = <u32> -1 >> (32 - 8 * min(needle.length - depth, 4));
  }
  state.next = 0;
  const address = <u32> changetype<usize>(state);
  if (depth == 0) return address;
  const isShorterFound = fallback.from < fallback.to;
  state.next = isShorterFound ? changetype<usize>(fallback) : fallback.next;
  if (state.next) state.isCut |= changetype<State>(state.next).isCut;
  return address + (state.from < state.to || state.next ? FOUND : 0);
}

/** Fills in what states a state leads to, and adds those that are new. */
function addNext(automaton: Automaton, i: u32): void {
  const state = stateAt(automaton, i), address = changetype<usize>(state);
  const size = automaton.stateSize;
  if (i) {
    const other = changetype<usize>(state.fallback);
    memory.copy(address + NEXT, other + NEXT, size - NEXT);
  } else {
    for (let k = NEXT; k < size; k += 4) store<u32>(address + k, <u32> address);
  }
  for (let from = state.to; from < state.end;) {
    const end = groupEnd(from, state.end, state.depth);
    const byte = <usize> load<u8>(needleAt(from).bytes + state.depth);
    const slot = address + load<u32>(automaton.classes + (byte << 2));
    const own = end - from > 4 ? 0 : state.own + 1;
    // Up to now it leads to where the shorter beginning does.
    const other = changetype<State>(<usize> (load<u32>(slot) & ~FOUND));
    store<u32>(slot, addState(automaton, from, end, state.depth + 1, own, other));
    from = end;
  }
}

@inline
function stateAt(automaton: Automaton, i: u32): State {
  return changetype<State>(automaton.states + <usize> i * automaton.stateSize);
}

@inline
function needleAt(pointer: u32): Needle {
  return changetype<Needle>(load<u32>(pointer));
}

/** How many different bytes the needles of a range have at a place. */
function groups(from: u32, end: u32, depth: u32): u32 {
  let count: u32 = 0;
  for (; from < end; count++) from = groupEnd(from, end, depth);
  return count;
}

/** Where those end that have the same byte there as the first one. */
function groupEnd(from: u32, end: u32, depth: u32): u32 {
  const byte = load<u8>(needleAt(from).bytes + depth);
  if (load<u8>(needleAt(end - 4).bytes + depth) == byte) return end;
  do from += 4; while (load<u8>(needleAt(from).bytes + depth) == byte);
  return from;
}

/** A byte of a needle; a needle that has ended comes first. */
@inline
function byteAt(pointer: usize, depth: u32): i32 {
  const needle = changetype<Needle>(load<u32>(pointer));
  return depth < needle.length ? load<u8>(needle.bytes + depth) : -1;
}

@inline
function swap(a: usize, b: usize): void {
  const held = load<u32>(a);
  store<u32>(a, load<u32>(b));
  store<u32>(b, held);
}

/**
 * Sorts pointers to needles by the bytes from `depth` on: quicksort by one byte
 * after the other, which looks at a common beginning only once.
 */
function sort(from: usize, to: usize, depth: u32): void {
  while (to - from > 4) {
    const pivot = byteAt(from + ((to - from) >> 3 << 2), depth);
    let less = from, more = to;
    for (let at = from; at < more;) {
      const byte = byteAt(at, depth);
      if (byte < pivot) {
        swap(less, at);
        less += 4;
        at += 4;
      } else if (byte > pivot) {
        more -= 4;
        swap(at, more);
      } else at += 4;
    }
    sort(from, less, depth);
    sort(more, to, depth);
    if (pivot < 0) return;
    from = less;
    to = more;
    depth++;
  }
}

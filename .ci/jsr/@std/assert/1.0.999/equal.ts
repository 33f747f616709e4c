// Stands in for jsr:@std/assert/equal. Not node:util's isDeepStrictEqual,
// which tells 0 from -0 and does not look at what a prototype's getters say.

type Keyed = Map<unknown, unknown> | Set<unknown>;

/** Built-in classes whose values are equal when their text is. */
const TEXTUAL = new Set<unknown>(
  [RegExp, URL, URLSearchParams, Intl.Locale, ...temporalClasses()]
    .map((constructor) => constructor.prototype),
);

function temporalClasses(): { prototype: unknown }[] {
  return Object.getOwnPropertyNames(Temporal)
    .map((name) => Reflect.get(Temporal, name))
    .filter((member) => typeof member === "function");
}

function isPrimitive(value: unknown): boolean {
  return value === null ||
    (typeof value !== "object" && typeof value !== "function");
}

/** `===`, but NaN is itself. */
function same(a: unknown, b: unknown): boolean {
  return a === b || (a !== a && b !== b);
}

function sameElements(a: ArrayLike<unknown>, b: ArrayLike<unknown>): boolean {
  return a.length === b.length && Array.prototype.every.call(
    a,
    (element, i) => same(element, b[i]),
  );
}

function isKeyed(value: object): value is Keyed {
  return value instanceof Map || value instanceof Set;
}

function isBuffer(value: object): value is ArrayBufferLike {
  return value instanceof ArrayBuffer || value instanceof SharedArrayBuffer;
}

function isTypedArray(value: object): value is Uint8Array {
  return ArrayBuffer.isView(value) && !(value instanceof DataView);
}

/** The prototype; an object without one counts as a plain object. */
function kind(value: object): object {
  return Object.getPrototypeOf(value) ?? Object.prototype;
}

/** Own keys, for an instance of a class also those of its prototypes. */
function keysOf(value: object): Set<PropertyKey> {
  const prototype = kind(value);
  if (prototype === Object.prototype || prototype === Array.prototype) {
    return new Set(
      Reflect.ownKeys(value).filter((key) =>
        Object.prototype.propertyIsEnumerable.call(value, key)
      ),
    );
  }
  const keys = new Set<PropertyKey>();
  for (
    let at = value;
    at && at !== Object.prototype && at !== Array.prototype;
    at = Object.getPrototypeOf(at)
  ) {
    for (const key of Reflect.ownKeys(at)) keys.add(key);
  }
  return keys;
}

/** One comparison; remembers the pairs under way, since values have cycles. */
class Comparison {
  #pairs = new Map<unknown, unknown>();

  equal(a: unknown, b: unknown): boolean {
    if (same(a, b)) return true;
    if (typeof a !== "object" || typeof b !== "object") return false;
    return a !== null && b !== null && this.#objects(a, b);
  }

  #objects(a: object, b: object): boolean {
    if (a instanceof Date && b instanceof Date) {
      return same(a.getTime(), b.getTime());
    }
    if (kind(a) !== kind(b)) return false;
    if (isTypedArray(a)) return sameElements(a, b as Uint8Array);
    if (isBuffer(a)) {
      return sameElements(
        new Uint8Array(a),
        new Uint8Array(b as ArrayBufferLike),
      );
    }
    if (a instanceof WeakMap || a instanceof WeakSet) {
      throw new TypeError(`Cannot compare ${a.constructor.name} instances`);
    }
    if (a instanceof WeakRef) {
      return this.equal(a.deref(), (b as WeakRef<WeakKey>).deref());
    }
    if (this.#pairs.get(a) === b) return true;
    if (Object.keys(a).length !== Object.keys(b).length) return false;
    this.#pairs.set(a, b);
    if (isKeyed(a)) return this.#keyed(a, b as Keyed);
    if (TEXTUAL.has(kind(a))) return String(a) === String(b);
    return this.#properties(a, b);
  }

  #properties(a: object, b: object): boolean {
    for (const key of keysOf(a).union(keysOf(b))) {
      if (!this.equal(Reflect.get(a, key), Reflect.get(b, key))) return false;
      if (key in a !== key in b) return false;
    }
    return true;
  }

  #keyed(a: Keyed, b: Keyed): boolean {
    if (a.size !== b.size) return false;
    const valueOf = (of: Keyed, key: unknown) =>
      of instanceof Map ? of.get(key) : undefined;
    if ([...a.keys()].every(isPrimitive)) {
      return [...a.keys()].every((key) =>
        b.has(key) && this.equal(valueOf(a, key), valueOf(b, key))
      );
    }
    // Keys that are objects match whatever key equals them.
    return [...a.entries()].every(([aKey, aValue]) =>
      [...b.entries()].some(([bKey, bValue]) =>
        this.equal(aKey, bKey) && this.equal(aValue, bValue)
      )
    );
  }
}

/**
 * Whether two values are deeply equal: same kind of object, same keys (one
 * that is undefined differs from one that is missing), equal values. 0 and -0
 * are equal, and so are NaN and NaN.
 */
export function equal(a: unknown, b: unknown): boolean {
  return new Comparison().equal(a, b);
}

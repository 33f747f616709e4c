/**
 * The structure of a TIFF: directories of fields, read and written (TIFF 6.0,
 * section 2, and BigTIFF). A field that is kept is copied as it is, so the byte order
 * of a file stays.
 *
 * @module
 */

/** How the numbers of a file are written. */
export interface Kind {
  /** Whether the lowest byte comes first. */
  isLittle: boolean;
  /** BigTIFF: offsets have 64 bits. */
  isBig: boolean;
}

/** A field of a directory. */
export interface Field {
  /** Its number. */
  tag: number;
  /** The number of its type. */
  type: number;
  /** How many values it has. */
  count: number;
  /** Its values, as they stand in the file. */
  data: Uint8Array;
  /** Where they stand; a value that is made anew has no place. */
  at?: number;
  /** What it points to. */
  children?: Directory[];
}

/** A directory, which describes a page, or holds what a field points to. */
export interface Directory {
  /** Where it begins. */
  at: number;
  /** Where the offset of the next one stands. */
  end: number;
  /** Its fields, by their tags. */
  fields: Map<number, Field>;
}

/** The bytes of a value of each type. */
const SIZES = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8];
/** The types of whole numbers that are not negative. */
const BYTE = 1, SHORT = 3, LONG = 4, IFD = 13, LONG8 = 16, IFD8 = 18;

/** Fields that point to directories: of pages, of EXIF, of GPS, of interoperability. */
export const SUB_IFDS = 330;
const EXIF = 34665, GPS = 34853, INTEROPERABILITY = 40965;
const POINTERS = new Set([SUB_IFDS, EXIF, GPS, INTEROPERABILITY]);

/** Fields without which no pixel can be read. */
const NEEDED = new Set([
  ...[256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322],
  ...[323, 324, 325, 332, 338, 339, 347, 512, 513, 514, 519, 520, 521, 529],
  ...[530, 532],
]);

/** More are only in files that are made to take long. */
const DIRECTORIES_MAX = 1 << 17;

function inCircle(): never {
  throw new Error("broken TIFF: directories in a circle");
}

/** Reads the directories of a file. */
export class TiffReader {
  /** How the numbers of the file are written. */
  readonly kind: Kind;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #warn: (cause: string) => void;
  #count = 0;

  /** `warn` is told what is wrong with fields that are not needed. */
  constructor(bytes: Uint8Array, warn: (cause: string) => void) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#warn = warn;
    const isLittle = bytes[0] === 0x49;
    this.kind = { isLittle, isBig: this.#view.getUint16(2, isLittle) === 43 };
  }

  /** The directories of the pages, in their order. */
  pages(): Directory[] {
    const pages = new Map<number, Directory>();
    for (let at = this.#word(this.kind.isBig ? 8 : 4); at;) {
      if (pages.has(at)) inCircle();
      const page = this.#directory(at, []);
      pages.set(at, page);
      at = this.#word(page.end);
    }
    return [...pages.values()];
  }

  /** The values of a field of whole numbers; none if it is missing. */
  numbers(field: Field | undefined): number[] {
    if (!field) return [];
    const { data, type, count } = field, { isLittle } = this.kind;
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    const read = (at: number): number => {
      if (type === BYTE) return view.getUint8(at);
      if (type === SHORT) return view.getUint16(at, isLittle);
      if (type === LONG || type === IFD) return view.getUint32(at, isLittle);
      return Number(view.getBigUint64(at, isLittle));
    };
    const isNumber = [BYTE, SHORT, LONG, IFD, LONG8, IFD8].includes(type);
    return isNumber
      ? Array.from({ length: count }, (_, i) => read(i * SIZES[type]))
      : [];
  }

  /** The values of a field of fractions. */
  fractions({ data, count }: Field): number[] {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    const read = (at: number) => view.getUint32(at, this.kind.isLittle);
    return Array.from(
      { length: data.length < 8 * count ? 0 : count },
      (_, i) => read(8 * i) / read(8 * i + 4),
    );
  }

  /** An offset, which has 64 bits in a BigTIFF. */
  #word(at: number): number {
    const { isBig, isLittle } = this.kind;
    return isBig
      ? Number(this.#view.getBigUint64(at, isLittle))
      : this.#view.getUint32(at, isLittle);
  }

  /** Reads a directory; `above` are those that point to it. */
  #directory(at: number, above: number[]): Directory {
    if (above.includes(at)) inCircle();
    if (++this.#count > DIRECTORIES_MAX || above.length > 8) {
      throw new Error("broken TIFF: too many directories");
    }
    const { isBig, isLittle } = this.kind, size = isBig ? 20 : 12;
    const count = isBig ? this.#word(at) : this.#view.getUint16(at, isLittle);
    const start = at + (isBig ? 8 : 2), end = start + count * size;
    const fields = new Map<number, Field>();
    if (end > this.#bytes.length) throw new RangeError();
    for (let entry = start; entry < end; entry += size) {
      const field = this.#field(entry, [...above, at]);
      if (field && !fields.has(field.tag)) fields.set(field.tag, field);
    }
    return { at, end, fields };
  }

  /** A field; undefined if it is not needed and cannot be read. */
  #field(entry: number, above: number[]): Field | undefined {
    const { isBig, isLittle } = this.kind, view = this.#view;
    const tag = view.getUint16(entry, isLittle);
    const type = view.getUint16(entry + 2, isLittle);
    const count = this.#word(entry + 4), size = count * (SIZES[type] ?? 0);
    const inline = entry + (isBig ? 12 : 8);
    const at = size > (isBig ? 8 : 4) ? this.#word(inline) : inline;
    if (!size) {
      if (count) this.#warn(`field ${tag} of unknown type ${type} is dropped`);
      return;
    }
    if (at + size > this.#bytes.length) {
      if (NEEDED.has(tag)) throw new RangeError();
      this.#warn(`field ${tag} behind the end of the file is dropped`);
      return;
    }
    const data = this.#bytes.subarray(at, at + size);
    const field: Field = { tag, type, count, data, at };
    return POINTERS.has(tag) ? this.#withChildren(field, above) : field;
  }

  /** Directories at places, and those behind each: Photoshop names only the first. */
  #chains(places: number[], above: number[]): Directory[] {
    const chain = new Map<number, Directory>();
    for (let at of places) {
      while (at && !chain.has(at)) {
        const directory = this.#directory(at, above);
        chain.set(at, directory);
        at = this.#word(directory.end);
        if (above.includes(at)) break;
      }
    }
    return [...chain.values()];
  }

  #withChildren(field: Field, above: number[]): Field | undefined {
    try {
      const places = this.numbers(field), isOfPages = field.tag === SUB_IFDS;
      const children = isOfPages
        ? this.#chains(places, above)
        : places.map((at) => this.#directory(at, above));
      return { ...field, children };
    } catch (error) {
      const isOfPages = field.tag === SUB_IFDS;
      if (isOfPages || !(error instanceof RangeError)) throw error;
      this.#warn(`field ${field.tag} points behind the end of the file`);
    }
  }
}

/** A page to be written: its fields, and the compressed blocks of its pixels. */
export interface OutPage {
  /** All but those that say where the blocks are. */
  fields: Field[];
  /** An empty block is one that is not there. */
  blocks: Uint8Array[];
  /** Whether blocks are tiles or strips. */
  isTiled: boolean;
  /** The pages that it points to. */
  children: OutPage[];
}

/** Collects the parts of a file. */
export class TiffWriter {
  readonly #kind: Kind;
  readonly #parts: Uint8Array[] = [];
  #length = 0;
  /** The bytes in which the offset of the next page belongs. */
  #link: Uint8Array;

  /** Begins a file. */
  constructor(kind: Kind) {
    this.#kind = kind;
    const { isLittle, isBig } = kind;
    const header = new Uint8Array(isBig ? 16 : 8);
    header.set(isLittle ? [0x49, 0x49] : [0x4d, 0x4d]);
    this.#put(header, 2, SHORT, isBig ? 43 : 42);
    if (isBig) this.#put(header, 4, SHORT, 8);
    this.#append(header);
    this.#link = header.subarray(isBig ? 8 : 4);
  }

  /** Writes a page behind the others. */
  add(page: OutPage): void {
    const previous = this.#link;
    const at = this.#page(page); // sets the link to that of this page
    this.#put(previous, 0, this.#wordType, at);
  }

  /** Writes a directory without pixels behind the others, as EXIF has it. */
  addFields(fields: Field[]): void {
    const previous = this.#link, at = this.#directory(fields);
    this.#put(previous, 0, this.#wordType, at);
  }

  /** The parts of the whole file. */
  finish(): Uint8Array[] {
    return this.#parts;
  }

  /** A field of whole numbers. */
  field(tag: number, type: number, values: number[]): Field {
    const size = SIZES[type], data = new Uint8Array(size * values.length);
    for (const [i, value] of values.entries()) {
      this.#put(data, i * size, type, value);
    }
    return { tag, type, count: values.length, data };
  }

  get #wordType(): number {
    return this.#kind.isBig ? LONG8 : LONG;
  }

  #put(to: Uint8Array, at: number, type: number, value: number): void {
    const view = new DataView(to.buffer, to.byteOffset, to.length);
    const { isLittle } = this.#kind;
    if (type === BYTE) view.setUint8(at, value);
    else if (type === SHORT) view.setUint16(at, value, isLittle);
    else if (type === LONG) view.setUint32(at, value, isLittle);
    else view.setBigUint64(at, BigInt(value), isLittle);
  }

  /** Appends bytes at an even offset, and returns it. */
  #append(bytes: Uint8Array): number {
    if (this.#length & 1) {
      this.#parts.push(new Uint8Array(1));
      this.#length++;
    }
    const at = this.#length;
    this.#parts.push(bytes);
    this.#length += bytes.length;
    if (this.#length >= 2 ** 32 && !this.#kind.isBig) {
      throw new Error("too large for a TIFF: over 4 GiB");
    }
    return at;
  }

  #page({ fields, blocks, isTiled, children }: OutPage): number {
    const type = this.#wordType;
    const starts = blocks.map((b) => b.length ? this.#append(b) : 0);
    const sizes = blocks.map(({ length }) => length);
    const all = [
      ...fields,
      this.field(isTiled ? 324 : 273, type, starts),
      this.field(isTiled ? 325 : 279, type, sizes),
    ];
    if (children.length) {
      const places = children.map((child) => this.#page(child));
      all.push(this.field(SUB_IFDS, type, places));
    }
    return this.#directory(all);
  }

  #directory(fields: Field[]): number {
    const { isBig } = this.#kind, size = isBig ? 20 : 12;
    const start = isBig ? 8 : 2, inline = isBig ? 8 : 4;
    const sorted = fields.map((field) => this.#placed(field))
      .sort((a, b) => a.tag - b.tag);
    const bytes = new Uint8Array(start + size * sorted.length + inline);
    this.#put(bytes, 0, isBig ? LONG8 : SHORT, sorted.length);
    for (const [i, { tag, type, count, data }] of sorted.entries()) {
      const at = start + i * size;
      this.#put(bytes, at, SHORT, tag);
      this.#put(bytes, at + 2, SHORT, type);
      this.#put(bytes, at + 4, this.#wordType, count);
      const value = at + size - inline;
      if (data.length <= inline) bytes.set(data, value);
      else this.#put(bytes, value, this.#wordType, this.#append(data));
    }
    this.#link = bytes.subarray(-inline);
    return this.#append(bytes);
  }

  /** A field whose offsets are true in the new file. */
  #placed(field: Field): Field {
    const { tag, children } = field;
    if (!children) return field;
    const places = children.map(({ fields }) =>
      this.#directory([...fields.values()])
    );
    return this.field(tag, this.#wordType, places);
  }
}

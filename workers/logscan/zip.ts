/**
 * Reads the members of a zip archive from its start to its end, as they are stored.
 * Packages (yauzl, zip.js) begin with the directory at its end, which a pipe gives
 * too late, and which an archive has not that was cut off.
 *
 * @module
 */

import { bunzip2 } from "./bzip2.ts";
import { type Blocks, breathe, endError, Input } from "./input.ts";
import { unxz } from "./xz.ts";
import { inflate, unzstd } from "./zlib.ts";

/** A member of an archive. */
export interface Member {
  /** Its name, with the folders in the archive that it is in. */
  name: string;
  /** What is in it; it throws if that cannot be read. */
  blocks: Blocks;
}

/** How what is in an archive begins: "PK" and two more bytes. */
const LOCAL = 0x04034b50, DESCRIPTOR = 0x08074b50, PARTS = 0x30304b50;
const CENTRAL = 0x02014b50, END = 0x06054b50, SIGNATURE = 0x05054b50;
const CENTRAL_EXTRA = 0x08064b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50;

/** How members can be compressed, and with what they are read. */
const METHODS: Record<number, (input: Input) => Blocks> = {
  0: (input) => input.blocks(),
  8: inflate,
  12: bunzip2,
  20: unzstd,
  93: unzstd,
  95: unxz,
};

/** What else there is, for messages. */
const UNSUPPORTED: Record<number, string> = {
  ...{ 1: "Shrink", 6: "Implode", 9: "Deflate64", 14: "LZMA", 16: "CMPSC" },
  ...{ 94: "MP3", 96: "JPEG", 97: "WavPack", 98: "PPMd" },
};

/** The longest that follows a member, in bytes, and the signature behind it. */
const DESCRIPTOR_MAX = 24 + 4;
/** The shortest that has a signature, in bytes. */
const DESCRIPTOR_MIN = 16;

/** What stands before a member. */
interface Header {
  name: string;
  method: number;
  isEncrypted: boolean;
  /** Whether sizes and checksum follow the member. */
  isFollowed: boolean;
  crc: number;
  /** How many bytes it has in the archive; undefined if that follows it. */
  size?: number;
}

/**
 * Reads the members of an archive, one after the other.
 *
 * A member's blocks have to be read before the next member is asked for; what has
 * not been read of them by then is passed over.
 *
 * @param input Where the archive begins; then what follows it
 * @returns The members, without folders
 * @throws {Error} If the archive is damaged or truncated between its members
 *
 * @example
 * ```ts
 * import { fromBlocks, Input } from "./input.ts";
 * import { membersOf } from "./zip.ts";
 *
 * async function* blocks() { // an empty archive
 *   yield Uint8Array.fromBase64("UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA==");
 * }
 * const members = membersOf(new Input(fromBlocks(blocks())));
 * for await (const { name } of members) console.log(name);
 * ```
 */
export async function* membersOf(
  input: Input,
): AsyncGenerator<Member, void, void> {
  let signature = await takeWord(input);
  // An archive of several parts, or one that might have become such.
  if (signature === DESCRIPTOR || signature === PARTS) {
    signature = await takeWord(input);
  }
  for (; signature === LOCAL; signature = await takeWord(input)) {
    const header = await takeHeader(input);
    const content = new Content(input, header);
    if (!header.name.endsWith("/")) {
      yield { name: header.name, blocks: content.blocks() };
    }
    if (!await content.end()) return;
  }
  await passDirectory(input, signature);
}

async function takeWord(input: Input): Promise<number> {
  return viewOf(await input.take(4)).getUint32(0, true);
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

async function takeHeader(input: Input): Promise<Header> {
  const view = viewOf(await input.take(26));
  const word = (at: number) => view.getUint32(at, true);
  const half = (at: number) => view.getUint16(at, true);
  const flags = half(2);
  let method = half(4);
  const [crc, packed, unpacked] = [word(10), word(14), word(18)];
  const [nameLength, extraLength] = [half(22), half(24)];
  const name = nameOf(await input.take(nameLength));
  const extra = await input.take(extraLength);
  const isFollowed = (flags & 8) > 0;
  let size: number | undefined = packed;
  for (const [id, field] of fieldsOf(extra)) {
    if (id === 1 && packed === 0xffffffff) { // zip64
      const at = unpacked === 0xffffffff ? 8 : 0;
      if (field.byteLength < at + 8) throw new Error("a header is damaged");
      size = Number(field.getBigUint64(at, true));
    } else if (id === 0x9901) method = -1; // AES
  }
  if (isFollowed && size === 0) size = undefined;
  const isEncrypted = (flags & 1) > 0 || method === -1;
  return { name, method, isEncrypted, isFollowed, crc, size };
}

/** Names are in UTF-8 today, and were in the character set of some system. */
function nameOf(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

/** The additional fields of a header. */
function* fieldsOf(
  extra: Uint8Array,
): Generator<[id: number, field: DataView], void, void> {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length;) {
    const start = at + 4, end = start + view.getUint16(at + 2, true);
    const field = viewOf(extra.slice(start, end));
    yield [view.getUint16(at, true), field];
    at = end;
  }
}

/** What is in a member. */
class Content {
  readonly #input: Input;
  readonly #header: Header;
  /** How many bytes of the member are left in the archive, if that is known. */
  #left: number;
  /** Whether the member was read to its end. */
  #isRead = false;
  #hasFailed = false;
  readonly #blocks: Blocks;

  constructor(input: Input, header: Header) {
    this.#input = input;
    this.#header = header;
    this.#left = header.size ?? Infinity;
    this.#blocks = this.#checked();
  }

  /** What is in the member, for one who may stop before its end. */
  async *blocks(): Blocks {
    for (let next; !(next = await this.#blocks.next()).done;) yield next.value;
  }

  /**
   * Goes to the end of the member. Whoever read its blocks knows already if it has
   * none, as the archive was cut off.
   *
   * @returns Whether it has an end
   */
  async end(): Promise<boolean> {
    const { size, isFollowed } = this.#header;
    while (size === undefined && !this.#isRead && !this.#hasFailed) {
      await this.#blocks.next();
      await breathe();
    }
    try {
      await this.#blocks.return();
      if (size !== undefined) await this.#input.pass(this.#left);
      if (size !== undefined && isFollowed) await this.#takeDescriptor();
    } catch (error) {
      if (this.#hasFailed) return false;
      throw error;
    }
    if (size !== undefined || this.#isRead) return true;
    if (!await this.#input.hasMore()) return false;
    throw new Error("the members behind a damaged one cannot be found");
  }

  /** Decompresses and compares the checksum. */
  async *#checked(): Blocks {
    const { crc32 } = await import("node:zlib");
    const { size, isFollowed } = this.#header;
    let crc = 0;
    try {
      for await (const block of this.#decompressed()) {
        crc = crc32(block, crc);
        yield block;
      }
      const wanted = size === undefined
        ? await this.#takeDescriptor()
        : this.#header.crc;
      this.#isRead = true;
      // Where the checksum follows, that before the member may be 0.
      const isKnown = size === undefined || !isFollowed || wanted !== 0;
      if (isKnown && crc !== wanted) throw new Error("its checksum is wrong");
    } catch (error) {
      this.#hasFailed = true;
      throw error;
    }
  }

  #decompressed(): Blocks {
    const { method, isEncrypted, size } = this.#header;
    if (isEncrypted) return this.#refused("it is encrypted");
    const decompress = METHODS[method];
    if (!decompress) {
      const name = UNSUPPORTED[method] ?? `method ${method}`;
      return this.#refused(`${name} is not supported: unpack it first`);
    }
    if (size !== undefined) {
      const source = { read: (into: Uint8Array) => this.#read(into) };
      return decompress(new Input(source, Math.min(size, 1 << 18) + 1));
    }
    if (method === 0) return this.#upToDescriptor();
    // It would read on behind the member.
    if (decompress === unxz) return this.#refused("its size is not known");
    return decompress(this.#input);
  }

  // deno-lint-ignore require-yield
  async *#refused(cause: string): Blocks {
    if (this.#header.size === undefined) {
      // It is passed over up to its end, which only a descriptor tells.
      for await (const _ of this.#upToDescriptor()) await breathe();
      this.#isRead = true;
      await this.#takeDescriptor();
    }
    throw new Error(cause);
  }

  /** Reads what is left of the member. */
  async #read(into: Uint8Array): Promise<number | null> {
    if (this.#left === 0) return null;
    if (!await this.#input.hasMore()) throw endError();
    const part = this.#input.held.subarray(
      0,
      Math.min(into.length, this.#left),
    );
    into.set(part);
    this.#input.skip(part.length);
    this.#left -= part.length;
    return part.length;
  }

  /** All up to a descriptor that fits what comes before it. */
  async *#upToDescriptor(): Blocks {
    const { crc32 } = await import("node:zlib");
    const isPlain = !this.#header.isEncrypted && this.#header.method === 0;
    let crc = 0, size = 0;
    for (;;) {
      await this.#input.peek(DESCRIPTOR_MAX);
      const { held } = this.#input;
      if (held.length < DESCRIPTOR_MIN) {
        this.#input.skip(held.length);
        if (held.length > 0) yield held;
        throw endError();
      }
      const at = indexOfDescriptor(held);
      if (at === 0) {
        const view = viewOf(held);
        const isLong = held.length >= 24 &&
          view.getBigUint64(8, true) === BigInt(size);
        const fits = view.getUint32(8, true) === size || isLong;
        if (fits && (!isPlain || view.getUint32(4, true) === crc)) return;
      }
      // A signature may begin in the last three bytes.
      const end = at > 0 ? at : at === 0 ? 1 : held.length - 3;
      const block = held.subarray(0, end);
      if (isPlain) crc = crc32(block, crc);
      size += end;
      this.#input.skip(end);
      yield block;
    }
  }

  /** Takes what follows a member; returns its checksum. */
  async #takeDescriptor(): Promise<number> {
    const bytes = await this.#input.peek(DESCRIPTOR_MAX);
    const view = viewOf(bytes);
    const isMarked = bytes.length >= 4 &&
      view.getUint32(0, true) === DESCRIPTOR;
    const start = isMarked ? 4 : 0;
    // Sizes are of 4 or 8 bytes. What follows them begins with "PK".
    const isEnd = (at: number) => bytes[at] === 0x50 && bytes[at + 1] === 0x4b;
    const length = start + (isEnd(start + 12) || !isEnd(start + 20) ? 12 : 20);
    if (bytes.length < length) {
      this.#input.skip(bytes.length); // nothing is left then
      throw endError();
    }
    const crc = view.getUint32(start, true);
    this.#input.skip(length);
    return crc;
  }
}

function indexOfDescriptor(bytes: Uint8Array): number {
  for (let at = 0; (at = bytes.indexOf(0x50, at)) >= 0; at++) {
    if (
      bytes[at + 1] === 0x4b && bytes[at + 2] === 7 && bytes[at + 3] === 8
    ) return at;
  }
  return -1;
}

/** Passes over the directory, and the comment behind it. */
async function passDirectory(input: Input, signature: number): Promise<void> {
  for (;; signature = await takeWord(input)) {
    const half = async (at: number) =>
      viewOf((await input.peek(at + 2)).slice(at)).getUint16(0, true);
    const needed = async (count: number) => {
      if ((await input.peek(count)).length < count) throw endError();
    };
    switch (signature) {
      case CENTRAL:
        await needed(42);
        await input.pass(42 + await half(24) + await half(26) + await half(28));
        break;
      case SIGNATURE:
        await needed(2);
        await input.pass(2 + await half(0));
        break;
      case CENTRAL_EXTRA:
        await input.pass(await takeWord(input));
        break;
      case END64: {
        const size = viewOf(await input.take(8)).getBigUint64(0, true);
        await input.pass(Number(size));
        break;
      }
      case LOCATOR64:
        await input.pass(16);
        break;
      case END:
        await needed(18);
        return await input.pass(18 + await half(16));
      default:
        throw new Error("it is damaged between its members");
    }
  }
}

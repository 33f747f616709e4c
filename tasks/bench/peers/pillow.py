"""Pillow converts images in a `multiprocessing.Pool`; and it makes the images,
and compares what came out.
"""

import glob
import os
import random
import shutil
import struct
import sys
import zlib
from multiprocessing import Pool
from time import perf_counter

from protocol import answer, missing

FOLDER, WORKERS = sys.argv[1:3]
sys.path.insert(0, f"{FOLDER}/python")  # where pip has put it
try:
    import PIL
    from PIL import Image, ImageChops, ImageSequence, ImageStat
except ImportError:
    missing(f"{sys.executable} has no Pillow, nor has {FOLDER}/python")

# 17 photographs, each named after who took it.
PHOTOGRAPHS = "/usr/share/backgrounds/*_by_*.jpg"
LEAST = 2000  # pixels of a side
FRAMES = 13  # of an animation


def photographs():
    def is_large(path):
        with Image.open(path) as image:
            return min(image.size) >= LEAST

    return [path for path in sorted(glob.glob(PHOTOGRAPHS)) if is_large(path)]


def part_of(path, rng, size):
    """Another square of a photograph for each image, at its own resolution."""
    image = Image.open(path).convert("RGB")
    side = min(size, *image.size)
    x, y = (rng.randrange(n - side + 1) for n in image.size)
    box = (x, y, x + side, y + side)
    return image.resize((size, size), Image.BICUBIC, box)


def drawing(rng, size):
    """Clouds of all sizes, down to the grain of a film."""
    image = Image.new("RGB", (size, size))
    for cells, share in ((6, 1), (24, 0.3), (size // 24, 0.12), (size // 3, 0.03)):
        noise = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells**2))
        cloud = noise.resize((size, size), Image.BICUBIC)
        image = Image.blend(image, cloud, share)
    return image


def make_one(path, i, size, options):
    rng, photos = random.Random(i), photographs()
    image = part_of(photos[i % len(photos)], rng, size) if photos else drawing(rng, size)
    if path.endswith(".gif"):
        moved = [ImageChops.offset(image, 9 * k, 5 * k) for k in range(1, FRAMES)]
        options = {"save_all": True, "append_images": moved, "duration": 40, "loop": 0}
    image.save(path, **options)


def convert_one(path, out):
    options = {"quality": 85} if path.endswith(".jpg") else {}
    image = Image.open(path)
    first, *more = (frame.convert("L") for frame in ImageSequence.Iterator(image))
    if more:
        times = {"duration": image.info["duration"], "loop": 0}
        options = {"save_all": True, "append_images": more, **times}
    first.save(out, **options)


def difference(path, out):
    luma, gray = Image.open(path), Image.open(out)
    luma.draft("L", luma.size)  # of a JPEG its own luma, not that of its RGB
    frames = [getattr(image, "n_frames", 1) for image in (luma, gray)]
    if luma.size != gray.size or frames[0] != frames[1]:
        raise ValueError(f"{out} has another size than {path}")
    found = []
    for frame in range(frames[0]):
        if frame:
            luma.seek(frame)
            gray.seek(frame)
        change = ImageChops.difference(luma.convert("L"), gray.convert("L"))
        found.append((change.getextrema()[1], ImageStat.Stat(change).mean[0]))
    return [max(values) for values in zip(*found)]


def huge(path, side, depth, channels):
    """A PNG of one colour: some kB that are more than a GB when decoded."""

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    deflate = zlib.compressobj()
    row = bytes([0]) + b"\x80\x40\x20\xf0" * (side * depth * channels // 32)
    rows = b"".join(deflate.compress(row) for _ in range(side)) + deflate.flush()
    colour = {3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head))
        file.write(chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return {}


def main(pool):
    def make(folder, ending, count, size):
        """More than 100 are copies of the first 100."""
        os.makedirs(folder)
        options = {"progressive": "progressive" in folder} if ending == "jpg" else {}
        paths = [f"{folder}/{i}.{ending}" for i in range(count)]
        orders = [(path, i, size, options) for i, path in enumerate(paths[:100])]
        pool.starmap(make_one, orders, 1)
        for i, path in enumerate(paths[100:]):
            shutil.copyfile(paths[i % 100], path)
        return {}

    def convert(folder, out):
        begun = perf_counter()
        names = os.listdir(folder)
        pool.starmap(convert_one, [(f"{folder}/{n}", f"{out}/{n}") for n in names])
        return {"ms": 1000 * (perf_counter() - begun)}

    def compare(folder, out):
        """The largest difference of a pixel, and the largest mean of an image."""
        names = sorted(os.listdir(folder))
        if names != sorted(os.listdir(out)):
            raise ValueError(f"{out} has other files than {folder}")
        pairs = [(f"{folder}/{n}", f"{out}/{n}") for n in names]
        found = pool.starmap(difference, pairs)
        return {"value": [max(values) for values in zip(*found)]}

    source = "Debian's" if "/dist-packages/" in PIL.__file__ else "by pip"
    jobs = [make, convert, compare, huge]
    named = {job.__name__: job for job in jobs}
    named["photographs"] = lambda: {"value": len(photographs())}
    answer(f"{PIL.__version__}, {source},", named)


if __name__ == "__main__":
    with Pool(int(WORKERS)) as pool:
        main(pool)

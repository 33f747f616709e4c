"""Pillow, as `deno task bench` needs it: it makes photographs, turns them gray
in a `multiprocessing.Pool`, and compares; and it runs others and says what that
took, which Deno cannot. It answers each line of JSON on stdin with another one.
"""

import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from multiprocessing import Pool

import PIL
from PIL import Image, ImageChops, ImageDraw, ImageStat


def clouds(rng, size, cells):
    small = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells**2))
    return small.resize((size, size), Image.BICUBIC)


def photograph(seed, size):
    """Large areas, edges, and texture down to the grain of a film."""
    rng = random.Random(seed)
    image = clouds(rng, size, 6)
    draw = ImageDraw.Draw(image)
    for _ in range(40):
        x, y, r = (rng.randrange(n) for n in (size, size, size // 6))
        corners = [
            (x + rng.randint(-r, r), y + rng.randint(-r, r)) for _ in range(5)
        ]
        draw.polygon(corners, fill=tuple(rng.randbytes(3)))
    for cells, share in ((24, 0.3), (size // 24, 0.12), (size // 3, 0.03)):
        image = Image.blend(image, clouds(rng, size, cells), share)
    return image


def make_one(path, seed, size, options):
    photograph(seed, size).save(path, **options)


def make(pool, folder, name, count, size, options):
    """More than 100 are copies of the first 100."""
    os.makedirs(folder)
    paths = [f"{folder}/{i}.{name}" for i in range(count)]
    orders = [(path, i, size, options) for i, path in enumerate(paths[:100])]
    pool.starmap(make_one, orders, 1)
    for i, path in enumerate(paths[100:]):
        shutil.copyfile(paths[i % 100], path)


def convert_one(path, out):
    gray = Image.open(path).convert("L")
    if path.endswith(".png"):
        gray.save(out)
    else:
        gray.save(out, quality=85)


def convert(pool, folder, out):
    os.makedirs(out, exist_ok=True)
    pool.starmap(
        convert_one, [(f"{folder}/{n}", f"{out}/{n}") for n in os.listdir(folder)]
    )


def jpegtran(_, folder, out):
    """User CPU of an image, in ms."""
    os.makedirs(out, exist_ok=True)
    names = os.listdir(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    for n in names:
        command = ["jpegtran", "-grayscale", "-outfile", f"{out}/{n}"]
        subprocess.run([*command, f"{folder}/{n}"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return 1000 * (after - before) / len(names)


def difference(path, other):
    a, b = (Image.open(p).convert("L") for p in (path, other))
    if a.size != b.size:
        raise ValueError(f"{path} has another size than {other}")
    change = ImageChops.difference(a, b)
    return change.getextrema()[1], ImageStat.Stat(change).mean[0]


def compare(pool, folder, other):
    """The largest difference of a pixel, and the mean of all."""
    names = sorted(os.listdir(folder))
    if names != sorted(os.listdir(other)):
        raise ValueError(f"{folder} has other files than {other}")
    pairs = [(f"{folder}/{n}", f"{other}/{n}") for n in names]
    found = pool.starmap(difference, pairs)
    return max(m for m, _ in found), sum(m for _, m in found) / len(found)


def run(_, *command):
    """How long a command takes, in ms, and its largest process, in bytes."""
    # In a process of its own: the peak is that of all children until now.
    child = [sys.executable, __file__, "alone", *command]
    result = subprocess.run(child, check=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)


def run_alone(command):
    began = time.time()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    ms = 1000 * (time.time() - began)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps([ms, 1024 * peak]))


def version(_):
    return f"Python {sys.version.split()[0]}, Pillow {PIL.__version__}"


def main():
    if sys.argv[1] == "alone":
        return run_alone(sys.argv[2:])
    if sys.argv[1] == "once":
        with Pool(int(sys.argv[2])) as pool:
            return convert(pool, *sys.argv[3:])
    tasks = [make, convert, jpegtran, compare, run, version]
    with Pool(int(sys.argv[2])) as pool:
        for line in sys.stdin:
            name, *args = json.loads(line)
            began = time.time()
            try:
                task = next(t for t in tasks if t.__name__ == name)
                answer = {"value": task(pool, *args)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answer["ms"] = 1000 * (time.time() - began)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

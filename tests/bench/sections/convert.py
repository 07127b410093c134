"""varve-img convert beside qemu-img convert."""
import os
import random
import subprocess
import time

from . import report

SIZE = 4 << 30


STEP = 4 << 20


def text_block():
    """4 MiB of words, of which some are frequent."""
    rng = random.Random(1)
    words = ["%x" % rng.getrandbits(rng.randrange(4, 40)) for _ in range(5000)]
    frequent = words[:50] * 50
    line = " ".join(rng.choices(words + frequent, k=STEP // 4))
    return (line.encode() * 2)[:STEP]


def half_filled(path, size, block=None):
    """A raw file in which every other 4 MiB hold data, by default such as do
    not compress."""
    step = STEP
    block = block or os.urandom(step)
    with open(path, "wb") as f:
        for offset in range(0, size, 2 * step):
            f.seek(offset)
            f.write(block[offset // step % 251:] +
                    block[:offset // step % 251])
        f.truncate(size)


def timed(argv, target):
    def measure():
        if os.path.exists(target):
            os.unlink(target)
        os.sync()
        start = time.monotonic()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - start
    return measure


def sparse(path):
    """A raw file of 1 TiB with 1 MiB of data every 16 GiB."""
    data = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for offset in range(0, 1 << 40, 16 << 30):
            f.seek(offset)
            f.write(data)
        f.truncate(1 << 40)


def compared(context, raw, qcow2, target, suffix):
    rows = []
    for row, args in (
            ("raw to qcow2", ["-f", "raw", "-O", "qcow2", raw]),
            ("qcow2 to raw", ["-f", "qcow2", "-O", "raw", qcow2]),
            ("qcow2 to qcow2", ["-f", "qcow2", "-O", "qcow2", qcow2])):
        args = ["convert", *args, target]
        rows.append(report.paired(
            context, "convert", row + suffix,
            timed([context.program("varve-img"), *args], target),
            timed(["qemu-img", *args], target),
            3 if context.quick else 5, " s", bigger=False))
    return rows


def run(context):
    size = SIZE // 8 if context.quick else SIZE
    raw, qcow2 = context.path("src.raw"), context.path("src.qcow2")
    target = context.path("target")
    rows = []
    for make, suffix in ((lambda: half_filled(raw, size), ""),
                         (lambda: sparse(raw), ", 1 TiB sparse")):
        make()
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2],
                       check=True)
        rows += compared(context, raw, qcow2, target, suffix)
        for path in (raw, qcow2, target):
            os.unlink(path)
    context.table("convert",
                  f"convert, half-filled {size >> 20} MiB and 1 TiB sparse",
                  report.PAIRED_HEADER, rows)

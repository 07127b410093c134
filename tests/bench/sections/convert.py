"""varve-img convert beside qemu-img convert."""
import os
import subprocess
import time

from . import report

SIZE = 4 << 30


def half_filled(path, size):
    """A raw file in which every other 4 MiB hold data that do not compress."""
    step = 4 << 20
    block = os.urandom(step)
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


def run(context):
    size = SIZE // 8 if context.quick else SIZE
    raw, qcow2 = context.path("src.raw"), context.path("src.qcow2")
    target = context.path("target")
    half_filled(raw, size)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, qcow2],
                   check=True)
    rows = []
    for row, args in (
            ("raw to qcow2", ["-f", "raw", "-O", "qcow2", raw]),
            ("qcow2 to raw", ["-f", "qcow2", "-O", "raw", qcow2]),
            ("qcow2 to qcow2", ["-f", "qcow2", "-O", "qcow2", qcow2])):
        args = ["convert", *args, target]
        rows.append(report.paired(
            context, "convert", row,
            timed([context.program("varve-img"), *args], target),
            timed(["qemu-img", *args], target),
            3 if context.quick else 5, " s", bigger=False))
    report.table(f"convert, half-filled {size >> 20} MiB", report.PAIRED_HEADER,
                 rows)
    for path in (raw, qcow2, target):
        os.unlink(path)

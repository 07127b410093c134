"""The other commands of varve-img beside qemu-img: on a half-filled image, and
on sparse ones of 1 TiB, where metadata are all there is."""
import os
import shutil
import subprocess

from . import report
from .convert import SIZE, half_filled, text_block, timed

HUGE = 1 << 40


def qemu_img(*args):
    subprocess.run(["qemu-img", *map(str, args)], check=True,
                   stdout=subprocess.DEVNULL)


def prepared(prepare, argv):
    """timed(), with the images made anew before each run."""
    def measure():
        prepare()
        return timed(argv, "/nonexistent")()
    return measure


class Table:
    def __init__(self, context, key, title):
        self.context, self.key, self.title = context, key, title
        self.rows = []
        self.runs = 3

    def add(self, row, args, prepare=lambda: None):
        self.rows.append(report.paired(
            self.context, "images", row,
            prepared(prepare, [self.context.program("varve-img"), *args]),
            prepared(prepare, ["qemu-img", *args]), self.runs, " s",
            bigger=False))

    def show(self):
        self.context.table(self.key, self.title, report.PAIRED_HEADER,
                           self.rows)


def compress(context, table, raw, target, suffix, sizes):
    for kind in ("zlib", "zstd"):
        args = ["convert", "-c", "-O", "qcow2", "-o",
                f"compression_type={kind}", "-f", "raw", raw, target]
        table.add(f"convert -c {kind}{suffix}", args)
        made = []
        for program in (context.program("varve-img"), "qemu-img"):
            subprocess.run([program, *args], check=True)
            made.append(f"{os.path.getsize(target) / (1 << 20):.1f}")
        sizes.append([kind + suffix, *made])


def half_full(context, size):
    path = context.path
    raw, base, top, copy = (path(n) for n in ("raw", "base", "top", "copy"))
    half_filled(raw, size)
    qemu_img("convert", "-O", "qcow2", raw, base)

    def overlay():
        qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
        subprocess.run(["qemu-io", "-c", f"write -P 3 0 {size // 16}", top],
                       check=True, stdout=subprocess.DEVNULL)

    def copies():
        shutil.copyfile(base, copy)
        qemu_img("create", "-q", "-f", "qcow2", "-b", copy, "-F", "qcow2", top)
        subprocess.run(["qemu-io", "-c", f"write -P 3 0 {size // 16}", top],
                       check=True, stdout=subprocess.DEVNULL)

    table = Table(context, "images", f"half-filled {size >> 20} MiB")
    table.add("check", ["check", "-q", base])
    table.add("compare", ["compare", "-q", "-f", "raw", "-F", "qcow2", raw,
                          base])
    table.add("map", ["map", base])
    table.add("measure", ["measure", "-O", "qcow2", base])
    table.add("rebase", ["rebase", "-b", "", top], overlay)
    table.add("commit", ["commit", "-q", top], copies)
    sizes = []
    compress(context, table, raw, top, "", sizes)
    half_filled(raw, size // 8, text_block())
    compress(context, table, raw, top, ", text", sizes)
    table.show()
    context.table("compressed sizes", "What convert -c makes of the data (text: "
                  f"half-filled {size >> 23} MiB), MiB",
                  ["", "varve", "QEMU"], sizes)
    for name in (raw, base, top, copy):
        os.unlink(name)


def huge(context, options, what):
    a, b = context.path("huge"), context.path("huge2")
    create = ["create", "-q", "-f", "qcow2", "-o", options, a, str(HUGE)]
    table = Table(context, f"1 TiB, {what}", f"1 TiB, {what}")
    table.add(f"create, {what}", create)
    qemu_img(*create)
    subprocess.run(["cp", "--sparse=always", a, b], check=True)
    for row, args in (("check", ["check", "-q", a]), ("map", ["map", a]),
                      ("compare", ["compare", "-q", a, b]),
                      ("measure", ["measure", "-O", "qcow2", a])):
        table.add(f"{row}, {what}", args)
    table.show()
    for name in (a, b):
        os.unlink(name)


def writes(context):
    image = context.path("w")

    def fresh():
        qemu_img("create", "-q", "-f", "qcow2", image, "4G")

    table = Table(context, "allocating writes",
                  "allocating writes of 4 KiB, a cluster apart")
    for depth in (1, 32):
        table.add(f"depth {depth}", [
            "bench", "-w", "-c", "20000", "-d", str(depth), "-s", "4k", "-S",
            "192k", "-f", "qcow2", image], fresh)
    table.show()
    os.unlink(image)


def run(context):
    half_full(context, SIZE // 8 if context.quick else SIZE)
    huge(context, "preallocation=metadata", "metadata preallocated")
    huge(context, "cluster_size=8k", "8 KiB clusters, empty")
    writes(context)

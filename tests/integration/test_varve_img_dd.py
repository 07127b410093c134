"""varve-img dd and bench beside qemu-img."""
import itertools
import random
import re

import pytest

from lib.twin import run


@pytest.fixture
def source(twin):
    data = random.Random(5).randbytes(1000000)
    for directory in twin.dirs.values():
        (directory / "r").write_bytes(data)
    twin.prepare("convert", "-f", "raw", "-O", "qcow2", "r", "q")
    twin.io("q", "write -z 128k 256k")
    return twin


def test_ranges(source):
    for image, fmt in (("r", "raw"), ("q", "qcow2")):
        for to, block, count, skip in itertools.product(
                ("raw", "qcow2"), ("bs=1000", "bs=64k"),
                ("", "count=3", "count=7E"), ("", "skip=2", "skip=20000")):
            args = [a for a in (block, count, skip) if a]
            source.same("dd", "-f", fmt, "-O", to, *args, f"if={image}",
                        "of=out")
            ours, theirs = (d / "out" for d in source.dirs.values())
            if to == "raw":
                assert ours.read_bytes() == theirs.read_bytes(), args
            elif block == "bs=64k":
                source.same("info", "--output=json", "-f", to, "out")
                source.same_image("out")


def test_wrong_operands(source):
    for args in ("", "if=r", "of=o", "x=1 if=r of=o", "x if=r of=o",
                 "if=r of=o bs=0", "if=r of=o bs=x", "if=r of=o bs=3G",
                 "if=r of=o count=x", "if=r of=o count=9E", "if=r of=o skip=x",
                 "if=r of=o skip=-1", "if=missing of=o", "-f qcow2 if=r of=o",
                 "-O nonsense if=r of=o", "if=r of=missing/o", "-n if=r of=o",
                 "if=r of=o conv=notrunc", "-f nonsense if=r of=o"):
        source.same("dd", *args.split())


def test_the_last_operand_counts(source):
    source.same("dd", "-f", "raw", "if=x", "if=r", "bs=1M", "bs=1k", "count=5",
                "of=out")
    assert (source.ours / "out").read_bytes() == \
        (source.ours / "r").read_bytes()[:5120]
    source.same("dd", "-U", "--image-opts",
                "if=driver=qcow2,file.filename=q", "of=out", "bs=100000",
                "count=2")
    assert (source.ours / "out").read_bytes() == \
        (source.theirs / "out").read_bytes()


# ---- bench ----


def without_time(said):
    said[1] = re.sub(r"[0-9.]+ seconds", "TIME", said[1])
    return said


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_bench(twin, fmt):
    twin.create("a", "2M", fmt=fmt)
    for args in ("-c 100", "-c 100 -w", "-c 100 -w --pattern=5 -d 1",
                 "-c 50 -s 64k -S 128k -o 1M", "-c 0", "-s 0 -c 10",
                 "-c 100 -w --flush-interval=64", "-c 99 -d 5 -w "
                 "--flush-interval=7 --no-drain", "-q -c 5", "-U -c 5",
                 "-c 20 -s 1000", "-c 5 -t none", "-c 5 -n -t none",
                 "-c 5 -i io_uring", "-c 5 -i threads -t writethrough -w",
                 "-c 5 -S 3M", "-c 5 -s 2M", "-c 10 --pattern=3",
                 "-o 3M -c 3", "-s 3M -c 3", "-s 2M -S 1 -c 3"):
        ours, theirs = twin.answers("bench", "-f", fmt, *args.split(), "a")
        assert without_time(ours) == without_time(theirs), args
    twin.same_image("a", fmt)


def test_bench_refuses(twin):
    twin.create("a", "1M")
    for args in ("-c x a", "-c -5 a", "-c 1k a", "-c 10000000000 a", "-d x a",
                 "-d -1 a", "-s 3G a", "-s x a", "-S x a", "-o x a", "-i x a",
                 "-t x a", "--pattern=300 -w a", "--pattern=x -w a",
                 "-w --flush-interval=x a", "--flush-interval=100 a",
                 "-w --flush-interval=10 a", "", "a b", "-c 1 missing",
                 "-c 5 -i native a"):
        twin.same("bench", *args.split())
    # There qemu-img waits for ever.
    r = run("varve-img", twin.ours, "bench", "-d", "0", "a", check=1)
    assert r.stderr == "varve-img: Invalid queue depth specified\n"


def test_bench_writes_what_it_says(twin):
    twin.create("a", "1M")
    twin.same("create", "-q", "b", "1M")
    for name, directory in twin.dirs.items():
        run(name, directory, "bench", "-w", "-c", "4", "-s", "64k", "-S",
            "128k", "-o", "64k", "--pattern=0x5a", "a", check=0)
    twin.io("a", "read -P 0 0 64k", "read -P 0x5a 64k 64k", "read -P 0 128k 64k",
            "read -P 0x5a 448k 64k", "read -P 0 512k 512k")

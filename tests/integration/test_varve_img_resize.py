"""varve-img resize beside qemu-img."""
import itertools

import pytest

from lib.twin import run

STEPS = ["+1M", "5M", "+512", "-q +3M", "--preallocation=off +64k",
         "--shrink 7M", "--shrink -1M", "+0", "--shrink -64k", "+20M",
         "--shrink 4M", "10M"]


@pytest.mark.parametrize("fmt, options", [
    ("raw", ""), ("qcow2", "cluster_size=64k"), ("qcow2", "cluster_size=4k"),
    ("qcow2", "compat=0.10"), ("qcow2", "cluster_size=2M,refcount_bits=1")])
def test_sizes_in_a_row(twin, fmt, options):
    more = ["-o", options] if options else []
    twin.create("a", *more, "4M", fmt=fmt)
    twin.io("a", "write -P 1 0 4M", fmt=fmt)
    for n, step in enumerate(STEPS):
        said = twin.same("resize", "-f", fmt, *step.split()[:-1], "a",
                         step.split()[-1])
        assert said[0] == 0, (step, said)
        twin.same("info", "-f", fmt, "--output=json", "a")
        if n % 5 == 0:
            twin.same_image("a", fmt)
    twin.same_image("a", fmt)


def test_preallocation_of_raw_images(twin):
    twin.create("a", "1M", fmt="raw")
    for mode in ("off", "falloc", "full"):
        twin.same("resize", "-f", "raw", f"--preallocation={mode}", "a", "+1M")
    for directory in twin.dirs.values():
        assert (directory / "a").stat().st_blocks * 512 >= 2 << 20


def test_an_overlay_grows_with_zeroes(twin):
    twin.create("base", "4M")
    twin.io("base", "write -P 1 0 4M")
    twin.create("top", "1M", backing="base")
    twin.same("resize", "top", "3M")
    twin.io("top", "read -P 1 0 1M", "read -P 0 1M 2M")
    twin.same_image("top")


def test_wrong_arguments(twin):
    twin.create("a", "1M")
    twin.create("a.raw", "1M", fmt="raw")
    for args in (
            "", "1M", "a", "a x", "a +x", "a +-3", "a 20E", "a +20E", "a 0",
            "a -1M", "a -5G", "--shrink a -5G", "--shrink a 0", "a 8E", "a +8E",
            "a 512k", "-f raw a.raw 1000", "-f raw a.raw 512k",
            "--preallocation=x a +1M", "--preallocation=full --shrink a -512k",
            "--preallocation=full --shrink a +0",
            "-f raw --preallocation=metadata a.raw +1M", "a b 1M",
            "-f nonsense a +1M", "missing +1M", "-z a 1M", "--foo a 1M",
            "--object foo a +1M", "-f qcow2 --image-opts "
            "driver=qcow2,file.filename=a +1M",
            "--image-opts driver=qcow2,file.filename=a +1M"):
        twin.same("resize", *args.split())
    twin.same("info", "--output=json", "a")


def test_both_read_what_the_other_resized(twin):
    for fmt, size in itertools.product(("raw", "qcow2"), ("+5M", "+100k")):
        twin.create("a", "1M", fmt=fmt)
        twin.io("a", "write -P 7 0 1M", fmt=fmt)
        twin.same("resize", "-f", fmt, "a", size)
        ours, theirs = twin.ours / "a", twin.theirs / "a"
        for name in twin.dirs:
            run(name, twin.ours, "compare", "-s", "-f", fmt, "-F", fmt, ours,
                theirs, check=0)

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


def blocks(path):
    return path.stat().st_blocks * 512


@pytest.mark.parametrize("backing", [None, "1M", "2M"])
@pytest.mark.parametrize("options, where", [
    ("cluster_size=4k", "a"), ("extended_l2=on,cluster_size=64k", "a"),
    ("data_file=d", "d"), ("data_file=d,data_file_raw=on", "d"),
    ("extended_l2=on,data_file=d", "d")])
def test_preallocation_of_qcow2_images(twin, options, where, backing):
    if backing:
        if "raw" in options:
            return
        twin.create("base", backing)
        twin.io("base", f"write -P 3 0 {backing}")
    for mode, old, new in (("off", "1M", "3M"), ("metadata", "1M", "3M"),
                           ("falloc", "1M", "5000k"), ("full", "1M", "1025k"),
                           ("metadata", "1022k", "3M")):
        for directory in twin.dirs.values():
            for name in "ad":
                (directory / name).unlink(missing_ok=True)
        twin.create("a", "-o", options, old, backing=backing and "base")
        twin.io("a", "write -P 1 64k 64k")
        twin.same("resize", f"--preallocation={mode}", "a", new)
        twin.same_map("a")
        twin.same_image("a")
        if mode == "falloc":
            # QEMU's leaves some data files sparse.
            assert blocks(twin.ours / where) >= 3976 << 10
        twin.same("resize", "--shrink", "a", "512k")
        twin.same_image("a")


@pytest.mark.parametrize("mode", ["metadata", "falloc", "full"])
@pytest.mark.parametrize("options", ["", "data_file=d"])
def test_what_does_not_fit_leaves_the_image_as_it_was(twin, mode, options,
                                                      monkeypatch):
    more = ["-o", options] if options else []
    twin.create("a", *more, "1M")
    twin.io("a", "write -P 1 0 64k")
    before = (twin.ours / "a").stat().st_size
    monkeypatch.setattr("lib.twin.FILE_LIMIT", 1 << 20)
    twin.same("resize", f"--preallocation={mode}", "a", "40M")
    monkeypatch.undo()
    run("varve-img", twin.ours, "check", "a", check=0)
    run("qemu-img", twin.ours, "check", "a", check=0)
    assert (twin.ours / "a").stat().st_size <= before + 65536
    assert "virtual size: 1 MiB" in run("varve-img", twin.ours, "info",
                                        "a").stdout
    run("varve-img", twin.ours, "compare", "a", twin.theirs / "a", check=0)


@pytest.mark.parametrize("options, size", [
    ("cluster_size=4k", 16), ("cluster_size=512,refcount_bits=64", 2),
    ("extended_l2=on,cluster_size=16k", 16), ("compat=0.10", 16)])
def test_the_file_is_cut_where_the_disk_shrinks(twin, options, size):
    twin.create("a", "-o", options, f"{size}M")
    twin.io("a", f"write -P 1 0 {size}M")
    for part in (3, 8, 32):
        twin.same("resize", "--shrink", "a", f"{size * 1024 // part // 64 * 64}k")
        ours, theirs = ((d / "a").stat().st_size for d in twin.dirs.values())
        assert ours <= theirs, part
        twin.same_image("a")
    twin.same("resize", "a", f"{size}M")
    twin.io("a", "write -P 2 512k 256k")
    twin.same_image("a")


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

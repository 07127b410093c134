"""varve-img convert beside qemu-img: options, several sources, existing
targets, and what the images look like."""
import itertools
import json
import os
import random
import re
import signal
import subprocess
import time

import pytest

from lib import program
from lib.twin import run


@pytest.fixture
def images(twin):
    data = random.Random(3).randbytes(700000)
    for directory in twin.dirs.values():
        (directory / "r").write_bytes(data + bytes(300000) + data[:1234])
        (directory / "s").write_bytes(data[:3000])
    twin.create("base", "6M")
    twin.io("base", "write -P 1 0 3M", "write -z 1M 128k")
    twin.create("q", "8M", backing="base")
    twin.io("q", "write -P 2 1500k 1M", "write -z 64k 64k", "write -P 3 7M 3k")
    return twin


def no_more_data(twin, image, fmt):
    """Ours has data nowhere but where theirs has."""
    said = []
    for directory in twin.dirs.values():
        entries = json.loads(run("qemu-img", directory, "map", "--output=json",
                                 "-f", fmt, image, check=0).stdout)
        said.append(sum(e["length"] for e in entries if not e["zero"]))
    assert said[0] <= said[1], image
    return said


TARGETS = [("raw", ""), ("qcow2", ""), ("qcow2", "cluster_size=4k"),
           ("qcow2", "compat=0.10"), ("qcow2", "preallocation=metadata"),
           ("qcow2", "cluster_size=2M,refcount_bits=1")]


@pytest.mark.parametrize("fmt, options", TARGETS)
def test_grid(images, fmt, options):
    more = ["-o", options] if options else []
    for source, args in itertools.product(
            (("r", "raw"), ("q", "qcow2"), ("s", "raw")),
            ("", "-S 64k", "-S 0", "-m 16 -W", "-t none -T none", "-C",
             "-r 1G", "--salvage", "-q -U", "-t writethrough -T unsafe")):
        said = images.same("convert", "-f", source[1], "-O", fmt, *more,
                           *args.split(), source[0], "out")
        assert said[0] == 0
        # Past the page cache a file ends where the file system's blocks do, for
        # qemu-img even on tmpfs.
        if "-T none" not in args:
            images.same("info", "--output=json", "-f", fmt, "out")
        if args in ("", "-S 0"):
            images.same_image("out", fmt)
            if "metadata" not in options:
                no_more_data(images, "out", fmt)
        else:
            run("qemu-img", images.ours, "compare", "-f", fmt, "-F", fmt, "out",
                images.theirs / "out", check=0)


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("more", ["", "-c", "-C", "-S 0"])
def test_several_sources(images, fmt, more):
    if fmt == "raw" and more == "-c":
        return
    for sources in (["s", "r"], ["r", "s", "r"], ["s", "s", "s", "s"]):
        images.same("convert", *more.split(), "-f", "raw", "-O", fmt, *sources,
                    "out")
        images.same_image("out", fmt)
        images.same("info", "--output=json", "-f", fmt, "out")
    images.same("convert", "-O", fmt, "q", "base", "out")
    images.same_image("out", fmt)


def test_compressed(images):
    for options in ("cluster_size=64k", "cluster_size=4k", "cluster_size=2M"):
        for source in (["q"], ["-f", "raw", "r"]):
            images.same("convert", "-c", "-O", "qcow2", "-o", options, *source,
                        "out")
            images.same_image("out")
            no_more_data(images, "out", "qcow2")


def test_existing_targets(images):
    for fmt in ("raw", "qcow2"):
        images.create("t", "9M", fmt=fmt)
        images.io("t", "write -P 9 0 9M", fmt=fmt)
        for args in (f"-n -O {fmt}", f"-n -O {fmt} -W -m 3", f"-n -O {fmt} -C"):
            images.same("convert", *args.split(), "q", "t")
            images.same_image("t", fmt)
        images.same("convert", "-n", "--target-image-opts", "q",
                    f"driver={fmt},file.filename=t")
        images.same_image("t", fmt)
        images.create("z", "8M", fmt=fmt)
        images.same("convert", "-n", "--target-is-zero", "-O", fmt, "q", "z")
        images.same_image("z", fmt)
        no_more_data(images, "z", fmt)
    images.create("small", "1M")
    images.same("convert", "-n", "-O", "qcow2", "q", "small")


def test_on_top_of_a_backing_file(images):
    images.same("convert", "-O", "qcow2", "-B", "base", "-F", "qcow2", "q", "o")
    images.same("info", "--output=json", "o")
    images.same_image("o")
    images.same("convert", "-O", "qcow2", "-o",
                "backing_file=base,backing_fmt=qcow2", "q", "o")
    images.same("info", "--output=json", "o")
    images.same_image("o")
    for directory in images.dirs.values():
        run("qemu-img", directory, "compare", "q", "o", check=0)


@pytest.mark.parametrize("more", ["", "-S 0", "-c", "-o compat=0.10"])
def test_zeroes_of_a_source_hide_the_target_s_backing_file(twin, more):
    twin.create("alone", "4M")
    twin.io("alone", "write -P 1 3M 100k")
    twin.create("base", "4M")
    twin.io("base", "write -P 2 0 4M")
    for directory in twin.dirs.values():
        run("qemu-img", directory, "create", "-q", "-f", "qcow2", "-b", "base",
            "-F", "qcow2", "over", check=0)
    twin.io("over", "write -z 1M 1M", "write -P 3 2M 64k")
    for source in ("alone", "over"):
        twin.same("convert", "-O", "qcow2", *more.split(), "-B", "base", "-F",
                  "qcow2", source, "o")
        twin.same_image("o")
        run("varve-img", twin.ours, "compare", source, "o", check=0)


@pytest.mark.parametrize("more", [[], ["-S", "0"], ["-c"]])
def test_zeroes_behind_the_end_of_the_backing_file_take_nothing(twin, more):
    twin.create("base", "1M")
    twin.io("base", "write -P 1 0 1M")
    twin.create("source", "4M", backing="base")
    twin.io("source", "write -P 2 1M 64k", "write -z 0 64k", "write -z 3M 64k")
    twin.same("convert", *more, "-O", "qcow2", "-B", "base", "-F", "qcow2",
              "source", "target")
    twin.same_image("target")
    twin.same_map("target")


def test_wrong_arguments(images):
    for args in (
            "", "r", "-B x r s o", "-O raw -B base -F qcow2 r o",
            "-O qcow2 -B base r o", "-O qcow2 -B base -F qcow2 r s o",
            "-O qcow2 -o backing_file=base r s o", "-n -O raw r missing",
            "-n -o size=3 -O raw r o", "-n -o help -O raw r o", "-S 1000 r o",
            "-S 32M r o", "-m 0 r o", "-c r o", "-c -C -O qcow2 r o",
            "-C -S 4k r o", "--salvage -C r o", "--target-is-zero r o",
            "--target-image-opts r driver=raw,file.filename=o",
            "-n --target-image-opts -O qcow2 q driver=qcow2,file.filename=base",
            "--skip-broken-bitmaps r o", "-r x r o", "-t x r o", "-T x r o",
            "-O nonsense r o", "-f nonsense r o", "-6 r o", "missing o",
            "-O qcow2 -o preallocation=full -c r o", "-O qcow2 -o foo=1 r o",
            "-O qcow2 -o cluster_size=x r o", "r missing/o",
            "-O qcow2 r missing/o", "-O raw -c -n r s"):
        images.same("convert", *args.split())
        # There a wrong cache mode is noticed when the target has been made.
        assert not os.path.exists(images.ours / "o"), args
        (images.theirs / "o").unlink(missing_ok=True)


def test_help_of_options(images):
    ours, theirs = images.answers("convert", "-O", "raw", "-o", "help")
    assert ours == theirs
    ours, theirs = images.answers("create", "-f", "raw", "-o", "help", "x")
    assert ours == theirs
    # Of encryption there is nothing here; all else is the same.
    for args in (["convert", "-O", "qcow2", "-o", "help"],
                 ["create", "-f", "qcow2", "-o", "?", "x"]):
        ours, theirs = images.answers(*args)
        assert ours[1] == "".join(
            line for line in theirs[1].splitlines(True)
            if "encrypt" not in line)


def test_salvage_puts_zeroes_where_nothing_can_be_read(twin):
    twin.create("a", "1M", fmt="raw")
    twin.io("a", "write -P 5 0 1M", fmt="raw")
    text = ("json:{'driver':'raw','file':{'driver':'blkdebug','image':"
            "{'driver':'file','filename':'a'},'inject-error':[{'event':"
            "'none','sector':100,'once':false,'errno':5,'iotype':'read'},"
            "{'event':'none','sector':700,'once':false,'iotype':'read'}]}}"
            ).replace("'", '"')
    twin.same("convert", "--salvage", "-O", "raw", text, "out")
    twin.same("convert", "-q", "--salvage", "-O", "raw", text, "out")
    twin.same_image("out", "raw")
    twin.io("out", "read -P 5 0 50k", "read -P 0 50k 512",
            "read -P 5 51712 300000", fmt="raw")
    assert run("varve-img", twin.ours, "convert", text, "out").returncode == 1


def catches(pid, number):
    """Whether the process has a handler of the signal."""
    with open(f"/proc/{pid}/status") as f:
        caught = next(line for line in f if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


def test_a_signal_asks_for_progress(twin):
    """As slow as it must be to be asked twice."""
    twin.create("a", "64M", fmt="raw")
    twin.io("a", "write -P 5 0 64M", fmt="raw")
    with subprocess.Popen([program("varve-img"), "convert", "-r", "4M", "-f",
                           "raw", "a", "out"], cwd=twin.ours,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as p:
        try:
            while not catches(p.pid, signal.SIGUSR1):
                assert p.poll() is None
                time.sleep(0.01)
            for _ in range(2):
                p.send_signal(signal.SIGUSR1)
                said = p.stderr.readline()
                assert re.fullmatch(rb"    \([0-9.]+/100%\)\n", said), said
        finally:
            p.kill()
        assert p.stdout.read() == b""

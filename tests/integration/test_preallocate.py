"""The preallocate filter beside QEMU's: how long the file is, and when."""
import os
import subprocess

import pytest

from lib import images, same_conversation
from lib.daemon import program
from lib.twin import run
from test_persistent_bitmaps import write

MIB = 1 << 20
STEPS = ["write -P 1 0 64k", "write -P 2 64k 1M", "write -z 8M 64k",
         "write -P 3 10M 3M", "discard 64k 64k"]


def play(name, directory, options, commands):
    """The length of the file afterwards."""
    argv = [a for c in commands for a in ("-c", c)]
    r = subprocess.run(
        [program(name.replace("img", "io")), "--image-opts", *argv,
         f"driver=qcow2,file.driver=preallocate,{options}"], cwd=directory,
        capture_output=True, text=True, timeout=120)
    assert r.returncode == (-6 if "abort" in commands else 0), r.stderr
    return os.stat(directory / "a").st_size


@pytest.mark.parametrize("options", [
    "file.file.filename=a",
    "file.prealloc-size=1M,file.prealloc-align=64k,file.file.filename=a",
    "file.prealloc-size=1000,file.prealloc-align=512,file.file.filename=a",
    "file.prealloc-size=0,file.prealloc-align=1536,file.file.filename=a",
    "file.prealloc-size=3M,file.file.driver=raw,file.file.file.filename=a"])
def test_the_file_grows_in_steps_and_is_cut_at_close(twin, options):
    for n in range(1, len(STEPS) + 1):
        for end in (["abort"], []):
            twin.create("a", "64M")
            ours, theirs = (play(name, d, options, STEPS[:n] + end)
                            for name, d in twin.dirs.items())
            assert ours == theirs, (n, end)
            if end:
                killed = ours
                images.qemu_img("check", "-q", twin.ours / "a", ok=(0, 3))
        assert ours < killed or "size=0" in options
    twin.same_image("a")


def test_options_and_names(twin):
    twin.create("a", "1M", fmt="raw")
    opts = ("info", "--image-opts")
    for more in ("prealloc-align=100", "prealloc-align=513", "nonsense=3"):
        twin.same(*opts, f"driver=preallocate,{more},file.filename=a")
    for more in ("", "prealloc-size=1M,", "prealloc-align=4k,"):
        ours, theirs = twin.answers(
            *opts, "--output=json",
            f"driver=preallocate,{more}file.driver=file,file.filename=a")
        # JSON in a name has blanks or not.
        theirs[1]["filename"] = theirs[1]["filename"].replace(" ", "")
        assert ours == theirs
    for args in ("+1M", "--preallocation=falloc +1M", "--shrink -512k",
                 "--preallocation=metadata +1M", "--preallocation=full +64k"):
        *flags, size = args.split()
        twin.same("resize", "--image-opts", *flags,
                  "driver=preallocate,file.driver=file,file.filename=a", size)
        ours, theirs = (os.stat(d / "a") for d in twin.dirs.values())
        assert (ours.st_size, ours.st_blocks) == \
            (theirs.st_size, theirs.st_blocks)
    run("varve-img", twin.ours, "compare", "-f", "raw", "-F", "raw", "a",
        twin.theirs / "a", check=0)


def filter_node(**more):
    return {"driver": "preallocate", "node-name": "p", "file": "f",
            **{k.replace("_", "-"): v for k, v in more.items()}}


def length(daemon):
    return os.stat(daemon.path("a")).st_size


def test_reopen_and_the_last_writer_cut_the_file(system_pair):
    for daemon in system_pair:
        images.create(daemon.path("a"), "64M")
    image = {"driver": "qcow2", "node-name": "n", "file": "p"}

    def reopen(*options):
        return ("blockdev-reopen", {"options": list(options)})

    same_conversation(*system_pair, [
        ("blockdev-add", {"driver": "file", "node-name": "f",
                          "filename": "{dir}/a"}),
        ("blockdev-add", filter_node(prealloc_align=100)),
        ("blockdev-add", filter_node(prealloc_size=MIB)), length,
        ("blockdev-add", image), write("0", "64k", "n"), length,
        write("64k", "2M", "n"), length,
        reopen(filter_node(prealloc_size=3 * MIB)), length,
        write("8M", "1M", "n"), length,
        reopen(filter_node(prealloc_size=MIB, prealloc_align=5)),
        reopen(filter_node(prealloc_size=MIB, prealloc_align=65536)),
        write("10M", "1M", "n"), length,
        reopen({**image, "read-only": True}), length,
        reopen(image), write("12M", "1M", "n"), length,
        ("blockdev-del", {"node-name": "n"}), length,
        ("blockdev-add", image), write("14M", "1M", "n"), length,
        ("blockdev-del", {"node-name": "n"}),
        ("blockdev-del", {"node-name": "p"}), length])
    for daemon in system_pair:
        daemon.stop()
        images.check(daemon.path("a"))

"""varve-img that is killed amidst its work leaves an image without errors, which
shows what it showed before or what it was to show afterwards."""
import random
import shutil
import subprocess
import time

import pytest

from lib import program

KILLS = 4
SIZE = 8 << 20

OPERATIONS = {
    "snapshot": "snapshot -c new top",
    "go back": "snapshot -a old top",
    "delete": "snapshot -d old top",
    "grow": "resize -q --preallocation=metadata top 64M",
    "shrink": "resize -q --shrink top 1M",
    "wide refcounts": "amend -q -o refcount_bits=64 top",
    "commit": "commit -q plain",
    "rebase": "rebase -q -b other -F qcow2 plain",
    "to version 2": "amend -q -o compat=0.10 plain",
    "bitmap": "bitmap --add -g 512 plain b",
    "repair": "check -q -r all leaky",
}


def run(name, directory, *args):
    return subprocess.run([program(name), *args], cwd=directory,
                          capture_output=True, text=True, timeout=120)


def io(directory, image, *lines):
    words = [w for line in lines for w in ("-c", line)]
    assert run("qemu-io", directory, "-f", "qcow2", *words,
               image).returncode == 0


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """top has a snapshot, plain has a backing file, leaky has leaks."""
    directory = tmp_path_factory.mktemp("images")

    def create(name, *more):
        assert run("qemu-img", directory, "create", "-q", "-f", "qcow2", "-o",
                   "cluster_size=4k", *more, name, str(SIZE)).returncode == 0
    create("top")
    io(directory, "top", "write -P 1 0 3M", "write -z 5M 1M")
    assert run("qemu-img", directory, "snapshot", "-c", "old",
               "top").returncode == 0
    io(directory, "top", "write -P 2 1M 3M")
    create("base")
    create("other")
    io(directory, "base", "write -P 3 0 4M")
    io(directory, "other", "write -P 4 2M 4M")
    create("plain", "-b", "base", "-F", "qcow2")
    io(directory, "plain", "write -P 5 1M 2M", "write -z 3500k 1M")
    shutil.copy(directory / "base", directory / "leaky")
    leak(directory / "leaky")
    return directory


def leak(path):
    """Clusters are counted that nothing refers to."""
    with open(path, "r+b") as f:
        f.seek(48)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table)
        block = int.from_bytes(f.read(8), "big")
        f.seek(block + 2 * 1500)
        f.write(b"\0\1" * 500)


def shown(directory, image):
    """The size of the disk, and what is on it."""
    done = run("qemu-img", directory, "convert", "-O", "raw", image, "raw")
    assert done.returncode == 0, done.stderr
    return (directory / "raw").read_bytes()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_leaves_the_old_image_or_the_new_one(images, tmp_path, seed,
                                                    operation):
    rng = random.Random(seed)
    words = OPERATIONS[operation].split()
    image = next(w for w in words if w in ("top", "plain", "leaky"))
    directory = tmp_path / "whole"
    shutil.copytree(images, directory)
    begin = time.monotonic()
    assert run("varve-img", directory, *words).returncode == 0
    took = time.monotonic() - begin
    views = [shown(images, image), shown(directory, image)]
    for i in range(KILLS):
        directory = tmp_path / str(i)
        shutil.copytree(images, directory)
        p = subprocess.Popen([program("varve-img"), *words], cwd=directory,
                             stdout=subprocess.DEVNULL)
        try:
            p.wait(rng.uniform(0, took))
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
        for name in ("qemu-img", "varve-img"):
            for checked in {image, "base"}:
                done = run(name, directory, "check", checked)
                assert done.returncode in (0, 3), (name, done.stdout)
        view = shown(directory, image)
        if operation == "shrink":
            # What was to go may have gone.
            assert view[:1 << 20] == views[1]
        else:
            assert view in views

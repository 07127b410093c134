"""varve-img info beside qemu-img: chains, and what is wrong with them."""
import pytest

from lib.twin import run


@pytest.fixture
def images(twin):
    twin.create("base", "10M")
    twin.create("mid", backing="base")
    for directory in twin.dirs.values():
        (directory / "sub").mkdir()
    twin.create("sub/top", "-o", "cluster_size=4k,lazy_refcounts=on", "12M",
                backing="../mid")
    twin.create("raw", "1000001", fmt="raw")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "missing", "-F",
                 "raw", "gap", "1M")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "loop2", "-F",
                 "qcow2", "loop1", "1M")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "loop1", "-F",
                 "qcow2", "loop2", "1M")
    twin.create("zstd", "-o", "compression_type=zstd,refcount_bits=1", "1G")
    twin.create("old", "-o", "compat=0.10", "1M")
    return twin


@pytest.mark.parametrize("image", ["base", "mid", "sub/top", "raw", "gap",
                                   "loop1", "zstd", "old", "null-co://",
                                   "/dev/null", "missing", "."])
def test_one_and_its_chain(images, image):
    for args in ([], ["--output=json"], ["--backing-chain"],
                 ["--backing-chain", "--output=json"], ["-f", "raw"], ["-U"],
                 ["-f", "qcow2", "--output=json"]):
        images.same("info", *args, image)


def test_options_instead_of_a_name(images):
    for text in ("driver=qcow2,file.filename=mid",
                 "driver=qcow2,file.filename=sub/top", "driver=raw,"
                 "file.filename=raw", "driver=qcow2,file.driver=file,"
                 "file.filename=gap", "driver=qcow2,file.filename=raw"):
        for args in ([], ["--output=json"], ["--backing-chain"]):
            images.same("info", "--image-opts", *args, text)
    for driver, name in (("qcow2", "mid"), ("raw", "raw"), ("qcow2", "gap")):
        text = ('json:{"driver":"%s","file":{"driver":"file",'
                '"filename":"%s"}}' % (driver, name))
        for args in ([], ["--output=json"], ["--backing-chain"]):
            images.same("info", *args, text)


def test_an_image_in_use(images):
    # Nobody else may write while the lock is held, but reading is free.
    images.same("info", "--output=json", "--force-share", "sub/top")
    assert "cluster_size: 4096" in run("varve-img", images.ours, "info",
                                       "sub/top", check=0).stdout

"""varve-img measure beside qemu-img, and beside the images that are made."""
import itertools
import json

import pytest

from lib.twin import run

OPTIONS = [f"cluster_size={c},refcount_bits={r},preallocation={p}"
           for c, r, p in itertools.product(
               ("512", "4k", "64k", "2M"), (1, 16, 64),
               ("off", "metadata", "falloc"))]
SIZES = ["0", "1", "512", "1M", "100000k", "1G"]


def test_empty_disks(twin):
    for options, size in itertools.product(OPTIONS, SIZES):
        twin.same("measure", "-O", "qcow2", "-o", options, "--size", size)
    for size in SIZES:
        twin.same("measure", "--output=json", "--size", size)
        twin.same("measure", "-O", "qcow2", "--size", size, "--output=json",
                  "-o", "compat=0.10")


@pytest.fixture
def images(twin):
    twin.create("base.qcow2", "20M")
    twin.io("base.qcow2", "write 0 3M", "write 5M 1k", "write 8191k 2k",
            "write -z 1M 128k")
    twin.create("top.qcow2", "24000k", backing="base.qcow2")
    twin.io("top.qcow2", "write 2M 2M", "write -z 64k 64k", "write 23M 64k",
            "discard 5M 1M")
    twin.create("small.qcow2", "-o", "cluster_size=512", "9M")
    twin.io("small.qcow2", *(f"write {at}k 700" for at in range(0, 9000, 900)))
    twin.create("old.qcow2", "-o", "compat=0.10", "5M")
    twin.io("old.qcow2", "write 1M 1M")
    twin.create("a.raw", "10M", fmt="raw")
    twin.io("a.raw", "write 0 64k", "write 1M 4k", "write 5000k 2M", fmt="raw")
    return twin


@pytest.mark.parametrize("image", ["base.qcow2", "top.qcow2", "small.qcow2",
                                   "old.qcow2", "a.raw"])
def test_data_of_an_image(images, image):
    for options in OPTIONS:
        images.same("measure", "-O", "qcow2", "-o", options, image)
    images.same("measure", image)
    images.same("measure", "-O", "qcow2", "--output=json", image)
    images.same("measure", "-O", "qcow2", "-o", "compat=0.10", image)
    images.same("measure", "-O", "qcow2", "-o", "backing_file=x", image)
    images.same("measure", "-O", "qcow2", "-U", image)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k",
                                     "cluster_size=2M",
                                     "refcount_bits=1,cluster_size=512"])
def test_the_image_is_as_large_as_that(images, options):
    for image in ("top.qcow2", "a.raw", "small.qcow2"):
        said = json.loads(run("varve-img", images.ours, "measure", "-O",
                              "qcow2", "-o", options, "--output=json", image,
                              check=0).stdout)
        run("varve-img", images.ours, "convert", "-O", "qcow2", "-o", options,
            image, "out", check=0)
        length = (images.ours / "out").stat().st_size
        # A converter may find zeroes among the data, and what it allocates
        # together it may leave in part.
        assert length <= said["required"] + (4 << 20)
        assert said["required"] <= said["fully-allocated"]


def test_wrong_arguments(twin):
    twin.create("a.qcow2", "1M")
    for args in (
            "", "a.qcow2 a.qcow2", "--size 1M a.qcow2", "-O qcow2",
            "-f qcow2 --size 1M", "--image-opts --size 1M", "-l s --size 1M",
            "-O nonsense --size 1M", "-O file --size 1M",
            "-O nonsense a.qcow2", "--size x", "--size -1", "--size 8E",
            "-O qcow2 --size 7E", "-O raw --size 7E", "--output=xml --size 1",
            "-O qcow2 missing", "-O qcow2 -o nonsense=1 --size 1M",
            "-O qcow2 -o cluster_size=x --size 1M",
            "-O qcow2 -o cluster_size=1000 --size 1M",
            "-O qcow2 -o refcount_bits=5 --size 1M",
            "-O qcow2 -o refcount_bits=x --size 1M",
            "-O qcow2 -o lazy_refcounts=x --size 1M",
            "-O qcow2 -o lazy_refcounts=on,compat=0.10 --size 1M",
            "-O raw -o cluster_size=64k --size 1M",
            "-O qcow2 -o size=2G --size 1M",
            "-O qcow2 -o size=2G -o cluster_size=4k --size 1M",
            "-f qcow2 --image-opts driver=qcow2,file.filename=a.qcow2",
            "-O qcow2 --image-opts driver=qcow2,file.filename=a.qcow2"):
        twin.same("measure", *args.split())

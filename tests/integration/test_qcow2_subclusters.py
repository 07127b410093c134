"""Extended L2 entries: subclusters beside QEMU."""
import random
import struct

import pytest

from lib.images import joined_runs
from test_qcow2 import (MIB, assert_content, check, io, qemu, random_commands,
                        varve)

BOTH = {"varve": varve, "qemu": qemu}


def mapping(side, image, places=True):
    return joined_runs(BOTH[side]("img", "map", "--output=json", "-f", "qcow2",
                                  image).stdout, places)


def make(image, *more, cluster="64k"):
    qemu("img", "create", "-q", "-f", "qcow2",
         "-o", f"extended_l2=on,cluster_size={cluster}", *more, image)


@pytest.mark.parametrize("cluster", ["16k", "64k", "2M"])
def test_subclusters_over_a_backing_file(tmp_path, cluster):
    base, image = tmp_path / "base", tmp_path / "image"
    rng = random.Random(cluster)
    data = bytearray(rng.randbytes(4 * MIB))
    base.write_bytes(data)
    make(image, "-b", base, "-F", "raw", cluster=cluster)
    for turn in range(6):
        io(["varve", "qemu"][turn % 2], image,
           random_commands(rng, data, 20, 512))
        check(image)
        assert mapping("varve", image) == mapping("qemu", image)
    assert_content(image, tmp_path, data)


def test_the_same_writes_allocate_the_same_subclusters(tmp_path):
    base = tmp_path / "base"
    base.write_bytes(b"\x55" * 4 * MIB)
    commands = random_commands(random.Random(2), bytearray(4 * MIB), 60, 512)
    images = []
    for side in BOTH:
        images.append(tmp_path / side)
        make(images[-1], "-b", base, "-F", "raw")
        io(side, images[-1], commands)
    maps = [mapping("qemu", image, places=False) for image in images]
    assert maps[0] == maps[1]
    qemu("img", "compare", *images)


def test_a_partial_write_takes_no_more_than_its_subclusters(tmp_path):
    base, image = tmp_path / "base", tmp_path / "image"
    base.write_bytes(b"\x55" * MIB)
    make(image, "-b", base, "-F", "raw")
    io("varve", image, ["write -P 1 5k 1k", "write -P 2 20k 2k",
                        "write -z 30k 2k", "write -P 3 40k 1k"])
    top = [(r["start"], r["length"]) for r in mapping("qemu", image)
           if r["depth"] == 0]
    assert top == [(4096, 2048), (20480, 2048), (30720, 2048), (40960, 2048)]
    assert image.stat().st_size <= 7 * 65536
    io("varve", image, ["discard 0 64k", "read -P 0 0 64k"])
    check(image)


@pytest.mark.parametrize("compressed", [False, True])
def test_snapshots_and_compressed_clusters_share_subclusters(tmp_path,
                                                             compressed):
    base, image = tmp_path / "base", tmp_path / "image"
    rng = random.Random(compressed)
    model = bytearray(b"\x55" * 4 * MIB)
    base.write_bytes(model)
    make(image, "-b", base, "-F", "raw")
    flag = "-c " if compressed else ""
    for side in "varve", "qemu":
        at = rng.randrange(32) * 65536
        io(side, image, [f"write {flag}-P 7 {at} 64k"])
        model[at:at + 65536] = b"\x07" * 65536
    io("varve", image, random_commands(rng, model, 30, 512))
    seen = bytes(model)
    qemu("img", "snapshot", "-c", "one", image)
    for side in "varve", "qemu", "varve":
        io(side, image, random_commands(rng, model, 20, 512))
        check(image)
        assert mapping("varve", image) == mapping("qemu", image)
    assert_content(image, tmp_path, model)
    qemu("img", "snapshot", "-a", "one", image)
    assert_content(image, tmp_path, seen)
    qemu("img", "snapshot", "-d", "one", image)
    check(image)


def table(image):
    with open(image, "rb") as f:
        l1 = struct.unpack(">Q", f.read(48)[40:48])[0]
        f.seek(l1)
        return struct.unpack(">Q", f.read(8))[0] & ((1 << 56) - 512)


@pytest.mark.parametrize("entry, bitmap", [(0, 0x100000001), (1, 1)])
def test_a_bitmap_that_contradicts_itself_marks_the_image(tmp_path, entry,
                                                          bitmap):
    answers = []
    for side in BOTH:
        image = tmp_path / side
        qemu("img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on",
             image, "1M")
        io("qemu", image, ["write 0 64k"])
        with open(image, "r+b") as f:
            f.seek(table(image) + 16 * entry + 8)
            f.write(struct.pack(">Q", bitmap))
        r = BOTH[side]("io", "-f", "qcow2", "-c",
                       f"write {entry * 65536} 512", image, ok=False)
        with open(image, "rb") as f:
            f.seek(72)
            incompatible = struct.unpack(">Q", f.read(8))[0]
        answers.append((r.returncode, r.stdout,
                        r.stderr.split("Marking")[1].split(";")[0],
                        incompatible))
    assert answers[0] == answers[1]
    assert answers[0][3] == 0x12

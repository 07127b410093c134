"""Damaged qcow2 images, checked and repaired beside qemu-img."""
import json
import shutil
import struct

import pytest

from test_qcow2 import SIDES, content, io, qemu, varve

COPIED = 1 << 63
OFFSET = (1 << 56) - 512


def u16(value):
    return struct.pack(">H", value)


def u64(value):
    return struct.pack(">Q", value)


class Damage:
    """An image file, and where its tables are."""

    def __init__(self, path):
        self.f = open(path, "r+b")
        self.l1, self.rt = self.get(40), self.get(48)
        self.rb = self.get(self.rt)
        self.l2 = self.get(self.l1) & OFFSET
        self.data = self.get(self.l2) & OFFSET

    def get(self, offset):
        self.f.seek(offset)
        return int.from_bytes(self.f.read(8), "big")

    def put(self, offset, value):
        self.f.seek(offset)
        self.f.write(value)


# Each changes an image `i` of clusters of 64 KiB: header, refcount table and
# block, L1, L2, data from cluster 5 on.
DAMAGES = {
    "leak": lambda i: [(i.rb + 2 * 40, u16(1))],
    "leak2": lambda i: [(i.rb + 2 * 6, u16(2))],
    "low": lambda i: [(i.rb + 2 * 6, u16(0))],
    "low_and_high": lambda i:
        [(i.rb + 2 * 6, u16(0)), (i.rb + 2 * 7, u16(5)),
         (i.rb + 2 * 60, u16(5))],
    "l2copied": lambda i: [(i.l2, u64(i.data))],
    "l1copied": lambda i: [(i.l1, u64(i.l2))],
    "dataunaligned": lambda i: [(i.l2, u64(COPIED | i.data + 512))],
    "zerounaligned": lambda i: [(i.l2, u64(COPIED | i.data + 512 | 1))],
    "databeyond": lambda i: [(i.l2, u64(COPIED | (1 << 30)))],
    "datahuge": lambda i: [(i.l2, u64(COPIED | (1 << 55)))],
    "dup": lambda i: [(i.l2 + 8, u64(COPIED | i.data))],
    "l2unaligned": lambda i: [(i.l1, u64(COPIED | i.l2 + 512))],
    "l2beyond": lambda i: [(i.l1, u64(COPIED | (1 << 30)))],
    "rbunaligned": lambda i: [(i.rt, u64(i.rb + 512))],
    "rbbeyond": lambda i: [(i.rt + 8, u64(1 << 30))],
    "rbhuge": lambda i: [(i.rt + 8, u64(1 << 60))],
    "rbgone": lambda i: [(i.rt, u64(0))],
    "rbdup": lambda i: [(i.rt + 8, u64(i.rb))],
    "rbdata": lambda i: [(i.rt, u64(i.data))],
    "reservedl2": lambda i:
        [(i.l2 + 16, u64(COPIED | i.get(i.l2 + 16) & ((1 << 62)-1) | 2))],
    "reservedl1": lambda i: [(i.l1, u64(COPIED | i.l2 | 1))],
    "comprbeyond": lambda i: [(i.l2 + 8 * 48, u64((1 << 62) | (1 << 30)))],
    "comprreserved": lambda i:
        [(i.l2 + 8 * 48, u64(COPIED | i.get(i.l2 + 8 * 48)))],
    "corruptbit": lambda i: [(72, u64(2))],
    "dirtybit": lambda i: [(72, u64(1)), (i.rb + 2 * 6, u16(0))],
    "header_in_data": lambda i: [(i.l2 + 8, u64(COPIED))],
    "data_is_l2": lambda i: [(i.l2 + 8, u64(COPIED | i.l2))],
    "rt_reserved": lambda i: [(i.rt, u64(i.rb | 5))],
}

# Where we repair what qemu-img gives up, or count a repair once and not twice;
# it gives up the huge one where the file system lets a file grow so far.
BETTER = {"rbunaligned", "rt_reserved", "rbbeyond", "rbhuge"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    image = tmp_path_factory.mktemp("base") / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "8M")
    io("qemu", image, ["write -P 1 0 1M", "write -z 1M 128k",
                       "write -P 2 2M 64k", "write -c -P 3 3M 64k",
                       "write -c -P 4 3136k 64k"])
    return image


def check(side, image, *repair):
    r = SIDES[side]("img", "check", "--output=json", "-f", "qcow2", *repair,
                    image, ok=False)
    answer = json.loads(r.stdout) if r.stdout else {}
    answer.pop("filename", None)
    return r.returncode, answer


def damaged(base, path, name):
    image = path / name
    shutil.copy(base, image)
    damage = Damage(image)
    for offset, value in DAMAGES[name](damage):
        damage.put(offset, value)
    damage.f.close()
    return image


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_repaired_as_by_qemu(base, tmp_path, name):
    image = damaged(base, tmp_path, name)
    assert check("varve", image) == check("qemu", image)
    for repair in "leaks", "all":
        copies = {side: tmp_path / side for side in SIDES}
        for copy in copies.values():
            shutil.copy(image, copy)
        said = {side: check(side, copy, "-r", repair)
                for side, copy in copies.items()}
        if name not in BETTER:
            assert said["varve"] == said["qemu"]
        # Both agree on what we left behind.
        after = copies["varve"]
        assert check("varve", after) == check("qemu", after)
    status, answer = check("qemu", after)
    theirs = check("qemu", copies["qemu"])
    assert (status, answer.get("corruptions")) <= \
        (theirs[0], theirs[1].get("corruptions")) or status == 0


@pytest.mark.parametrize("options", ["refcount_bits=1", "refcount_bits=64",
                                     "cluster_size=512", "extended_l2=on",
                                     "compat=0.10"])
def test_lost_refcounts_are_rebuilt(tmp_path, options):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", "-o", options, image, "16M")
    io("varve", image, ["write -P 1 0 4M", "write -P 2 9M 1M"])
    if "bits=1" not in options:
        qemu("img", "snapshot", "-c", "one", image)
        io("qemu", image, ["write -P 3 1M 1M"])
    before = content("qemu", image, tmp_path)
    damage = Damage(image)
    damage.put(damage.rb, bytes(512))
    damage.f.close()
    assert check("varve", image)[0] == 2
    status, answer = check("varve", image, "-r", "all")
    assert status == 0 and answer["corruptions-fixed"] > 0
    assert check("qemu", image)[0] == 0
    assert content("qemu", image, tmp_path) == before
    io("varve", image, ["write -P 5 12M 2M"])
    assert check("qemu", image)[0] == 0


def test_a_corrupt_image_can_be_written_again_after_a_repair(base, tmp_path):
    image = damaged(base, tmp_path, "corruptbit")
    r = varve("io", "-f", "qcow2", "-c", "write 0 512", image, ok=False)
    assert "Image is corrupt" in r.stdout + r.stderr
    assert check("varve", image, "-r", "leaks")[0] == 0
    io("varve", image, ["write 0 512"])


def test_a_repair_says_what_it_did(base, tmp_path):
    said = []
    for side in SIDES:
        image = damaged(base, tmp_path, "dup")
        for repair in "leaks", "all":
            said.append(SIDES[side]("img", "check", "-r", repair, image,
                                    ok=False).stdout)
    assert said[:2] == said[2:]
    r = varve("img", "check", "-r", "some", image, ok=False)
    assert r.returncode == 1 and \
        "Unknown option value for -r (expecting 'leaks' or 'all'): some" in \
        r.stderr

"""varve-img amend beside qemu-img: the same answers, the same images."""
import shutil
import struct

import pytest

from test_qcow2 import SIDES, check, content, info, io, qemu


def images(path, *create, size="4M"):
    image = path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", *create, image, size)
    io("qemu", image, ["write -P 1 0 1M", "write -z 1M 128k",
                       "write -z 300k 64k", "write -P 2 3M 64k"])
    return image


def amend(path, image, *options):
    """Both sides amend a copy each; what they said."""
    said = {}
    for side in SIDES:
        copy = path / side
        shutil.copy(image, copy)
        argv = [a for o in options for a in ("-o", o)]
        r = SIDES[side]("img", "amend", "-f", "qcow2", *argv, copy, ok=False)
        said[side] = (r.returncode, r.stdout,
                      r.stderr.replace("varve-img", "qemu-img")
                      .replace(str(copy), "IMAGE"))
    return said


@pytest.mark.parametrize("create, options", [
    ("", "lazy_refcounts=on"), ("lazy_refcounts=on", "lazy_refcounts=off"),
    ("", "compat=0.10"), ("lazy_refcounts=on", "compat=v2"),
    ("compat=0.10", "compat=1.1"),
    ("compat=0.10", "compat=1.1,lazy_refcounts=on,refcount_bits=8"),
    ("", "refcount_bits=1"), ("", "refcount_bits=64"),
    ("cluster_size=512", "refcount_bits=64"),
    ("refcount_bits=64,cluster_size=4k", "refcount_bits=2"),
    ("refcount_bits=32", "compat=0.10,refcount_bits=16"),
    ("extended_l2=on", "refcount_bits=4"),
    ("", "size=16M"), ("", "size=64G"), ("", "size=1M"),
    ("", "size=1536k,lazy_refcounts=on"), ("", "compat=1.1"),
])
def test_amended_images_are_those_of_qemu(tmp_path, create, options):
    image = images(tmp_path, *(["-o", create] if create else []))
    said = amend(tmp_path, image, options)
    assert said["varve"] == said["qemu"] == (0, "", "")
    ours, theirs = tmp_path / "varve", tmp_path / "qemu"
    check(ours)
    assert info("qemu", ours) == info("qemu", theirs)
    assert info("varve", ours) == info("qemu", ours)
    if "64G" in options:
        qemu("img", "compare", ours, theirs)
    else:
        assert content("qemu", ours, tmp_path) == \
            content("qemu", theirs, tmp_path)
    # It can be used further.
    io("varve", ours, ["write -P 9 512k 256k", "read -P 9 512k 256k"])
    check(ours)


@pytest.mark.parametrize("options", [
    "cluster_size=4k", "foo=4k", "preallocation=full", "lazy_refcounts=foo",
    "compat=0.9", "data_file=x", "data_file_raw=on", "refcount_bits=3",
    "compat=0.10,refcount_bits=32", "compat=0.10,lazy_refcounts=on",
    "extended_l2=on", "compression_type=zstd", "backing_fmt=raw",
    "backing_file=x"])
def test_what_cannot_be_amended_is_refused_as_by_qemu(tmp_path, options):
    image = images(tmp_path)
    said = amend(tmp_path, image, options)
    assert said["varve"] == said["qemu"]
    assert said["varve"][0] == 1
    assert (tmp_path / "varve").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("create, options", [
    ("compat=0.10", "lazy_refcounts=on"), ("compat=0.10", "refcount_bits=8"),
    ("extended_l2=on", "compat=0.10")])
def test_images_that_cannot_have_it_are_refused_as_by_qemu(tmp_path, create,
                                                           options):
    image = images(tmp_path, "-o", create)
    said = amend(tmp_path, image, options)
    assert said["varve"] == said["qemu"] and said["varve"][0] == 1


def test_refcounts_that_are_needed_are_not_cut(tmp_path):
    image = images(tmp_path)
    qemu("img", "snapshot", "-c", "one", image)
    said = amend(tmp_path, image, "refcount_bits=1")
    assert said["varve"] == said["qemu"] and said["varve"][0] == 1
    said = amend(tmp_path, image, "refcount_bits=2")
    assert said["varve"][0] == 0
    check(tmp_path / "varve")


def test_zeroes_over_a_backing_file_survive_a_downgrade(tmp_path):
    base = tmp_path / "base"
    base.write_bytes(b"\x55" * (4 << 20))
    image = images(tmp_path, "-b", base, "-F", "raw")
    said = amend(tmp_path, image, "compat=0.10")
    assert said["varve"] == said["qemu"]
    ours = tmp_path / "varve"
    check(ours)
    assert content("qemu", ours, tmp_path) == content("qemu", image, tmp_path)


def test_snapshots_stay_when_the_version_falls_and_rises(tmp_path):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "4M")
    io("qemu", image, ["write -P 1 0 1M"])
    qemu("img", "snapshot", "-c", "one", image)
    io("qemu", image, ["write -P 2 512k 1M", "write -z 64k 64k"])
    expected = content("qemu", image, tmp_path)
    said = amend(tmp_path, image, "compat=0.10")
    assert said["varve"] == said["qemu"] and said["varve"][0] == 0
    ours = tmp_path / "varve"
    check(ours)
    assert content("qemu", ours, tmp_path) == expected
    forget_size_of_snapshot(ours)
    said = amend(tmp_path, shutil.copy(ours, tmp_path / "old"), "compat=1.1")
    assert said["varve"] == said["qemu"] and said["varve"][0] == 0
    check(ours)
    assert content("qemu", ours, tmp_path) == expected
    qemu("img", "snapshot", "-a", "one", ours)
    check(ours)
    io("qemu", ours, ["read -P 1 0 1M", "read -P 0 1M 3M"])


def forget_size_of_snapshot(image):
    """The one entry of the snapshot table loses its extra data."""
    data = bytearray(image.read_bytes())
    at, = struct.unpack(">Q", data[64:72])
    extra, = struct.unpack(">I", data[at + 36:at + 40])
    data[at + 36:at + 40] = bytes(4)
    tail = data[at + 40 + extra:at + 512]
    data[at + 40:at + 40 + len(tail)] = tail
    image.write_bytes(data)


@pytest.mark.parametrize("resize", ["8M", None])
def test_snapshots_that_version_2_cannot_have_prevent_a_downgrade(tmp_path,
                                                                  resize):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "4M")
    io("qemu", image, ["write -z 0 64k"])
    qemu("img", "snapshot", "-c", "one", image)
    if resize:
        qemu("img", "resize", "-q", image, resize)
    before = image.read_bytes()
    said = amend(tmp_path, image, "compat=0.10")
    assert said["varve"][0] == 1
    if resize:
        assert said["varve"] == said["qemu"]
    else:
        assert said["qemu"][0] == 0  # it fills them with data
        assert "whose snapshot 'one' has zero clusters" in said["varve"][2]
    assert (tmp_path / "varve").read_bytes() == before


def test_the_command_line_is_that_of_qemu(tmp_path):
    image = images(tmp_path)
    said = amend(tmp_path, image)
    assert said["varve"][0] == said["qemu"][0] == 1
    assert "Must specify options (-o)" in said["varve"][2]
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(512))
    for side in SIDES:
        r = SIDES[side]("img", "amend", "-f", "raw", "-o", "size=1M", raw,
                        ok=False)
        assert r.returncode == 1 and \
            "Format driver 'raw' does not support option amendment" in r.stderr

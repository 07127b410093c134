"""qcow2 images whose data are in a file of their own, beside QEMU."""
import os
import random
import struct

import pytest

from lib.daemon import Varved
from test_qcow2 import (MIB, SIDES, assert_content, check, info, io,
                        random_commands, varve)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Names of data files are relative to where the programs run."""
    monkeypatch.setitem(os.environ, "VARVE_BUILD",
                        os.path.abspath(os.environ.get("VARVE_BUILD",
                                                       "build/gcc")))
    monkeypatch.setattr("test_qcow2.BUILD", os.environ["VARVE_BUILD"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(side, image, options, size="4M", **kw):
    return SIDES[side]("img", "create", "-q", "-f", "qcow2", "-o", options,
                       image, size, **kw)


OPTIONS = ["data_file=data", "data_file=data,data_file_raw=on",
           "data_file=data,preallocation=metadata,cluster_size=4k",
           "data_file=data,preallocation=falloc",
           "data_file=data,preallocation=full",
           "data_file=data,extended_l2=on,data_file_raw=on"]


@pytest.mark.parametrize("options", OPTIONS)
def test_new_images_with_data_files_are_those_of_qemu(folder, options):
    files = []
    for side in SIDES:
        create(side, "image", options)
        files.append((open("image", "rb").read(), open("data", "rb").read(),
                      info("qemu", "image"), info("varve", "image")))
        check("image")
    assert files[0][1:] == files[1][1:]
    assert files[0][2] == files[0][3]
    if "falloc" in options or "full" in options:
        assert os.stat("data").st_blocks >= 4 * MIB // 512
    if "preallocation" not in options and "raw" not in options:
        assert files[0] == files[1]


@pytest.mark.parametrize("options", OPTIONS[:3] + OPTIONS[5:])
def test_both_sides_write_to_a_data_file_in_turn(folder, options):
    rng = random.Random(options)
    model = bytearray(4 * MIB)
    create("qemu", "image", options)
    for turn in range(6):
        io(["varve", "qemu"][turn % 2], "image",
           random_commands(rng, model, 25, 512) + ["discard 1M 128k"])
        model[MIB:MIB + 131072] = bytes(131072)
        check("image")
        if "raw" in options:
            assert open("data", "rb").read() == model
    assert_content("image", folder, model)


def test_a_resized_image_takes_its_data_file_along(folder):
    create("varve", "image", "data_file=data")
    io("varve", "image", ["write -P 5 1M 1M", "truncate 6M", "write 5M 512"])
    assert os.path.getsize("data") == 6 * MIB
    io("qemu", "image", ["read -P 5 1M 1M"])
    io("varve", "image", ["truncate 1536k", "read -P 5 1M 512k"])
    assert os.path.getsize("data") == 1536 * 1024
    check("image")
    assert info("varve", "image") == info("qemu", "image")


@pytest.mark.parametrize("options, size", [
    ("data_file=d,compat=0.10", "1M"), ("data_file_raw=on", "1M"),
    ("data_file=d,data_file_raw=on,backing_file=b,backing_fmt=raw", "1M")])
def test_impossible_data_files_are_refused_as_by_qemu(folder, options, size):
    open("b", "wb").write(bytes(MIB))
    said = [create(side, "image", options, size, ok=False) for side in SIDES]
    assert said[0].returncode == said[1].returncode == 1
    assert said[0].stderr.split(": ", 1)[1] == said[1].stderr.split(": ", 1)[1]


def test_compressed_writes_need_data_in_the_image(folder):
    create("varve", "image", "data_file=data")
    said = [SIDES[side]("io", "-f", "qcow2", "-c", "write -c 0 64k", "image",
                        ok=False).stdout for side in SIDES]
    assert said[0] == said[1] == "write failed: Operation not supported\n"


def test_map_names_the_data_file(folder):
    create("varve", "image", "data_file=data")
    io("varve", "image", ["write 1M 64k"])
    said = [SIDES[side]("img", "map", "image").stdout for side in SIDES]
    assert said[0] == said[1] and "data" in said[0].splitlines()[1]


@pytest.mark.parametrize("value", [1 << 63 | 0x20000, 1 << 62 | 0x20000])
def test_entries_that_point_elsewhere_are_found(folder, value):
    said = []
    for side in SIDES:
        create("qemu", "image", "data_file=data")
        io("qemu", "image", ["write 0 128k"])
        with open("image", "r+b") as f:
            f.seek(40)
            f.seek(struct.unpack(">Q", f.read(8))[0])
            f.seek(struct.unpack(">Q", f.read(8))[0] & ((1 << 56) - 512))
            f.write(struct.pack(">Q", value))
        r = SIDES[side]("io", "-f", "qcow2", "-c", "read 0 512", "image",
                        ok=False)
        said.append((r.returncode, r.stdout,
                     r.stderr.split("corrupt: ")[1].split(" (L2")[0].split(", L2")[0]
                     .split(" (guest")[0]))
    assert said[0] == said[1]


def test_a_data_file_given_by_name_or_node(folder):
    create("varve", "image", "data_file=data")
    os.rename("data", "moved")
    create("varve", "plain", "cluster_size=64k")
    with Varved(folder) as d:
        d.command("blockdev-add", **{
            "driver": "qcow2", "node-name": "q",
            "file": {"driver": "file", "filename": "image"},
            "data-file": {"driver": "file", "filename": "moved",
                          "node-name": "d"}})
        nodes = {n["node-name"]: n
                 for n in d.command("query-named-block-nodes", flat=True)}
        assert nodes["q"]["image"]["format-specific"]["data"]["data-file"] == \
            "data"
        assert nodes["q"]["file"] == "image" and nodes["d"]["drv"] == "file"

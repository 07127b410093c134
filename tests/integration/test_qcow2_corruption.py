"""Damage that a qcow2 driver comes across while it works, beside qemu-io: what
is refused, what is said, and whether the image is marked."""
import os
import re
import shutil
import struct

import pytest

from lib import same_conversation
from lib.conversation import Events
from test_qcow2 import BUILD, io, qemu, run
from test_qcow2_check import COPIED, OFFSET, Damage, u16, u64

TOOLS = {"varve": os.path.join(BUILD, "varve-io"), "qemu": "qemu-io"}
CORRUPT = 2


class Image(Damage):
    """With the tables of its first snapshot, and its bitmaps."""

    def __init__(self, path):
        super().__init__(path)
        self.snapshots = self.get(64)
        self.old_l1 = self.get(self.snapshots)
        self.old_l2 = self.get(self.old_l1) & OFFSET
        self.f.seek(0)
        header = self.f.read(4096)
        extension = header.find(struct.pack(">II", 0x23852875, 24))
        self.bitmaps = self.get(extension + 24)

    def refcount(self, offset):
        return self.rb + 2 * (offset >> 16)


def marked(path):
    return path.read_bytes()[79] & CORRUPT


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """2 GiB of four L2 tables, one in use; a snapshot, a bitmap."""
    image = tmp_path_factory.mktemp("base") / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "2G")
    io("qemu", image, ["write -P 1 0 1M", "write -P 1 40M 64k"])
    qemu("img", "snapshot", "-c", "s", image)
    io("qemu", image, ["write -P 2 0 1M", "write -P 2 40M 64k"])
    qemu("img", "bitmap", "--add", "-f", "qcow2", image, "b")
    return image


def both(base, path, damage, commands, options=""):
    """[status, output, errors, marked] of each."""
    said = {}
    for side, tool in TOOLS.items():
        image = path / "image"
        shutil.copy(base, image)
        with Image(image).f as f:
            for offset, value in damage(Image(image)):
                f.seek(offset)
                f.write(value)
        r = run(tool, "--image-opts", *[a for c in commands
                                        for a in ("-c", c)],
                f"driver=qcow2,discard=unmap,file.filename={image}{options}",
                ok=False)
        # Theirs has no medium from then on, which also hides the flush.
        out = r.stdout.replace("No medium found", "Input/output error")
        out = [line for line in out.splitlines()
               if "ops" not in line and not line.startswith("flush failed")]
        errors = r.stderr.replace("varve-io", "qemu-io")
        said[side] = [r.returncode, out, errors, marked(image)]
    return said


# Where a table is, and how the message calls it.
TABLES = {
    "l1": "active L1 table", "l2": "active L2 table", "rt": "refcount table",
    "rb": "refcount block", "snapshots": "snapshot table",
    "old_l1": "inactive L1 table", "old_l2": "inactive L2 table",
    "bitmaps": "bitmap directory"}
FLAGS = {
    "l1": "active-l1", "l2": "active-l2", "rt": "refcount-table",
    "rb": "refcount-block", "snapshots": "snapshot-table",
    "old_l1": "inactive-l1", "old_l2": "inactive-l2",
    "bitmaps": "bitmap-directory"}
MODES = ["", ",overlap-check=none", ",overlap-check=constant",
         ",overlap-check=cached", ",overlap-check=all"]


@pytest.mark.parametrize("table", TABLES)
def test_data_in_the_place_of_a_table_are_not_written(base, tmp_path, table):
    for mode in MODES + [
            f",overlap-check.template=none,overlap-check.{FLAGS[table]}=on",
            f",overlap-check.template=all,overlap-check.{FLAGS[table]}=off",
            f",overlap-check.{FLAGS[table]}=on"]:
        said = both(base, tmp_path,
                    lambda i: [(i.l2, u64(COPIED | getattr(i, table)))],
                    ["write -P 9 0 64k"], mode)
        if table == "bitmaps" and said["qemu"][0] == 0:
            # What became of the bitmaps is told by theirs alone.
            said["qemu"][2] = said["varve"][2]
        assert said["varve"] == said["qemu"], mode
        if mode == ",overlap-check=all":
            assert f"(overlaps with {TABLES[table]})" in said["varve"][2]


@pytest.mark.parametrize("command", [
    "write 4M 64k", "write 600M 64k", "write -c 4M 64k"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_counts_as_free_is_not_handed_out(base, tmp_path, table,
                                                       command):
    for mode in ["", ",overlap-check=all"]:
        said = both(base, tmp_path,
                    lambda i: [(i.refcount(getattr(i, table)), u16(0))],
                    [command, "flush"], mode)
        if (table, command) == ("l2", "write 600M 64k"):
            # Two L2 tables in one place are beyond what theirs can see.
            assert said["qemu"][0] == 0 and said["varve"][3] == CORRUPT
            continue
        assert said["varve"] == said["qemu"], mode


@pytest.mark.parametrize("command", [
    "write 4M 64k", "write 600M 64k", "write -c 4M 64k"])
def test_the_header_is_not_handed_out(base, tmp_path, command):
    said = both(base, tmp_path, lambda i: [(i.refcount(0), u16(0))],
                [command, "flush"])
    assert said["varve"] == said["qemu"]
    said = both(base, tmp_path, lambda i: [(i.refcount(0), u16(0))],
                [command, "flush"], ",overlap-check=none")
    assert said["varve"][0] == 1 and said["varve"][3] == CORRUPT


UNALIGNED = {
    "l2": lambda i: [(i.l1, u64(COPIED | i.l2 + 512))],
    "l2shared": lambda i: [(i.l1, u64(i.l2 + 512))],
    "block": lambda i: [(i.rt, u64(i.rb + 512))],
    "data": lambda i: [(i.l2, u64(COPIED | i.data + 512)),
                       (i.l2 + 640 * 8, u64(COPIED | i.data + 1024))],
    "datashared": lambda i: [(i.l2, u64(i.data + 512)),
                             (i.l2 + 640 * 8, u64(i.data + 1024))],
    "zero": lambda i: [(i.l2, u64(COPIED | i.data + 512 | 1)),
                       (i.l2 + 640 * 8, u64(COPIED | i.data + 1024 | 1))],
}
REQUESTS = ["read 0 64k", "write 0 64k", "write 4k 4k", "write 40M 4k",
            "read 40M 4k", "write -z 0 64k", "write -z -u 0 64k",
            "discard 0 64k"]


@pytest.mark.parametrize("name", UNALIGNED)
def test_entries_that_are_not_aligned(base, tmp_path, name):
    for request in REQUESTS:
        said = both(base, tmp_path, UNALIGNED[name], [request, "write 1M 4k"])
        for answer in said.values():
            answer[2] = answer[2].replace(
                "qcow2_free_clusters failed: Input/output error\n", "")
        assert said["varve"] == said["qemu"], request


def test_a_flag_that_is_too_new_for_the_image(base, tmp_path):
    def old(i):
        return [(4, struct.pack(">I", 2)), (i.l2, u64(COPIED | i.data | 1))]
    for request in ["read 0 64k", "write 0 64k"]:
        said = both(base, tmp_path, old, [request])
        assert said["varve"] == said["qemu"], request


def test_a_table_in_another_table_is_not_changed(base, tmp_path):
    for damage in [lambda i: [(i.l1, u64(COPIED | i.l1))],
                   lambda i: [(i.l1, u64(COPIED | i.rt))],
                   lambda i: [(i.rt, u64(i.l1))]]:
        said = both(base, tmp_path, damage, ["write 5M 64k", "flush"])
        assert said["varve"] == said["qemu"]


def test_an_entry_that_says_no_more_than_copied_is_nothing(base, tmp_path):
    """Theirs ends with an assertion there."""
    image = tmp_path / "image"
    shutil.copy(base, image)
    damage = Image(image)
    damage.put(damage.l1, u64(COPIED))
    damage.f.close()
    r = run(TOOLS["varve"], "-f", "qcow2", "-c", "read -P 0 0 64k", "-c",
            "write -P 1 0 64k", "-c", "read -P 1 0 64k", image)
    assert "failed" not in r.stdout + r.stderr and not marked(image)


def test_harm_follows_what_was_told_before(base, tmp_path):
    said = both(base, tmp_path,
                lambda i: [(i.l2, u64(COPIED | i.data + 512)),
                           (i.l2 + 8, u64(COPIED | i.rb))],
                ["discard 0 64k", "discard 0 64k", "write 64k 64k",
                 "write 64k 64k"])
    assert said["varve"] == said["qemu"]
    assert said["varve"][2].count("orrupt: ") == 2


def hmp(line):
    def step(daemon):
        daemon.command("human-monitor-command", command_line=f"qemu-io {line}")
    step.__name__ = line
    return step


def node(name, **more):
    return {"driver": "qcow2", "node-name": name, "discard": "unmap", **more,
            "file": {"driver": "file", "filename": "{dir}/" + name}}


def put(base, daemon, name, *damage):
    shutil.copy(base, daemon.path(name))
    image = Image(daemon.path(name))
    for place, value in damage:
        image.put(place(image), u64(COPIED | value(image)))
    image.f.close()


def test_a_monitor_is_told(base, system_pair):
    for daemon in system_pair:
        unaligned = (lambda i: i.l2, lambda i: i.data + 512)
        put(base, daemon, "bad", unaligned,
            (lambda i: i.l2 + 8, lambda i: i.rb))
        put(base, daemon, "only-read", unaligned)
    told = Events("BLOCK_IMAGE_CORRUPTED", settle=0.1)
    same_conversation(*system_pair, [
        ("blockdev-add", node("bad")),
        ("blockdev-add", node("only-read", **{"read-only": True})),
        hmp('bad "discard 0 64k"'), told,
        hmp('bad "write 68k 4k"'), told,
        hmp('bad "write 1M 4k"'), told,
        hmp('only-read "read 0 4k"'), hmp('only-read "read 0 4k"'), told])
    assert re.search("qcow2: Marking image as corrupt: Preventing",
                     system_pair[0].stderr())


@pytest.mark.parametrize("first, then", [
    ("none", "cached"), ("all", "none"), ("constant", "all"),
    ({"template": "none"}, {"template": "none", "inactive-l2": True})])
def test_the_option_changes_while_the_image_is_open(base, system_pair, first,
                                                    then):
    for daemon in system_pair:
        put(base, daemon, "n", (lambda i: i.l2, lambda i: i.old_l2),
            (lambda i: i.l2 + 8, lambda i: i.rb))
    told = Events("BLOCK_IMAGE_CORRUPTED", settle=0.1)
    option = "overlap-check"
    same_conversation(*system_pair, [
        ("blockdev-add", node("n", **{option: first})),
        ("blockdev-reopen", {"options": [node("n", **{option: then})]}),
        hmp('n "write 64k 4k"'), hmp('n "write 0 4k"'), told])

"""Lazy refcounts beside QEMU's: what they save, and what a crash leaves."""
import os

import pytest

from lib import writelog
from test_qcow2 import BUILD, qemu, run

TOOLS = {"varve": os.path.join(BUILD, "varve-io"), "qemu": "qemu-io"}
DIRTY = 1
WRITES = 20


def create(path, *options):
    qemu("img", "create", "-q", "-f", "qcow2",
         *[a for o in options for a in ("-o", o)], path, "64M")


def dirty(path):
    return path.read_bytes()[79] & DIRTY


def written(side, path, lazy, log):
    """[flushes, writes] of allocating writes that are flushed each."""
    create(path, f"lazy_refcounts={lazy}")
    log.write_bytes(b"")
    run(TOOLS[side], "--image-opts",
        *[a for i in range(WRITES)
          for a in ("-c", f"write -q -P 5 {i}M 64k", "-c", "flush")],
        f"driver=qcow2,file.driver=blklogwrites,file.file.driver=file,"
        f"file.file.filename={path},file.log.driver=file,"
        f"file.log.filename={log}")
    entries = writelog.read(log)
    return [sum(bool(e.flush) for e in entries),
            sum(bool(e.data) for e in entries)]


def test_they_save_a_flush_and_a_write_each(tmp_path):
    counts = {(side, lazy): written(side, tmp_path / "image", lazy,
                                    tmp_path / "log")
              for side in TOOLS for lazy in ("on", "off")}
    ours, ordinary = counts["varve", "on"], counts["varve", "off"]
    assert ours[0] <= WRITES + 4 and ordinary[0] >= 2 * WRITES, counts
    assert ours[1] <= ordinary[1] - WRITES + 4, counts
    for lazy in ("on", "off"):
        assert counts["varve", lazy] <= counts["qemu", lazy], counts
    qemu("img", "check", "-q", tmp_path / "image")


@pytest.mark.parametrize("image, option", [
    ("lazy_refcounts=on", ""), ("lazy_refcounts=off", ",lazy-refcounts=on"),
    ("lazy_refcounts=on", ",lazy-refcounts=off")])
def test_a_killed_program_leaves_what_opening_repairs(tmp_path, image, option):
    path, left = tmp_path / "image", {}
    for side, tool in TOOLS.items():
        create(path, image)
        options = f"driver=qcow2,file.filename={path}{option}"
        run(tool, "--image-opts", "-c", "read 0 64k", options)
        assert not dirty(path)
        run(tool, "--image-opts", "-c", "write -P 5 0 1M", "-c", "flush",
            "-c", "abort", options, ok=False)
        left[side] = dirty(path)
        for other in TOOLS.values():
            run(other, "-r", "-f", "qcow2", "-c", "read -P 5 0 1M", path)
            assert dirty(path) == left[side]
        # Each repairs what the other left.
        by = TOOLS["varve" if side == "qemu" else "qemu"]
        run(by, "-f", "qcow2", "-c", "read -P 5 0 1M", "-c", "write 2M 64k",
            path)
        assert not dirty(path)
        qemu("img", "check", "-q", path)
    assert left["varve"] == left["qemu"]


def test_a_reopen_makes_them_good(varved):
    path = varved.path("image")
    qemu("img", "create", "-q", "-f", "qcow2", path, "64M")

    def node(**more):
        return {"driver": "qcow2", "node-name": "n", **more,
                "file": {"driver": "file", "filename": path}}

    def bit():
        with open(path, "rb") as f:
            return f.read(80)[79] & DIRTY

    def write(at):
        varved.command("human-monitor-command",
                       command_line=f'qemu-io n "write {at} 64k"')

    varved.command("blockdev-add", **node(**{"lazy-refcounts": True}))
    write(0)
    assert bit()
    varved.command("blockdev-reopen", options=[node()])
    assert not bit()
    write("1M")
    assert not bit()
    varved.command("blockdev-reopen",
                   options=[node(**{"lazy-refcounts": True})])
    write("2M")
    assert bit()
    varved.command("blockdev-del", node_name="n")
    assert not bit()
    qemu("img", "check", "-q", path)

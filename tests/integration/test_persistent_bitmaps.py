"""Bitmaps that are stored in the image, beside the emulator: what one side
stores, the other loads."""
import os
import shutil

import pytest

from lib import (SystemOracle, Varved, images, same_conversation)
from lib.steps import bitmap
from lib.twin import run

MIB = 1 << 20
SIZE = 10 * MIB


def qcow2_node(name, **more):
    return ("blockdev-add", {
        "driver": "qcow2", "node-name": name,
        "file": {"driver": "file", "filename": "{dir}/d.qcow2"},
        **{k.replace("_", "-"): v for k, v in more.items()}})


OPEN = qcow2_node("d0")
CLOSE = ("blockdev-del", {"node-name": "d0"})


def write(offset, length, node="d0"):
    """By the monitor: the emulator prints what it did elsewhere."""
    def step(daemon):
        daemon.command("human-monitor-command", **{
            "command-line": f'qemu-io {node} "write {offset} {length}"'})
    step.__name__ = f"write {offset} {length}"
    return step


def sha256(name, node="d0"):
    return ("x-debug-block-dirty-bitmap-sha256", {"node": node, "name": name})


def bitmaps(daemon):
    """Of all nodes, in the order in which they are told."""
    return {n["node-name"]: n["dirty-bitmaps"]
            for n in daemon.command("query-named-block-nodes", flat=True)
            if n.get("dirty-bitmaps")}


def stored(daemon):
    """What the image says on disk now."""
    info = daemon.image_info("d.qcow2")["format-specific"]["data"]
    return info.get("bitmaps")


def prepare(daemon, *names, size=SIZE, options="cluster_size=64k"):
    path = daemon.path("d.qcow2")
    if os.path.exists(path):
        os.unlink(path)
    images.qemu_img("create", "-q", "-f", "qcow2", "-o", options, path, size)
    for name in names:
        images.qemu_img("bitmap", "--add", path, name)


def same(pair, steps, *names, **kw):
    for daemon in pair:
        prepare(daemon, *names, **kw)
    same_conversation(*pair, steps)
    for daemon in pair:
        images.check(daemon.path("d.qcow2"))


def add(name="b", **more):
    return bitmap("add", name=name, persistent=True, **more)


def test_life_of_a_persistent_bitmap(system_pair):
    same(system_pair, [
        OPEN, add(), add("fine", granularity=512), add("off", disabled=True),
        bitmap("add", name="volatile"), bitmaps, stored, write("1M", "100k"),
        bitmaps, CLOSE, stored, OPEN, bitmaps, stored, sha256("b"),
        sha256("fine"), sha256("off"), bitmap("enable", name="off"),
        bitmap("disable"), write("5M", "1k"), bitmap("clear", name="fine"),
        write("9M", "1M"), CLOSE, stored, OPEN, bitmaps, sha256("b"),
        sha256("fine"), sha256("off"), bitmap("remove"), stored, bitmaps,
        bitmap("remove"), CLOSE, stored, OPEN, bitmap("remove", name="fine"),
        bitmap("remove", name="off"), stored, CLOSE, stored])


def test_what_cannot_be_stored(system_pair):
    for daemon in system_pair:
        images.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10",
                        daemon.path("v2"), "1M")
        images.qemu_img("create", "-q", "-f", "raw", daemon.path("raw"), "1M")
    same(system_pair, [
        ("blockdev-add", {"driver": "qcow2", "node-name": "v2", "file": {
            "driver": "file", "filename": "{dir}/v2"}}),
        ("blockdev-add", {"driver": "raw", "node-name": "raw", "file": {
            "driver": "file", "filename": "{dir}/raw", "node-name": "rf"}}),
        OPEN, add(node="v2"), add(node="raw"), add(node="rf"),
        add("x" * 1024), add("x" * 1023), add(""), add(granularity=3),
        add(granularity=0), add(), add(), bitmap("add"), bitmaps, CLOSE, stored])


def test_a_read_only_node(system_pair):
    same(system_pair, [
        qcow2_node("d0", read_only=True), bitmaps, bitmap("clear"),
        bitmap("remove"), bitmap("disable"), bitmap("enable"),
        bitmap("add", name="n"),
        ("block-dirty-bitmap-merge", {"node": "d0", "target": "n",
                                      "bitmaps": ["b"]}),
        ("block-dirty-bitmap-merge", {"node": "d0", "target": "b",
                                      "bitmaps": ["n"]}),
        bitmaps, stored, CLOSE, stored], "b")


def test_resizing(system_pair):
    def resize(size):
        return ("block_resize", {"node-name": "d0", "size": size})
    same(system_pair, [
        OPEN, add("fine", granularity=512), write("9M", "64k"),
        resize(20 * MIB), bitmaps, write("19M", "64k"), sha256("b"), CLOSE,
        OPEN, bitmaps, sha256("b"), sha256("fine"), resize(3 * MIB), bitmaps,
        CLOSE, OPEN, bitmaps, sha256("b"), sha256("fine"), CLOSE], "b")


def transaction(*actions):
    return ("transaction", {"actions": [
        {"type": f"block-dirty-bitmap-{verb}" if verb != "abort" else verb,
         "data": {} if verb == "abort" else {"node": "d0", **data}}
        for verb, data in actions]})


def test_transactions_undo_all(system_pair):
    actions = [("add", {"name": "new", "persistent": True}),
               ("clear", {"name": "b"}), ("disable", {"name": "b"}),
               ("merge", {"target": "new", "bitmaps": ["c"]}),
               ("remove", {"name": "c"})]
    same(system_pair, [
        OPEN, write("1M", "64k"),
        transaction(*actions, ("abort", {})), bitmaps, CLOSE,
        # The order of those that went and came back is nobody's business.
        lambda d: sorted(b["name"] for b in stored(d)), OPEN, sha256("b"),
        sha256("c"), transaction(*actions), bitmaps, CLOSE, stored, OPEN,
        sha256("b"), sha256("new"), CLOSE], "b", "c")


def test_after_a_kill_bitmaps_are_inconsistent(start):
    for kind in (Varved, SystemOracle):
        victim = start(kind)
        prepare(victim, "b", "c")
        victim.command("blockdev-add", **OPEN_ARGS(victim))
        victim.command(*add("unsaved")[:1], **add("unsaved")[1])
        write("1M", "64k")(victim)
        victim.kill()
        pair = start(Varved), start(SystemOracle)
        for daemon in pair:
            shutil.copy(victim.path("d.qcow2"), daemon.path("d.qcow2"))
        same_conversation(*pair, [
            OPEN, bitmaps, stored, bitmap("clear"), bitmap("enable"),
            bitmap("disable"), add(), ("block-dirty-bitmap-merge", {
                "node": "d0", "target": "c", "bitmaps": ["b"]}),
            ("block_resize", {"node-name": "d0", "size": 20 * MIB}),
            bitmap("remove"), bitmaps, stored, add(), write("2M", "64k"),
            CLOSE, stored, OPEN, bitmaps, sha256("b"), CLOSE])


def OPEN_ARGS(daemon):
    args = dict(OPEN[1])
    args["file"] = {"driver": "file", "filename": daemon.path("d.qcow2")}
    return args


@pytest.mark.parametrize("options", ["cluster_size=512", "cluster_size=64k",
                                     "cluster_size=2M,refcount_bits=64"])
def test_each_side_loads_what_the_other_stored(start, options, rng):
    sides = [start(Varved), start(SystemOracle)]
    prepare(sides[0], "b", size=64 * MIB, options=options)
    digests = {}
    for turn in range(6):
        daemon, other = sides[turn % 2], sides[(turn + 1) % 2]
        daemon.command("blockdev-add", **OPEN_ARGS(daemon))
        if turn < 4:
            name, args = add(f"n{turn}", granularity=rng.choice(
                [512, 4096, 65536, MIB]))
            daemon.command(name, **args)
        for name, digest in digests.items():
            assert daemon.command(*sha256(name)[:1],
                                  **sha256(name)[1])["sha256"] == digest
        for _ in range(10):
            write(rng.randrange(63 * MIB), rng.randrange(1, MIB))(daemon)
        digests = {b["name"]: daemon.command(
            *sha256(b["name"])[:1], **sha256(b["name"])[1])["sha256"]
            for b in bitmaps(daemon)["d0"]}
        daemon.command(CLOSE[0], **CLOSE[1])
        images.check(daemon.path("d.qcow2"))
        run("varve-img", daemon.directory, "check", "d.qcow2", check=0)
        shutil.move(daemon.path("d.qcow2"), other.path("d.qcow2"))


@pytest.fixture
def rng(seed):
    import random
    return random.Random(seed)


@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_the_end_of_the_daemon_stores_bitmaps(start, end):
    daemon = start(Varved)
    prepare(daemon)
    daemon.command("blockdev-add", **OPEN_ARGS(daemon))
    daemon.command(add()[0], **add()[1])
    write("1M", "64k")(daemon)
    getattr(daemon, end)()
    assert stored(daemon) == [{"name": "b", "granularity": 65536,
                               "flags": ["auto"]}]
    restart(daemon)
    daemon.command("blockdev-add", **OPEN_ARGS(daemon))
    assert bitmaps(daemon)["d0"][0]["count"] == 65536


def restart(daemon):
    """After its end."""
    daemon.qmp = None
    daemon.start()


def backup(daemon, target, sync, **more):
    args = ["create", "-q", "-f", "qcow2"]
    if "backing" in more:
        args += ["-b", daemon.path(more.pop("backing")), "-F", "qcow2"]
    images.qemu_img(*args, daemon.path(target), SIZE)
    daemon.command("blockdev-add", driver="qcow2", **{
        "node-name": "target",
        "file": {"driver": "file", "filename": daemon.path(target)}})
    daemon.command("blockdev-backup", device="d0", target="target", sync=sync,
                   **{"job-id": "j", **more})
    done = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="j")
    daemon.command("blockdev-del", **{"node-name": "target"})
    return done["data"].get("error")


def test_an_incremental_chain_across_restarts(start, rng):
    """Each time by a new daemon; once the job fails, which loses nothing."""
    daemon = start(Varved)
    prepare(daemon)
    previous = None
    for n in range(5):
        daemon.command("blockdev-add", **OPEN_ARGS(daemon))
        for _ in range(5):
            write(rng.randrange(SIZE - MIB), rng.randrange(1, MIB))(daemon)
        if n == 0:
            daemon.command(add()[0], **add()[1])
            assert backup(daemon, "t0", "full") is None
        else:
            assert backup(daemon, f"t{n}", "incremental", bitmap="b",
                          backing=previous) is None
        previous = f"t{n}"
        images.freeze(daemon.path("d.qcow2"), daemon.path(f"raw{n}"))
        daemon.stop()
        images.assert_equal(daemon.path(f"raw{n}"), daemon.path(previous))
        restart(daemon)


def test_a_damaged_directory_entry_does_not_keep_the_image_shut(varved):
    """QEMU does not open such an image. varve does, for writing as well."""
    from test_varve_img_bitmap import patch
    from pathlib import Path
    prepare(varved, "bad", "good")
    path = Path(varved.path("d.qcow2"))
    patch(path, 8, b"\0\0\0\0")
    images.qemu_img("info", path, ok=(1,))
    varved.command("blockdev-add", **OPEN_ARGS(varved))
    listed = bitmaps(varved)["d0"]
    assert [(b["name"], b.get("inconsistent"), b["recording"]) for b in listed] \
        == [("good", None, True), ("bad", True, False)]
    write("1M", "64k")(varved)
    answer = varved.call("block-dirty-bitmap-clear", node="d0", name="bad")
    assert "is inconsistent" in answer["error"]["desc"]
    varved.command("block-dirty-bitmap-remove", node="d0", name="bad")
    varved.command(CLOSE[0], **CLOSE[1])
    images.check(path, leaks_allowed=True)
    assert stored(varved) == [{"name": "good", "granularity": 65536,
                               "flags": ["auto"]}]

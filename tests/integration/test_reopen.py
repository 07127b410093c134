"""blockdev-reopen beside QEMU's."""
import pytest

from lib import Oracle, Varved, images, same_conversation
from lib.steps import bitmap
from test_persistent_bitmaps import add, bitmaps, sha256, stored, write

MIB = 1 << 20


def reopen(*options):
    return ("blockdev-reopen", {"options": list(options)})


def node(name, driver="qcow2", **more):
    return {"driver": driver, "node-name": name,
            **{k.replace("_", "-"): v for k, v in more.items()}}


def file(name, filename, **more):
    return node(name, "file", filename="{dir}/" + filename, **more)


def settings(daemon):
    """Of all nodes, by name."""
    return {n["node-name"]: [n["ro"], n["cache"], n["detect_zeroes"],
                             n["backing_file_depth"],
                             n["drv"] != "file" and n["image"]["virtual-size"]]
            for n in daemon.command("query-named-block-nodes")}


@pytest.fixture
def chain(pair):
    """Both with a: top.qcow2 in af, on b: base.qcow2 in bf; r: a window of
    r.raw."""
    for daemon in pair:
        images.create(daemon.path("base.qcow2"), "10M")
        images.create(daemon.path("top.qcow2"),
                      backing=daemon.path("base.qcow2"))
        images.qemu_img("create", "-q", "-f", "raw", daemon.path("r.raw"),
                        "10M")
    return [*pair, [
        ("blockdev-add", file("bf", "base.qcow2")),
        ("blockdev-add", node("b", file="bf", read_only=True)),
        ("blockdev-add", file("af", "top.qcow2")),
        ("blockdev-add", node("a", file="af", backing="b")),
        ("blockdev-add", node("r", "raw", size=MIB, offset=MIB, file=file(
            "rf", "r.raw")))]]


def conversation(chain, steps):
    """The settings of all nodes are compared after each step."""
    ours, theirs, begin = chain
    same_conversation(ours, theirs, begin + [
        s for step in steps for s in (step, settings)])


A = node("a", file="af", backing="b")
R = node("r", "raw", file="rf")


def test_reading_and_writing(chain):
    af, af_ro = file("af", "top.qcow2"), file("af", "top.qcow2", read_only=True)
    conversation(chain, [
        reopen({**A, "read-only": True}), reopen(af_ro), reopen(A),
        reopen(A, af), reopen(af_ro),
        reopen({**A, "read-only": True}, af_ro), reopen(af, A),
        reopen(node("b", file="bf")), reopen(node("b", file="bf"), A),
        reopen(node("b", file="bf", read_only=True))])


def test_options_of_drivers(chain):
    af = file("af", "top.qcow2")
    conversation(chain, [
        reopen({**af, "cache": {"direct": True}}),
        reopen({**af, "cache": {"direct": True}, "aio": "native"}),
        reopen({**af, "cache": {"no-flush": True}}), reopen(af),
        reopen({**af, "filename": "{dir}/r.raw"}),
        reopen({**af, "locking": "off"}), reopen({**af, "pr-manager": "x"}),
        reopen({**A, "lazy-refcounts": True, "l2-cache-size": MIB,
                "discard": "unmap", "detect-zeroes": "unmap",
                "cache": {"no-flush": True}}),
        reopen({**A, "overlap-check": "all", "cache-clean-interval": 7,
                "pass-discard-request": True}),
        reopen({**A, "overlap-check": {"template": "none"}}), reopen(A),
        reopen({**A, "l2-cache-entry-size": 100}),
        reopen({**A, "l2-cache-entry-size": 512, "cache-size": 8192}),
        reopen({**A, "force-share": True}),
        reopen(R), reopen({**R, "size": 2 * MIB, "offset": 4096}),
        reopen({**R, "size": 100}), reopen({**R, "size": 1 << 31}),
        reopen({**R, "offset": 1 << 31}), reopen({**R, "offset": 512}),
        reopen({**A, "driver": "raw"}),
        ("blockdev-add", node("n", "null-co", size=MIB)),
        reopen(node("n", "null-co", size=MIB, read_only=True)),
        reopen(node("n", "null-co", size=2 * MIB)), reopen(node("n", "null-co")),
        reopen(node("n", "null-co", size=MIB, latency_ns=5)),
        reopen(node("n", "null-co", size=MIB)),
        ("blockdev-add", node("d", "blkdebug", image="n")),
        reopen(node("d", "blkdebug", image="n", read_only=True)),
        reopen(node("d", "blkdebug", image="n", align=4096)),
        reopen(node("d", "blkdebug", image="b")),
        reopen(node("d", "blkdebug", image="n"))])


def test_children(chain):
    conversation(chain, [
        reopen({**A, "backing": None}), reopen(A), reopen({**A, "backing": "a"}),
        reopen({**A, "file": "a"}), reopen({**A, "file": "bf"}),
        reopen({**A, "file": "nosuch"}), reopen({**A, "backing": "nosuch"}),
        reopen({**A, "backing": node("b2", file="bf")}),
        reopen(node("b", file="bf", backing="a", read_only=True)),
        reopen(node("a", file="af")), reopen(node("a")),
        reopen({**A, "file": file("af", "top.qcow2")}),
        reopen({**R, "file": "bf"}),
        reopen({**R, "file": "rf"})])


def test_a_child_by_another_name_than_file(start):
    """May be named, but not be another."""
    daemons = [start(kind) for kind in (Varved, Oracle)]
    for d in daemons:
        with open(d.path("r.raw"), "wb") as f:
            f.truncate(1 << 20)
    image = {"driver": "file", "filename": "r.raw", "node-name": "f"}

    def reopen(**more):
        return ("blockdev-reopen", {"options": [
            {"driver": "blkdebug", "node-name": "n", "align": 512, **more}]})
    same_conversation(*daemons, [
        ("blockdev-add", {"driver": "blkdebug", "node-name": "n", "align": 512,
                          "image": image}),
        ("blockdev-add", {"driver": "null-co", "node-name": "other"}),
        reopen(image="f"), reopen(image=image, **{"read-only": True}),
        reopen(image="other"), reopen(image={**image, "filename": "x"}),
        reopen(image="f", align=1024),
        ("query-named-block-nodes", {"flat": True})], ignore={"actual-size"})


def test_all_or_nothing(chain):
    ours, *_ = chain
    conversation(chain, [
        reopen({**A, "read-only": True}, {**R, "size": 100}),
        reopen(R, {**A, "backing": "nosuch"}),
        reopen({**A, "read-only": True, "backing": None},
               file("af", "top.qcow2", read_only=True),
               node("b", file="bf", backing="nosuch")),
        reopen(R, R), reopen(R, node("zz", file="af")),
        reopen({"driver": "qcow2", "file": "af"}),
        reopen({**A, "read-only": True}, R)])
    # QEMU's daemon dies of this one.
    assert ours.call(*reopen(*[])) == {"return": {}}


def test_a_child_that_was_opened_along_follows(varved):
    """QEMU follows only on the way to read-only."""
    images.create(varved.path("d.qcow2"), "10M")
    inner = {"driver": "file", "filename": varved.path("d.qcow2"),
             "node-name": "f"}
    d0 = {"driver": "qcow2", "node-name": "d0"}
    varved.command("blockdev-add", **d0, file=inner)
    for read_only in (True, False, True, False):
        varved.command("blockdev-reopen", options=[
            {**d0, "file": "f", "read-only": read_only}])
        assert {n: s[0] for n, s in settings(varved).items()} == \
            {"d0": read_only, "f": read_only}
        varved.command("blockdev-reopen", options=[
            {**d0, "file": inner, "read-only": not read_only}])
        assert settings(varved)["f"][0] != read_only
    answer = varved.call("blockdev-reopen", options=[
        {**d0, "file": {**inner, "filename": "other"}}])
    assert answer["error"]["desc"] == "Cannot change the option 'filename'"


# ---- bitmaps ----

INLINE = {"driver": "qcow2", "node-name": "d0",
          "file": {"driver": "file", "filename": "{dir}/d.qcow2"}}
READ_ONLY = reopen({**INLINE, "read-only": True})
READ_WRITE = reopen(INLINE)


def test_bitmaps_are_stored_and_go_on(system_pair):
    for daemon in system_pair:
        images.create(daemon.path("d.qcow2"), "10M")
    same_conversation(*system_pair, [
        ("blockdev-add", INLINE), add(), add("off", disabled=True),
        bitmap("add", name="volatile"), write("1M", "64k"), READ_ONLY, bitmaps,
        stored, bitmap("clear"), bitmap("remove"), READ_ONLY, READ_WRITE,
        bitmaps, stored, write("3M", "64k"), bitmap("clear", name="off"),
        READ_ONLY, stored, sha256("b"), READ_WRITE, bitmap("remove", name="off"),
        ("blockdev-del", {"node-name": "d0"}), stored, ("blockdev-add", INLINE),
        bitmaps, sha256("b"), ("blockdev-del", {"node-name": "d0"})])
    for daemon in system_pair:
        images.check(daemon.path("d.qcow2"))


def test_bitmaps_are_in_use_again_when_a_reopen_fails(varved):
    images.create(varved.path("d.qcow2"), "10M")
    inline = {**INLINE, "file": {"driver": "file",
                                 "filename": varved.path("d.qcow2")}}
    varved.command("blockdev-add", **inline)
    varved.command("blockdev-add", driver="raw", file={
        "driver": "null-co", "size": MIB, "node-name": "n"}, **{
            "node-name": "r"})
    varved.command(add()[0], **add()[1])
    answer = varved.call("blockdev-reopen", options=[
        {**inline, "read-only": True},
        {"driver": "raw", "node-name": "r", "file": "n", "size": 100}])
    assert "multiple of 512" in answer["error"]["desc"]
    assert stored(varved)[0]["flags"] == ["in-use", "auto"]
    write("1M", "64k")(varved)
    varved.command("blockdev-del", **{"node-name": "d0"})
    assert stored(varved)[0]["flags"] == ["auto"]
    images.check(varved.path("d.qcow2"))


def test_a_busy_bitmap_is_not_stored(start):
    daemon = start(Varved)
    for name in ("d.qcow2", "t.qcow2"):
        images.create(daemon.path(name), "10M")
    inline = {**INLINE, "file": {"driver": "file",
                                 "filename": daemon.path("d.qcow2")}}
    daemon.command("blockdev-add", **inline)
    daemon.command("blockdev-add", driver="qcow2", file={
        "driver": "file", "filename": daemon.path("t.qcow2")}, **{
            "node-name": "t"})
    daemon.command(add()[0], **add()[1])
    write("1M", "1M")(daemon)
    daemon.command("blockdev-backup", device="d0", target="t", bitmap="b",
                   sync="incremental", speed=1, **{"job-id": "j"})
    answer = daemon.call("blockdev-reopen", options=[
        {**inline, "read-only": True}])
    assert "b" in answer["error"]["desc"]
    assert settings(daemon)["d0"][0] is False
    daemon.command("block-job-cancel", device="j", force=True)
    daemon.qmp.wait_event("BLOCK_JOB_CANCELLED", device="j")
    daemon.command("blockdev-reopen", options=[{**inline, "read-only": True}])
    assert [b["count"] for b in bitmaps(daemon)["d0"]] == [MIB]

"""Commands on dirty bitmaps, compared with qemu-storage-daemon's."""
import subprocess

from lib import Events, same_conversation

MIB = 1 << 20


def bitmap(verb, **arguments):
    return (f"block-dirty-bitmap-{verb}", arguments)


def merge(node, target, *sources):
    return bitmap("merge", node=node, target=target, bitmaps=list(sources))


def null_node(name, size=MIB, **more):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": size, **more})


def bitmaps(daemon):
    """The named bitmaps of all nodes, in an order of our own."""
    return {n["node-name"]: sorted((b for b in n["dirty-bitmaps"]
                                    if "name" in b), key=lambda b: b["name"])
            for n in daemon.command("query-named-block-nodes", flat=True)
            if n.get("dirty-bitmaps") and n["drv"] != "copy-before-write"}


SET_UP = [null_node("n0"), null_node("n1"), null_node("n2", 2 * MIB),
          null_node("nr", **{"read-only": True})]


def test_add(pair):
    def add(**arguments):
        return bitmap("add", **arguments)
    same_conversation(*pair, SET_UP + [
        add(node="n0", name="b0"), add(node="n0", name="b0"), bitmaps,
        add(node="nosuch", name="b"), add(node="", name="b"),
        add(node="n0", name=""), add(node="n0"), add(name="b"),
        add(node="n0", name=5), add(node="n0", name="b", x=1),
        add(node="n0", name="x" * 1023), add(node="n0", name="x" * 1024),
        *[add(node="n0", name="g", granularity=g) for g in
          (0, 1, 256, 511, 513, 3 * MIB, 1 << 32, -512, "512", 1.5)],
        add(node="n0", name="fine", granularity=512),
        add(node="n0", name="coarse", granularity=1 << 31), bitmaps,
        add(node="n0", name="p", persistent=True),
        add(node="nr", name="p", persistent=True),
        add(node="n0", name="p", persistent=True, disabled=True),
        add(node="n0", name="", persistent=True),
        add(node="nr", name="on read-only"),
        add(node="n0", name="off", disabled=True),
        add(node="n1", name="b0", persistent=False, disabled=False), bitmaps,
    ])


def test_remove_clear_enable_disable(pair):
    verbs = ("remove", "clear", "enable", "disable")
    same_conversation(*pair, SET_UP + [
        bitmap("add", node="n0", name="b0"),
        *[bitmap(v, node="n0", name="nope") for v in verbs],
        *[bitmap(v, node="nope", name="b0") for v in verbs],
        *[bitmap(v, node="n1", name="b0") for v in verbs],
        *[bitmap(v, node="n0", name="") for v in verbs],
        *[bitmap(v, node="n0") for v in verbs],
        bitmap("enable", node="n0", name="b0"), bitmaps,
        bitmap("disable", node="n0", name="b0"), bitmaps,
        bitmap("disable", node="n0", name="b0"), bitmaps,
        bitmap("clear", node="n0", name="b0"), bitmaps,
        bitmap("enable", node="n0", name="b0"), bitmaps,
        bitmap("remove", node="n0", name="b0"), bitmaps,
        bitmap("remove", node="n0", name="b0"),
        bitmap("add", node="n0", name="b0"), bitmaps,
    ])


def test_merge(pair):
    same_conversation(*pair, SET_UP + [
        bitmap("add", node="n0", name="b0"),
        bitmap("add", node="n0", name="fine", granularity=512, disabled=True),
        bitmap("add", node="n1", name="c0"),
        bitmap("add", node="n2", name="c0"),
        merge("n0", "b0", "fine"), merge("n0", "b0", "b0"),
        merge("n0", "b0", {"node": "n1", "name": "c0"}),
        merge("n0", "b0", {"node": "n2", "name": "c0"}),
        merge("n0", "b0", "fine", {"node": "n2", "name": "c0"}),
        merge("n0", "nope", "b0"), merge("nope", "b0", "b0"),
        merge("n0", "b0", "nope"), merge("n0", "b0", "fine", "nope"),
        merge("n0", "b0", {"node": "nope", "name": "c0"}),
        merge("n0", "b0", {"node": "n1", "name": "nope"}),
        merge("n0", "b0", {"node": "n1"}),
        merge("n0", "b0", {"node": "n1", "name": "c0", "x": 1}),
        bitmap("merge", node="n0", target="b0", bitmaps="fine"),
        bitmap("merge", node="n0", target="b0"),
        merge("n0", "b0", "fine", {"node": "n1", "name": "c0"}, "fine"),
        bitmaps,
    ])


def test_merge_of_nothing_changes_nothing(varved):
    """QEMU 7.2 dies of it."""
    varved.command(*null_node("n0"))
    varved.command(*bitmap("add", node="n0", name="b0"))
    assert varved.command(*merge("n0", "b0")) == {}


def test_sha256(pair):
    def sha256(node, name):
        return ("x-debug-block-dirty-bitmap-sha256",
                {"node": node, "name": name})
    same_conversation(*pair, SET_UP + [
        bitmap("add", node="n0", name="b0"),
        bitmap("add", node="n0", name="fine", granularity=512),
        bitmap("add", node="n2", name="b0", granularity=4096),
        sha256("n0", "b0"), sha256("n0", "fine"), sha256("n2", "b0"),
        sha256("n0", "nope"), sha256("nope", "b0"),
    ])


def qcow2(daemon):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o",
                    "cluster_size=4k", daemon.path("a.qcow2"), "64M"],
                   check=True)


def test_default_granularity_is_the_cluster_size(pair):
    same_conversation(*pair, [
        qcow2,
        ("blockdev-add", {"driver": "qcow2", "node-name": "q", "file": {
            "driver": "file", "filename": "{dir}/a.qcow2",
            "node-name": "f"}}),
        bitmap("add", node="q", name="b"), bitmaps,
        ("block_resize", {"node-name": "q", "size": 128 * MIB}), bitmaps,
        ("block_resize", {"node-name": "q", "size": 4 * MIB}), bitmaps,
        bitmap("add", node="f", name="b"),
        lambda d: bitmaps(d)["f"][0]["granularity"],
    ])


def test_a_busy_bitmap_refuses_by_name(pair):
    """While a job uses it, and after the job it is as before. Of all reasons
    against a second job the bitmap is the first."""
    def second(sync, name, mode="on-success", target="t0"):
        return ("blockdev-backup", {
            "job-id": "k", "device": "n0", "target": target, "sync": sync,
            "bitmap": name, "bitmap-mode": mode})
    same_conversation(*pair, SET_UP + [
        null_node("t0"),
        bitmap("add", node="n0", name="b0"),
        bitmap("add", node="n0", name="b1"),
        ("blockdev-backup", {"job-id": "j", "device": "n0", "target": "t0",
                             "sync": "incremental", "bitmap": "b0",
                             "auto-finalize": False}),
        lambda d: d.qmp.wait_job("j", "pending")["data"],
        *[bitmap(v, node="n0", name="b0") for v in
          ("remove", "clear", "enable", "disable")],
        merge("n0", "b0", "b1"), merge("n0", "b1", "b0"),
        lambda d: [b for b in bitmaps(d)["n0"] if b["name"] == "b0"],
        second("incremental", "b0"), second("bitmap", "b0", "never"),
        second("full", "b0", "never"), second("full", "b1", "never"),
        second("none", "b1", "always"), second("bitmap", "b1", "always"),
        second("bitmap", "b0", "always", target="n0"),
        second("bitmap", "b1", "always", target="n0"),
        ("job-finalize", {"id": "j"}),
        lambda d: d.qmp.wait_job("j", "null")["data"],
        Events("BLOCK_JOB_COMPLETED"),
        bitmaps, bitmap("remove", node="n0", name="b0"), bitmaps,
    ], ignore=("current-progress",))

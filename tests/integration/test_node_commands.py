"""Commands that make, resize, remove and query nodes, compared with QEMU's."""
import os
import re
import subprocess

import pytest

from lib import Events, Oracle, Varved, guest, same_conversation
from lib.guest import attach_guest, device_args
from lib.steps import until

MIB = 1 << 20
# What no two programs have in common.
BY_NATURE = ("actual-size", "x-engine")


def image(name, size="64M", *options):
    def create(daemon):
        path = daemon.path(name)
        fmt = name.rsplit(".", 1)[1]
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, *options, path,
                        size], check=True, cwd=daemon.directory)
    create.__name__ = f"create {name}"
    return create


def add(driver, name, **options):
    return ("blockdev-add", {"driver": driver, "node-name": name,
                             **{k.replace("_", "-"): v
                                for k, v in options.items()}})


def file_node(filename, **more):
    return {"driver": "file", "filename": "{dir}/" + filename, **more}


def delete(name):
    return ("blockdev-del", {"node-name": name})


def resize(size, **where):
    return ("block_resize", {"size": size, **{k.replace("_", "-"): v
                                              for k, v in where.items()}})


def nodes(daemon):
    """All nodes in an order of our own."""
    return sorted(daemon.command("query-named-block-nodes"),
                  key=lambda n: n["node-name"])


def flat_nodes(daemon):
    return sorted(daemon.command("query-named-block-nodes", flat=True),
                  key=lambda n: n["node-name"])


def test_add_and_delete(pair):
    same_conversation(*pair, [
        image("a.qcow2"),
        add("null-co", "n0", size=MIB), add("null-co", "n0", size=MIB),
        ("blockdev-add", {"driver": "null-co"}),
        add("null-co", "0n"), add("null-co", ""), add("null-co", "#n"),
        add("null-co", "a" * 31), add("null-co", "a" * 32),
        add("null-co", "n\u00e4"), add("null-co", "n 0"),
        add("nosuch", "x"), ("blockdev-add", {"node-name": "x"}),
        ("blockdev-add", {}),
        add("null-co", "n1", foo=1), add("null-co", "n1", size="1M"),
        add("qcow2", "q"), add("qcow2", "q", file="nosuch"),
        add("qcow2", "q", file=file_node("nosuch")),
        add("qcow2", "q", file={"driver": "file"}),
        add("qcow2", "q", file={"driver": "file", "filename": 5}),
        add("raw", "r", file="n0"), add("raw", "r2", file="n0"),
        delete("n0"), delete("nosuch"), delete(""), ("blockdev-del", {}),
        add("qcow2", "q", file=file_node("a.qcow2", **{"node-name": "qf"})),
        delete("qf"), delete("r"), delete("r2"), delete("n0"), delete("q"),
        delete("a" * 31), "query-named-block-nodes",
        add("qcow2", "q", file=file_node("a.qcow2", **{"node-name": "qf"})),
        nodes,
    ], ignore=BY_NATURE)


def test_a_failed_add_leaves_nothing(pair):
    same_conversation(*pair, [
        image("a.qcow2"), add("null-co", "n0"),
        add("qcow2", "q", file=file_node("a.qcow2", **{"node-name": "n0"})),
        lambda d: [n["node-name"] for n in nodes(d)],
        lambda d: os.listdir(d.directory).count("a.qcow2"),
    ])


def test_resize(pair):
    same_conversation(*pair, [
        image("a.qcow2"), image("a.raw", "1M"),
        add("null-co", "n", size=MIB), add("raw", "rn", file="n"),
        add("raw", "r", file=file_node("a.raw")),
        add("qcow2", "q", file=file_node("a.qcow2")),
        resize(128 * MIB, node_name="q"), resize(-1, node_name="q"),
        resize(1, node_name="nosuch"), resize(1, device="nosuch"), resize(1),
        resize(1, device="q", node_name="q"), resize(1000, node_name="q"),
        resize(MIB, node_name="n"), resize(MIB, node_name="rn"),
        resize(2 * MIB, node_name="r"), resize(MIB, node_name="q"),
        resize(512, node_name="r"), ("block_resize", {"node-name": "q"}),
        lambda d: [n["image"]["virtual-size"] for n in nodes(d)
                   if not n["node-name"].startswith("#")],
    ])


def test_a_backing_node_keeps_its_length(pair):
    """Whether it is written or not. (QEMU names no device but one that it was
    asked for.)"""
    def refused(name):
        def step(daemon):
            error = daemon.call(*resize(128 * MIB, node_name=name))["error"]
            return error["class"], error["desc"].split("'")[::2]
        return step
    same_conversation(*pair, [
        image("base.qcow2"), image("a.raw", "1M"),
        image("top.qcow2", "64M", "-b", "base.qcow2", "-F", "qcow2"),
        add("qcow2", "base", file=file_node("base.qcow2")),
        resize(65 * MIB, node_name="base"),
        add("qcow2", "top", file=file_node("top.qcow2"), backing="base"),
        refused("base"), resize(66 * MIB, node_name="top"), delete("top"),
        resize(66 * MIB, node_name="base"),
        add("qcow2", "top", file=file_node("top.qcow2"),
            backing={"driver": "qcow2", "node-name": "under",
                     "file": file_node("base.qcow2", locking="off")}),
        refused("under")])


def test_blkdebug_takes_and_denies_while_nobody_uses_it(pair):
    def debug(name, **more):
        return add("blkdebug", name, image="f", **more)
    takes, denies = {"take_child_perms": ["write"]}, \
        {"unshare_child_perms": ["write"]}
    same_conversation(*pair, [
        image("a.raw", "1M"), add("file", "f", filename="{dir}/a.raw"),
        debug("takes", **takes), debug("denies", **denies), graph,
        delete("takes"), debug("denies", **denies), debug("takes", **takes),
        graph, debug("reads", unshare_child_perms=["consistent-read"]),
        debug("more", take_child_perms=["consistent-read"]),
        delete("denies"), delete("reads"), debug("takes", **takes),
        add("raw", "r", file="f"), graph])


def test_nodes_describe_themselves(pair):
    same_conversation(*pair, [
        image("base.qcow2", "64M", "-o", "cluster_size=4k,refcount_bits=1"),
        image("mid.qcow2", "64M", "-b", "base.qcow2", "-F", "qcow2"),
        image("top.qcow2", "64M", "-b", "mid.qcow2", "-F", "qcow2", "-o",
              "compat=0.10"),
        image("a.raw", "3M"),
        add("raw", "r", file=file_node("a.raw"), read_only=True,
            detect_zeroes="on", cache={"direct": False, "no-flush": True}),
        add("qcow2", "top", file=file_node("top.qcow2"), discard="unmap"),
        add("null-co", "n", size=MIB, read_zeroes=True),
        add("raw", "part", file="n", offset=4096, size=8192),
        # Flat answers of QEMU have no depth.
        lambda d: [{**n, "backing_file_depth": 0} for n in flat_nodes(d)
                   if not n["node-name"].startswith("#")],
        lambda d: [n for n in nodes(d) if not n["node-name"].startswith("#")],
    ], ignore=BY_NATURE)


def test_a_backing_file_is_in_the_name_if_it_is_not_the_images_own(pair):
    def over(name, top, backing):
        return add("qcow2", name, file=file_node(top), backing=backing)

    def with_file(driver, name):
        return {"driver": driver, "file": file_node(name)}

    def named(daemon):
        return [n for n in nodes(daemon) if not n["node-name"].startswith("#")]

    same_conversation(*pair, [
        image("base.qcow2"), image("other.qcow2"),
        lambda d: image("top.qcow2", "64M", "-F", "qcow2", "-b",
                        d.path("base.qcow2"))(d),
        over("own", "top.qcow2", with_file("qcow2", "base.qcow2")), named,
        add("raw", "part", file="own", size=MIB), named,
        delete("part"), delete("own"),
        over("as-raw", "top.qcow2", with_file("raw", "base.qcow2")), named,
        delete("as-raw"),
        over("other", "top.qcow2", with_file("qcow2", "other.qcow2")), named,
        delete("other"),
        over("none", "top.qcow2", None), named, delete("none"),
        over("none-as-ever", "base.qcow2", None), named,
    ], ignore=BY_NATURE)


def test_statistics_of_nodes(pair):
    same_conversation(*pair, [
        image("base.qcow2"),
        image("top.qcow2", "64M", "-b", "base.qcow2", "-F", "qcow2"),
        add("qcow2", "top", file=file_node("top.qcow2")),
        ("query-blockstats", {}), ("query-blockstats", {"query-nodes": False}),
        ("query-blockstats", {"query-nodes": 1}),
        lambda d: [s for s in d.command("query-blockstats", query_nodes=True)
                   if s["node-name"] == "top"],
    ])


@pytest.mark.parametrize("discard", ["unmap", "ignore"])
def test_statistics_of_a_node_and_its_file(start, discard):
    """What a guest does shows in them, and what it unmaps is given back."""
    def stats(daemon):
        return [(s.get("driver-specific"), s["stats"]["wr_highest_offset"])
                for name in ("d", "f")
                for s in daemon.command("query-blockstats", query_nodes=True)
                if s["node-name"] == name]

    def blocks(daemon):
        return os.stat(daemon.path("d.raw")).st_blocks

    pair = []
    for kind in (Varved, Oracle):
        daemon = start.prepare(kind)
        with open(daemon.path("d.raw"), "wb") as f:
            f.truncate(MIB)
        daemon.args += ["--blockdev", "file,node-name=f,discard=unmap,"
                        f"filename={daemon.path('d.raw')}", "--blockdev",
                        f"raw,node-name=d,file=f,discard={discard}",
                        *device_args(kind, "d")]
        attach_guest(daemon.start(), "d")
        pair.append(daemon)
    same_conversation(*pair, [
        stats, guest("d", "write", 65536, 131072, 1), stats, blocks,
        guest("d", "discard", 65536, 65536), stats, blocks,
        guest("d", "write-zeroes", 131072, 65536), stats, blocks,
        guest("d", "write", 0, 65536, 1), stats])


def test_write_threshold(pair):
    def threshold(name, value):
        return ("block-set-write-threshold", {"node-name": name,
                                              "write-threshold": value})
    same_conversation(*pair, [
        add("null-co", "n", size=MIB), threshold("nosuch", 1),
        threshold("n", 4096),
        lambda d: flat_nodes(d)[0]["write_threshold"], threshold("n", 0),
        lambda d: flat_nodes(d)[0]["write_threshold"]])


@pytest.mark.parametrize("options", [
    {"driver": "file", "filename": "{dir}/new", "size": MIB},
    {"driver": "file", "filename": "{dir}/new", "size": 1000},
    {"driver": "file", "filename": "{dir}/no/new", "size": MIB},
    {"driver": "file", "filename": "{dir}/new", "size": MIB,
     "preallocation": "falloc"},
    {"driver": "null-co"}, {"driver": "raw"}, {},
    {"driver": "qcow2", "file": "f", "size": MIB},
    {"driver": "qcow2", "file": "f", "size": MIB, "version": "v2",
     "cluster-size": 4096, "refcount-bits": 16},
    {"driver": "qcow2", "file": "f", "size": MIB, "cluster-size": 1000},
    {"driver": "qcow2", "file": "f", "size": MIB, "version": "v2",
     "refcount-bits": 1},
    {"driver": "qcow2", "file": "f"}, {"driver": "qcow2", "size": MIB},
], ids=str)
def test_create(pair, options):
    create = ("blockdev-create", {"job-id": "c", "options": options})
    same_conversation(*pair, [
        image("f.raw", "0"),
        add("file", "f", filename="{dir}/f.raw"),
        create, Events(settle=0.2), "query-jobs", "query-block-jobs",
        create,
        lambda d: "return" in d.call("job-dismiss", id="c"),
        Events(settle=0.1), "query-jobs",
        lambda d: os.path.exists(d.path("new")) and
        os.path.getsize(d.path("new")),
        ("blockdev-create", {"job-id": "0", "options": options}),
        ("blockdev-create", {"options": options})])


def test_libvirt_style_image_creation(pair):
    """Storage node, blockdev-create, dismiss, format node on top, use it."""
    same_conversation(*pair, [
        ("blockdev-create", {"job-id": "s", "options": {
            "driver": "file", "filename": "{dir}/x.qcow2", "size": 0}}),
        Events(settle=0.2), ("job-dismiss", {"id": "s"}),
        add("file", "storage", filename="{dir}/x.qcow2"),
        ("blockdev-create", {"job-id": "f", "options": {
            "driver": "qcow2", "file": "storage", "size": 8 * MIB}}),
        Events(settle=0.2), ("job-dismiss", {"id": "f"}), Events(settle=0.2),
        add("qcow2", "format", file="storage", backing=None),
        add("null-co", "src", size=8 * MIB),
        ("blockdev-backup", {"job-id": "j", "device": "src",
                             "target": "format", "sync": "full"}),
        until("null"), delete("format"), delete("storage"),
        "query-named-block-nodes",
        lambda d: subprocess.run(["qemu-img", "check", "-q",
                                  d.path("x.qcow2")]).returncode])


def graph(daemon):
    """The graph by names, for the numbers mean nothing."""
    answer = daemon.command("x-debug-query-block-graph")
    names = {n["id"]: f"{n['type']} {n['name']}" for n in answer["nodes"]}
    return [sorted(names.values()), sorted(
        [names[e["parent"]], names[e["child"]], e["name"], sorted(e["perm"]),
         sorted(e["shared-perm"])] for e in answer["edges"])]


def access(name):
    """Whether the daemon has the file open for writing."""
    def step(daemon):
        proc = f"/proc/{daemon.process.pid}"
        flags = []
        for fd in os.listdir(f"{proc}/fd"):
            if os.readlink(f"{proc}/fd/{fd}") == daemon.path(name):
                with open(f"{proc}/fdinfo/{fd}") as f:
                    flags += re.findall(r"flags:\s*(\d+)", f.read())
        return any(int(f, 8) & os.O_ACCMODE for f in flags)
    step.__name__ = f"access to {name}"
    return step


def rename(old, new):
    def step(daemon):
        os.rename(daemon.path(old), daemon.path(new))
    step.__name__ = f"rename {old}"
    return step


def test_auto_read_only_opens_again_for_a_writer(pair):
    """And for reading when it has gone. The node is never read-only."""
    def write(end=True):
        job = ("blockdev-backup", {"job-id": "j", "device": "n", "target": "r",
                                   "sync": "none"})
        stop = [("job-cancel", {"id": "j"}),
                lambda d: d.qmp.wait_job("j", "null")["data"]]
        return [job, access("a.raw"), *(stop if end else [])]
    auto = {"auto_read_only": True}
    same_conversation(*pair, [
        image("a.raw", "1M"), image("b.qcow2", "1M"),
        add("null-co", "n", size=MIB),
        add("file", "f", filename="{dir}/a.raw", **auto), access("a.raw"),
        add("raw", "r", file="f", **auto), access("a.raw"), nodes,
        *write(), access("a.raw"), nodes,
        rename("a.raw", "c.raw"), *write(end=False),
        rename("c.raw", "a.raw"), *write(), access("a.raw"),
        add("qcow2", "q", file=file_node("b.qcow2"), **auto),
        access("b.qcow2"), delete("q"), access("b.qcow2"),
        add("file", "g", filename="{dir}/b.qcow2", read_only=True, **auto),
        add("raw", "h", file="g", **auto), nodes, access("b.qcow2"),
    ], ignore=BY_NATURE)


def test_graph(pair):
    same_conversation(*pair, [
        image("a.qcow2"), add("null-co", "n", size=MIB), graph,
        add("raw", "r", file="n"), add("raw", "ro", file="n", read_only=True),
        add("qcow2", "q", file=file_node("a.qcow2", **{"node-name": "qf"})),
        graph])

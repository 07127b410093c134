"""quorum beside QEMU's: the vote, its events, and children that come and go."""
import json
import shutil
import subprocess
import time

from lib import Events, SystemOracle, Varved, program, same_conversation, \
    wait_for_writes
from lib.qmp import TIMEOUT
from test_varve_io import commands, play

MIB = 1 << 20
EVENTS = Events("QUORUM_REPORT_BAD", "QUORUM_FAILURE")


def null(name, size=MIB, **more):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": size, **more})


def quorum(name, children, threshold=2, **more):
    return ("blockdev-add", {
        "driver": "quorum", "node-name": name, "children": children,
        "vote-threshold": threshold,
        **{k.replace("_", "-"): v for k, v in more.items()}})


def change(parent, **what):
    return ("x-blockdev-change", {"parent": parent, **what})


def named(*names):
    """A step: what is said of nodes with these names."""
    def step(daemon):
        return {n["node-name"]: n for n in
                daemon.command("query-named-block-nodes")
                if n["node-name"] in names}
    return step


def edges(daemon):
    """Who needs what of whom."""
    graph = daemon.command("x-debug-query-block-graph")
    name = {n["id"]: n["name"] for n in graph["nodes"]}
    return sorted(json.dumps([name[e["parent"]], name[e["child"]], e["name"],
                              sorted(e["perm"]), sorted(e["shared-perm"])])
                  for e in graph["edges"])


def test_what_is_refused_and_what_is_shown(pair):
    three = [{"driver": "null-co", "size": MIB}] * 3
    same_conversation(*pair, [
        quorum("q", three, 4), quorum("q", three, 0), quorum("q", three, -1),
        quorum("q", [], 1), quorum("q", "zz", 1),
        quorum("q", three, blkverify=True),
        quorum("q", three[:2], 1, blkverify=True),
        quorum("q", three[:1], 1, blkverify=True),
        quorum("q", three[:2], blkverify=True, rewrite_corrupted=True),
        null("a"), null("b"), null("c"), null("big", 2 * MIB),
        null("ro", **{"read-only": True}),
        quorum("q", ["a", "b", "big"]), quorum("q", ["ro", "a"],
                                               rewrite_corrupted=True),
        quorum("q", ["a", "b"], rewrite_corrupted=True, **{"read-only": True}),
        quorum("plain", ["a", "b", "c"]), quorum("also", ["a", "b", "c"]),
        quorum("verify", three[:2], blkverify=True),
        quorum("mend", three, rewrite_corrupted=True),
        quorum("first", three, 3, read_pattern="fifo", blkverify=True,
               rewrite_corrupted=True),
        quorum("one", ["ro"], 1), quorum("twice", ["big", "big"]),
        named("plain", "verify", "mend", "first", "one", "twice"),
        ("block_resize", {"node-name": "one", "size": 65536}),
        ("blockdev-reopen", {"options": [
            quorum("plain", ["a", "b", "c"])[1]]}),
        ("blockdev-del", {"node-name": "a"})])


def test_children_come_and_go(pair):
    same_conversation(*pair, [
        *(null(name) for name in "abcdef"), quorum("q", ["a", "b", "c"]),
        quorum("v", ["e", "f"], blkverify=True), edges,
        change("q"), change("q", child="children.0", node="d"),
        change("q", node="d"), change("q", node="d"), change("q", node="zz"),
        change("zz", node="d"), change("q", child="zz"), named("q"),
        change("q", child="children.1"), change("q", child="children.1"),
        change("q", child="children.0"), change("q", child="children.2"),
        named("q"), edges, ("blockdev-del", {"node-name": "a"}),
        # The last name is used again, others are not.
        change("q", node="b"), edges, change("q", child="children.4"),
        change("q", node="q"), change("q", node="b"), edges,
        change("b", node="q"), change("b", child="file"),
        null("g"), change("v", node="g"), change("v", child="children.0"),
        ("blockdev-add", {"driver": "raw", "node-name": "r", "file": "g"}),
        change("r", child="file"), change("r", node="r"),
        ("blockdev-del", {"node-name": "q"}),
        ("blockdev-del", {"node-name": "d"})])


def test_a_child_of_another_length_is_refused(varved):
    """QEMU takes it, and then has no length any more."""
    for step in (null("a"), null("b"), null("big", 2 * MIB),
                 quorum("q", ["a", "b"])):
        varved.command(*step)
    answer = varved.call(*change("q", node="big"))
    assert answer["error"]["desc"] == \
        "Node 'big' is not as long as the children of 'q'"
    assert len(varved.command("x-debug-query-block-graph")["edges"]) == 2


# ---- the vote ----

def on_file(name):
    return {"driver": "file", "filename": "{dir}/" + name}


def failing(name, iotype, errno=5):
    return {"driver": "blkdebug", "image": on_file(name), "inject-error": [
        {"event": "none", "iotype": iotype, "errno": errno}]}


def io(line):
    """A step: qemu-io on the quorum. What it prints QEMU prints elsewhere."""
    def step(daemon):
        daemon.command("human-monitor-command",
                       command_line=f'qemu-io q "{line}"')
    step.__name__ = line
    return step


def contents(daemon):
    """What bytes are in the files of the children."""
    found = {}
    for name in "abc":
        with open(daemon.path(name), "rb") as f:
            found[name] = sorted(set(f.read()))
    return found


A, B, C = (on_file(name) for name in "abc")
# What the files are full of, the children, other options, and a request: one
# that a quorum reports is all that a second of QEMU has of a child.
VOTES = {
    "one differs": ([1, 1, 2], [A, B, C], {}, "read 0 64k"),
    "one is mended": ([2, 1, 1], [A, B, C], {"rewrite_corrupted": True},
                      "read 1000 3000"),
    "mended to the end": ([1, 1, 2], [A, B, C], {"rewrite_corrupted": True},
                          "read 0 1M"),
    "all differ": ([1, 2, 3], [A, B, C], {}, "read 512 1k"),
    "one is enough": ([1, 2, 3], [A, B, C], {"threshold": 1}, "read 0 16"),
    "two of three": ([1, 2, 2], [A, B, C], {"threshold": 1}, "read 700 16"),
    "the last of two": ([1, 2, 0], [A, B], {"threshold": 1,
                                            "rewrite_corrupted": True},
                        "read 0 1M"),
    "one cannot read": ([1, 1, 1], [A, failing("b", "read"), C], {},
                        "read 0 64k"),
    "two cannot read": ([1, 1, 1], [A, failing("b", "read"),
                                    failing("c", "read", 28)], {}, "read 0 1k"),
    "none can read": ([1, 1, 1], [failing("a", "read", 1),
                                  failing("b", "read", 28),
                                  failing("c", "read", 28)], {}, "read 0 1k"),
    "one cannot, one differs": ([1, 1, 2], [A, failing("b", "read"), C], {},
                                "read 0 64k"),
    "one cannot write": ([1, 1, 1], [A, failing("b", "write"), C], {},
                         "write -P 7 100 1000"),
    "two cannot write": ([1, 1, 1], [A, failing("b", "write", 28),
                                     failing("c", "write")], {},
                         "write -P 7 512 512"),
    "zeroes": ([1, 1, 1], [A, B, C], {}, "write -z 64k 64k"),
    "one cannot zero": ([1, 1, 1], [A, failing("b", "write-zeroes"), C], {},
                        "write -z 64k 64k"),
    "discard": ([1, 1, 1], [A, B, C], {}, "discard 64k 64k"),
    "fifo": ([2, 1, 3], [A, B, C], {"read_pattern": "fifo"}, "read 0 16"),
    "fifo, the second": ([2, 1, 3], [failing("a", "read"), B, C],
                         {"read_pattern": "fifo"}, "read 0 16"),
    "fifo, none": ([2, 1, 3], [failing("a", "read", 28),
                               failing("b", "read", 1), failing("c", "read")],
                   {"read_pattern": "fifo"}, "read 0 16"),
    "verified, one cannot": ([1, 1, 1], [A, failing("b", "read")],
                             {"blkverify": True}, "read 0 1k"),
    "verified": ([1, 1, 1], [A, B], {"blkverify": True}, "write -P 3 0 1k"),
}


def test_votes_events_and_data_are_those_of_qemu(start):
    daemons = [start(kind) for kind in (Varved, SystemOracle)]
    steps = []
    for title, (bytes_, children, options, line) in VOTES.items():
        def fill(daemon, bytes_=bytes_):
            for name, byte in zip("abc", bytes_):
                with open(daemon.path(name), "wb") as f:
                    f.write(bytes([byte]) * MIB)
        fill.__name__ = f"fill: {title}"
        # Each under names of its own.
        named_children = [{**child, "node-name": f"{letter}{len(steps)}"}
                          for letter, child in zip("abc", children)]
        steps += [fill, quorum("q", named_children, **options), io(line),
                  Events("QUORUM_REPORT_BAD", settle=0.05), contents,
                  ("blockdev-del", {"node-name": "q"})]
    same_conversation(*daemons, steps)


def test_a_request_without_a_majority_fails_and_says_so(start):
    """QUORUM_FAILURE comes once a second whatever the node is: one a daemon."""
    for threshold, failed in ((2, 1), (3, 0)):
        daemons = [start(kind) for kind in (Varved, SystemOracle)]
        for daemon in daemons:
            for i, name in enumerate("abc"):
                with open(daemon.path(name), "wb") as f:
                    f.write(bytes([i if failed else i // 2]) * MIB)
        same_conversation(*daemons, [
            quorum("q", [A, B, C], threshold), io("read 512 1000"),
            Events("QUORUM_FAILURE", settle=0.05)])
        assert "failed" in daemons[0].command(
            "human-monitor-command", command_line='qemu-io q "read 0 1k"')


def test_events_of_a_child_come_once_a_second(varved):
    varved.command(*quorum("q", [
        {"driver": "null-co", "size": MIB, "read-zeroes": True},
        {"driver": "blkdebug", "node-name": "broken", "image": {
            "driver": "null-co", "size": MIB, "read-zeroes": True},
         "inject-error": [{"event": "none"}]}], 1))
    begin = time.monotonic()
    for i in range(20):
        io(f"read {i * 512} 512")(varved)
    seen = []
    while not seen or seen[-1] != 19:
        event = varved.qmp.wait_event("QUORUM_REPORT_BAD")
        seen.append(event["data"]["sector-num"])
    # The first, and the last of each second after it.
    assert seen[0] == 0 and seen == sorted(seen)
    assert len(seen) <= 2 + (time.monotonic() - begin)


def test_tools_read_and_map_through_a_quorum(tmp_path):
    for name, *lines in (("a.q", "write -P 1 0 64k", "write -z 128k 64k"),
                         ("b.q", "write -P 1 0 64k", "write -P 2 256k 128k",
                          "write -z 128k 64k"), ("c.q", "write -P 1 0 64k")):
        subprocess.run([program("qemu-img"), "create", "-q", "-f", "qcow2",
                        str(tmp_path / name), "1M"], check=True)
        subprocess.run([program("qemu-io"), "-f", "qcow2", *commands(*lines),
                        str(tmp_path / name)], check=True,
                       stdout=subprocess.DEVNULL)
    image = "driver=quorum,vote-threshold=2," + ",".join(
        f"children.{i}.driver=qcow2,children.{i}.file.filename={name}.q"
        for i, name in enumerate("abc"))
    for line in ("map --output=json", "map", "info", "info --output=json",
                 "measure -O qcow2", "convert -O raw"):
        said = []
        for tool in ("varve-img", "qemu-img"):
            out = [f"{tool}.raw"] if "convert" in line else []
            done = subprocess.run(
                [program(tool), *line.split(), "--image-opts", image, *out],
                cwd=tmp_path, capture_output=True, text=True)
            text = done.stdout
            if text.startswith(("[", "{")):
                text = json.loads(text)
                if isinstance(text, dict):
                    text = {k: v for k, v in text.items() if k != "filename"}
            else:
                text = [row for row in text.splitlines()
                        if not row.startswith("image: ")]
            said.append((done.returncode, text,
                         done.stderr.replace(tool, "{img}")))
        assert said[0] == said[1], line
    assert (tmp_path / "varve-img.raw").read_bytes() == \
        (tmp_path / "qemu-img.raw").read_bytes()
    args = [*commands("read -P 1 0 64k", "read -P 0 256k 4k", "write -P 5 0 4k",
                      "write -z 0 1k", "flush", "length", "read 1M 1",
                      "write 1048000 1k", "discard 0 64k"), "--image-opts",
            image]
    said = []
    for tool in ("varve-io", "qemu-io"):
        directory = tmp_path / tool
        directory.mkdir()
        for name in "abc":
            shutil.copy(tmp_path / f"{name}.q", directory)
        said.append(play(tool, directory, args))
    assert said[0] == said[1]


def test_a_difference_that_must_not_be_fails_the_request(varved):
    """QEMU ends its program there; we end the request."""
    for i, name in enumerate("ab"):
        with open(varved.path(name), "wb") as f:
            f.write(bytes([i]) * 4096)
    varved.command(*quorum("q", [
        {"driver": "file", "filename": varved.path(name)} for name in "ab"],
        blkverify=True))
    said = varved.command("human-monitor-command",
                          command_line='qemu-io q "read 512 512"')
    assert "read failed: Input/output error" in said
    assert "quorum: offset=512 bytes=512 contents mismatch at offset 512" in \
        varved.stderr()


# ---- under load ----

def test_children_change_while_a_guest_writes(start):
    """And what is added is mended by what is read, so that in the end any child
    alone has all that the guest wrote."""
    daemon = start.prepare(Varved, *(word for name in "abcd" for word in (
        "--blockdev", f"qcow2,node-name={name},file.driver=file,"
        f"file.filename={name}")), "--blockdev", "quorum,node-name=q,"
        "vote-threshold=2,rewrite-corrupted=on,children.0=a,children.1=b,"
        "children.2=c", "--device", "virtio-blk,drive=q,id=vd")
    for name in "abcd":
        subprocess.run([program("qemu-img"), "create", "-q", "-f", "qcow2",
                        daemon.path(name), "1M"], check=True)
    daemon.start()
    daemon.command("x-guest-workload-start", device="vd", depth=8,
                   read_percent=40, verify=True, seed=3)
    wait_for_writes(daemon, "vd", 20)
    for i in range(30):
        daemon.command(*change("q", child="children.2"))
        daemon.command(*change("q", node="dc"[i % 2]))
    info = daemon.command("x-guest-workload-stop", device="vd")
    assert info["errors"] == info["mismatches"] == 0
    assert info["reads"] and info["writes"]
    io("read 0 1M")(daemon)
    daemon.stop()
    for name in "bc":
        subprocess.run([program("qemu-img"), "compare", daemon.path("a"),
                        daemon.path(name)], check=True,
                       stdout=subprocess.DEVNULL)


def test_a_quorum_of_disks_on_another_thread(start):
    daemon = start(Varved, "--object", "iothread,id=io", *(
        word for name in "abcd" for word in (
            "--blockdev", f"null-co,node-name={name},size=1048576,"
            "read-zeroes=on")),
        "--blockdev", "quorum,node-name=q,vote-threshold=2,children.0=a,"
        "children.1=b,children.2=c",
        "--device", "virtio-blk,drive=q,id=vd,iothread=io")
    daemon.command("x-guest-workload-start", device="vd", depth=8, max_ops=500,
                   read_percent=50)
    daemon.command(*change("q", node="d"))
    daemon.command(*change("q", child="children.0"))
    deadline = time.monotonic() + TIMEOUT
    while daemon.command("x-guest-workload-query", device="vd")["active"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert daemon.command("x-guest-workload-query", device="vd")["errors"] == 0

"""Exports over vhost-user: commands and options, compared with QEMU's."""
import os
import socket
import subprocess

import pytest

from lib import Oracle, Varved, program, same_conversation
from lib.qmp import TIMEOUT

MIB = 1 << 20


def null_node(name, **more):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": MIB, **more})


def export(name="e", node="n", path="{dir}/s", **more):
    return ("block-export-add", {
        "type": "vhost-user-blk", "id": name, "node-name": node,
        "addr": {"type": "unix", "path": path},
        **{k.replace("_", "-"): v for k, v in more.items()}})


def delete(name, **more):
    return ("block-export-del", {"id": name, **more})


def socket_files(daemon):
    return sorted(f for f in os.listdir(daemon.directory)
                  if f.startswith("s") and f != "stderr")


def test_adding_and_removing(pair):
    same_conversation(*pair, [
        null_node("n"), null_node("ro", **{"read-only": True}),
        export(), export(), export("e2", path="{dir}/s2", writable=True,
                                   num_queues=4, logical_block_size=4096,
                                   writethrough=True),
        export("e3", node="ro", path="{dir}/s3"),
        "query-block-exports", socket_files,
        ("blockdev-del", {"node-name": "ro"}),
        delete("e3"), delete("e3"), ("blockdev-del", {"node-name": "ro"}),
        delete("nosuch"), delete("e", mode="bad"), delete("e", mode="hard"),
        "query-block-exports", socket_files, export("e", path="{dir}/s3"),
        delete("e2", mode="safe"), "query-block-exports", "query-block",
    ])


def test_what_is_refused(pair):
    add = "block-export-add"
    vhost = {"type": "vhost-user-blk", "id": "e", "node-name": "n"}
    same_conversation(*pair, [
        null_node("n"), null_node("ro", **{"read-only": True}),
        (add, {}), (add, {"type": "vhost-user-blk"}), (add, vhost),
        (add, {"type": "nosuch", "id": "e", "node-name": "n"}),
        (add, {**vhost, "addr": {"type": "inet", "host": "x", "port": "0"}}),
        (add, {**vhost, "addr": {"type": "vsock", "cid": "1", "port": "1"}}),
        (add, {**vhost, "addr": {"type": "unix"}}),
        (add, {**vhost, "addr": "x"}),
        export("0e"), export(""), export("a b"), export(node="nosuch"),
        export(node="ro", writable=True), export(bogus=1),
        export(path="{dir}/nodir/s"), export(path="/tmp/" + "x" * 150),
        export(num_queues=0), export(num_queues=65536), export(num_queues=-1),
        export(logical_block_size=100), export(logical_block_size=768),
        export(logical_block_size=4 * MIB), export(iothread="nosuch"),
        export(logical_block_size=0), "query-block-exports", socket_files,
    ])


OPTIONS = [
    "vhost-user-blk,id=e,node-name=x", "foo", "help",
    "vhost-user-blk,id=e,addr.type=unix,addr.path=s",
    "vhost-user-blk,id=e,node-name=x,addr.type=unix,addr.path=s",
    "vhost-user-blk,id=e,node-name=x,addr.type=unix,addr.path=s,writable=maybe",
    "vhost-user-blk,id=e,node-name=x,addr.type=unix,addr.path=s,bogus=1",
    "vhost-user-blk,id=e,node-name=x,addr.type=unix,addr.path=s,num-queues=a",
    "vhost-user-blk,id=e,node-name=x,addr=1",
]


@pytest.mark.parametrize("text", OPTIONS)
def test_option_that_is_refused(tmp_path, text):
    answers = []
    for name in ("varved", "qemu-storage-daemon"):
        done = subprocess.run([program(name), "--export", text], cwd=tmp_path,
                              capture_output=True, text=True, timeout=TIMEOUT,
                              check=False)
        answers.append((done.returncode,
                        done.stderr.replace(name + ": ", "")))
    assert answers[0] == answers[1]


def features(path):
    """What a back-end answers to GET_FEATURES."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(TIMEOUT)
        s.connect(path)
        s.sendall((1).to_bytes(4, "little") + (1).to_bytes(4, "little") +
                  bytes(4))
        with s.makefile("rb") as stream:
            answer = stream.read(20)
    assert len(answer) == 20
    return int.from_bytes(answer[12:], "little")


def feature_names(value):
    """Features that make a difference for a guest; what only one of both
    programs can do besides is no matter."""
    names = {1: "SIZE_MAX", 2: "SEG_MAX", 5: "RO", 6: "BLK_SIZE", 9: "FLUSH",
             10: "TOPOLOGY", 11: "CONFIG_WCE", 12: "MQ", 13: "DISCARD",
             14: "WRITE_ZEROES", 28: "INDIRECT_DESC", 29: "EVENT_IDX",
             30: "PROTOCOL_FEATURES", 32: "VERSION_1"}
    return {name for bit, name in names.items() if value >> bit & 1}


@pytest.mark.parametrize("more", [(), ("writable=on",),
                                  ("writable=on", "num-queues=4")])
def test_features_are_those_of_the_other(start, more):
    offered = []
    for kind in (Varved, Oracle):
        daemon = start(kind, "--blockdev",
                       f"null-co,node-name=n,size={MIB}", "--export",
                       ",".join(("vhost-user-blk,id=e,node-name=n,"
                                 "addr.type=unix,addr.path=s", *more)))
        offered.append(feature_names(features(daemon.path("s"))))
    # A queue alone needs no MQ; a disk that cannot be written no discard.
    optional = {"SIZE_MAX", "MQ", "DISCARD", "WRITE_ZEROES"}
    assert offered[0] - optional == offered[1] - optional
    assert ("MQ" in offered[0]) == ("num-queues=4" in more)
    assert ("DISCARD" in offered[0]) == bool(more)


def test_socket_that_was_passed(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        daemon = subprocess.Popen(
            [program("varved"), "--blockdev", "null-co,node-name=n,size=1M",
             "--export", "vhost-user-blk,id=e,node-name=n,addr.type=fd,"
             f"addr.str={listener.fileno()}",
             "--chardev", "stdio,id=c", "--monitor", "c"],
            pass_fds=[listener.fileno()], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL)
        try:
            assert features(path)
            daemon.communicate(b'{"execute": "qmp_capabilities"}'
                               b'{"execute": "quit"}', timeout=TIMEOUT)
            assert daemon.returncode == 0
        finally:
            daemon.kill()
            daemon.wait()
    assert os.path.exists(path)  # whoever made it removes it


@pytest.mark.parametrize("number,error", [
    ("99", "File descriptor '99': Bad file descriptor"),
    ("0", "File descriptor '0': Socket operation on non-socket"),
    ("name", "'name' is no number of a file descriptor")])
def test_descriptor_that_will_not_do(start, number, error):
    daemon = start(Varved)
    daemon.command("blockdev-add", driver="null-co", node_name="n", size=MIB)
    answer = daemon.call("block-export-add", {
        "type": "vhost-user-blk", "id": "e", "node-name": "n",
        "addr": {"type": "fd", "str": number}})
    assert answer["error"]["desc"] == error


def test_safe_removal_spares_clients(start):
    daemon = start(Varved)
    daemon.command("blockdev-add", driver="null-co", node_name="n", size=MIB)
    daemon.command(*export(path=daemon.path("s")))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(daemon.path("s"))
        client.sendall((1).to_bytes(4, "little") * 2 + bytes(4))
        with client.makefile("rb") as stream:
            assert len(stream.read(20)) == 20
        answer = daemon.call("block-export-del", id="e")
        assert answer["error"]["desc"] == "export 'e' still in use"
        daemon.command("block-export-del", id="e", mode="hard")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
        assert client.recv(1) == b""
    assert daemon.command("query-block-exports") == []


def iothread(name):
    return ("object-add", {"qom-type": "iothread", "id": name})


def backup(source, target, **more):
    return ("blockdev-backup", {
        "job-id": "j", "device": source, "target": target, "sync": "none",
        **more})


def test_rules_of_iothreads(pair):
    """Who may be where, and which of several complaints comes first."""
    fixed = {"fixed_iothread": True}
    same_conversation(*pair, [
        iothread("t0"), iothread("t1"),
        null_node("n"), null_node("m"), null_node("idle"),
        null_node("ro", **{"read-only": True}),
        export("0e", iothread="nosuch"), export(iothread="nosuch"),
        export(node="nosuch", iothread="nosuch"),
        export(iothread="nosuch", num_queues=0),
        export(node="ro", iothread="nosuch", writable=True),
        # The first one to be fixed decides; a wish gives in, a demand fails.
        export("e0", path="{dir}/s0", iothread="t0", **fixed),
        export("e0", node="m", iothread="nosuch"),
        export("e1", path="{dir}/s1", iothread="t1"),
        export("e2", path="{dir}/s2", iothread="t1", **fixed),
        export("e3", path="{dir}/s3", iothread="t0", **fixed),
        export("e4", path="{dir}/s4", **fixed),
        "query-block-exports",
        # Without any that is fixed the last wish counts.
        export("f0", node="m", path="{dir}/s5"),
        export("f1", node="m", path="{dir}/s6", iothread="t0"),
        export("f2", node="m", path="{dir}/s7", iothread="t1", **fixed),
        export("f3", node="m", path="{dir}/s8", iothread="t0", **fixed),
        # A backup's target comes to its source, if it can.
        backup("n", "m"), backup("m", "n"), backup("idle", "n"),
        ("blockdev-add", {"driver": "raw", "node-name": "raw", "file": "n"}),
        ("block-dirty-bitmap-add", {"node": "n", "name": "b"}),
        ("block-dirty-bitmap-add", {"node": "m", "name": "b"}),
        ("block-dirty-bitmap-merge", {
            "node": "n", "target": "b",
            "bitmaps": [{"node": "m", "name": "b"}]}),
        ("block-dirty-bitmap-merge", {
            "node": "n", "target": "b",
            "bitmaps": ["b", {"node": "m", "name": "nosuch"}]}),
        ("transaction", {"actions": [
            {"type": "block-dirty-bitmap-disable",
             "data": {"node": "n", "name": "b"}},
            {"type": "block-dirty-bitmap-clear",
             "data": {"node": "m", "name": "b"}},
            {"type": "block-dirty-bitmap-remove",
             "data": {"node": "ro", "name": "b"}}]}),
        ("blockdev-del", {"node-name": "n"}),
        ("blockdev-del", {"node-name": "raw"}),
        "query-named-block-nodes",
    ])


def test_a_thread_in_use_stays(start):
    daemon = start(Varved)
    daemon.command(*null_node("n"))
    daemon.command(*iothread("t0"))
    daemon.command(*export(path=daemon.path("s"), iothread="t0"))
    answer = daemon.call("object-del", id="t0")
    assert answer["error"]["desc"] == \
        "object 't0' is in use, can not be deleted"
    daemon.command("block-export-del", id="e")
    daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
    # The node has gone home.
    daemon.command("object-del", id="t0")
    daemon.command(*export(path=daemon.path("s")))


def test_a_job_keeps_its_disk_where_it_is(start):
    daemon = start(Varved)
    daemon.command(*null_node("n"))
    daemon.command(*null_node("target"))
    daemon.command(*iothread("t0"))
    daemon.command(*backup("n", "target"))
    name, arguments = export(path=daemon.path("s"), iothread="t0",
                             fixed_iothread=True)
    answer = daemon.call(name, arguments)
    assert answer["error"]["desc"] == \
        "Node 'n' cannot move to another thread because of backup job 'j'"
    daemon.command(*export(path=daemon.path("s"), iothread="t0"))
    daemon.command("object-del", id="t0")
    daemon.command("block-job-cancel", device="j")


def test_a_disk_on_a_thread_gets_another_child(start):
    """What it is to be connected with comes to where it is."""
    daemon = start(Varved)
    daemon.command(*iothread("t0"))
    for name in "a", "b":
        daemon.command(*null_node(name))
    daemon.command("blockdev-add", driver="raw", node_name="n", file="a")
    daemon.command(*export(path=daemon.path("s"), iothread="t0"))
    daemon.command("blockdev-reopen", options=[
        {"driver": "raw", "node-name": "n", "file": "b"}])
    assert "in use" in daemon.call("blockdev-del",
                                   node_name="b")["error"]["desc"]
    daemon.command("blockdev-del", node_name="a")
    daemon.command("block-export-del", id="e")
    daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="e")
    daemon.command("object-del", id="t0")


def test_the_program_ends_with_disks_on_several_threads(start):
    daemon = start(Varved)
    for i in range(3):
        daemon.command(*null_node(f"n{i}"))
        daemon.command(*null_node(f"target{i}"))
        daemon.command(*iothread(f"t{i}"))
        daemon.command(*export(f"e{i}", f"n{i}", daemon.path(f"s{i}"),
                               iothread=f"t{i}"))
        daemon.command(*backup(f"n{i}", f"target{i}",
                               **{"job-id": f"j{i}"}))
    daemon.command("quit")
    daemon.wait()
    daemon.check_end(0)

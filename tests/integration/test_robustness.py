"""Clients that go, daemons that are killed, and images that must survive it."""
import os
import random
import signal
import socket
import threading
import time

import pytest

from lib import QmpError, Varved, guest_request, images, same_conversation
from lib.disks import SIZE, backup_all, full_backup, incremental, make_disks
from lib.steps import backup, bitmap, bitmaps, content, jobs, new_file, \
    null_node, raw_node, remove_node, until

MIB = 1 << 20


def start_slow_backup(disk, **more):
    """A job that does not end by itself."""
    path = disk.new_target()
    backup_all([disk], "full", [disk.add_node(path)], speed=1, **more)
    return path


# ---- clients -----------------------------------------------------------------

def test_a_job_outlives_its_client(start, seed):
    disk, = make_disks(start, seed, 1)
    daemon = disk.daemon
    disk.start_guest()
    disk.wait_for_writes(50)
    client = daemon.qmp
    other = daemon.qmp = daemon.connect(1)
    full_backup(disk)
    daemon.qmp = client
    disk.write_apart()
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)], speed=1)
    client.socket.shutdown(socket.SHUT_RDWR)
    client.close()
    daemon.qmp = other
    assert [j["id"] for j in daemon.command("query-jobs")] == ["job-d0"]
    daemon.command("block-job-set-speed", device="job-d0", speed=0)
    assert disk.wait() is None
    disk.remove_node()
    disk.verify(path, frozen[0])
    again = daemon.connect(0)
    assert again.command("query-jobs") == []
    daemon.qmp = again
    incremental(disk)
    disk.stop_guest()


def test_a_client_that_goes_in_the_middle_of_a_request(start):
    varved = start(Varved)
    varved.command("blockdev-add", driver="null-co", node_name="n", size=MIB)
    for text in (b'{"execute": "query-jobs"', b'{"execute": "stop"}',
                 b'{"execute": "query-named-block-nodes"}' * 500,
                 b'{"execute": "blockdev-backup", "arguments": {', b"\xff" * 99,
                 b"[" * 5000, b'"' * 4097):
        client = varved.connect(1)
        client.send_raw(text)
        client.close()
    assert varved.connect(1).command("query-jobs") == []
    assert varved.command("query-named-block-nodes")


@pytest.mark.parametrize("garbage", [
    b"\0" * 4096, b"\xfe\xff" * 100, b"}" * 50, b"GET / HTTP/1.1\r\n\r\n",
    b'{"execute": 1}\n', b'{"execute": "quit", "x": 1}\n', b"[]\n", b"null\n",
    b'{"execute": "query-jobs", "arguments": []}\n', b"'\\u0000'\n"])
def test_garbage_leaves_the_session_usable(start, garbage):
    varved = start(Varved)
    client = varved.connect(1)
    client.send_raw(garbage + b"\n")
    # What is open still ends here.
    client.send_raw(b'"]}' + b"\n")
    client.send({"execute": "query-version", "id": "alive"})
    while True:
        answer = client.answer()
        if answer.get("id") == "alive":
            break
    assert varved.command("query-jobs") == []


def test_several_monitors_see_the_same_and_race(start, seed):
    """Each adds, uses and removes bitmaps of its own; all see all events."""
    disk, = make_disks(start, seed, 1)
    disk.start_guest()
    clients = [disk.daemon.qmp, disk.daemon.connect(1)]
    failures = []

    def work(n, qmp):
        try:
            for i in range(40):
                name = f"b{n}-{i}"
                qmp.command("block-dirty-bitmap-add", node="d0", name=name)
                qmp.command("transaction", actions=[
                    {"type": "block-dirty-bitmap-add",
                     "data": {"node": "d0", "name": name + "x"}},
                    {"type": "block-dirty-bitmap-merge", "data": {
                        "node": "d0", "target": name + "x",
                        "bitmaps": [name]}}])
                qmp.command("block-dirty-bitmap-remove", node="d0", name=name)
                qmp.command("block-dirty-bitmap-remove", node="d0",
                            name=name + "x")
                qmp.command("query-block")
        except Exception as e:  # of any kind: it is told below
            failures.append(e)
    threads = [threading.Thread(target=work, args=x)
               for x in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert bitmaps(disk.daemon) == {}
    disk.stop_guest()
    disk.daemon.command("stop")
    for qmp in clients:
        qmp.wait_event("STOP")


# ---- the end of the daemon ---------------------------------------------------

@pytest.mark.parametrize("end", ["stop", "terminate"])
def test_ending_during_a_backup(start, seed, end):
    disk, = make_disks(start, seed, 1)
    disk.start_guest(rate=0)
    disk.wait_for_writes(200)
    target = start_slow_backup(disk)
    disk.wait_for_writes(50)
    getattr(disk.daemon, end)()
    images.check(disk.image)
    images.check(target)


def kill(daemon):
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait()
    for session in daemon.sessions:
        session.close()
    daemon.sessions, daemon.qmp = [], None


def test_killed_during_backup_and_writes(start, seed):
    """Again and again on the same image: it opens, has no corruption, and holds
    what was flushed."""
    disk, = make_disks(start, seed, 1)
    daemon, rng = disk.daemon, random.Random(seed)
    flushed = {}
    for _ in range(12):
        # Behind the workload's region, where nobody else writes.
        for _ in range(6):
            block = SIZE // 65536 - 1 - rng.randrange(64)
            flushed[block] = rng.randrange(1, 256)
            assert daemon.command(
                "x-guest-request", device="vd-d0", op="write", length=65536,
                offset=block * 65536,
                pattern=flushed[block]) == {"status": "ok"}
        assert guest_request(daemon, "d0", "flush") == "ok"
        disk.start_guest(rate=0, length=SIZE - 64 * 65536, discard_percent=10,
                         block_size=rng.choice([4096, 65536, 512]))
        target = start_slow_backup(disk)
        time.sleep(rng.random() * 0.05)
        kill(daemon)
        images.check(disk.image, leaks_allowed=True)
        images.check(target, leaks_allowed=True)
        daemon.start()
        for block, pattern in flushed.items():
            assert daemon.command(
                "x-guest-request", device="vd-d0", op="read",
                offset=block * 65536, length=65536, pattern=pattern,
                verify=True) == {"status": "ok"}, block
    disk.start_guest()
    disk.wait_for_writes(50)
    full_backup(disk)
    disk.stop_guest()


def test_sequential_flushed_writes_survive(start, seed):
    """A guest that flushes after each write: all but the last are there."""
    disk, = make_disks(start, seed, 1)
    daemon = disk.daemon
    disk.start_guest(rate=0, depth=1, sequential=True, length=SIZE,
                     read_percent=0,
                     discard_percent=0, zeroes_percent=0, flush_every=1,
                     block_size=4096)
    disk.wait_for_writes(300)
    done = daemon.command("x-guest-workload-query", device="vd-d0")
    kill(daemon)
    images.check(disk.image, leaks_allowed=True)
    copy = daemon.path("copy.img")
    images.freeze(disk.image, copy)
    with open(copy, "rb") as f:
        for n in range(min(done["flushes"], SIZE // 4096)):
            assert any(f.read(4096)), f"block {n} of {done}"


# ---- resizing ----------------------------------------------------------------

def written(node, offset, length):
    """Writes without a guest, which would hold the length: by a job into a
    window on the node."""
    return [null_node("source", length),
            ("blockdev-add", {"driver": "raw", "node-name": "window",
                              "file": node, "offset": offset, "size": length}),
            backup("source", "window"), until("null"), remove_node("window"),
            remove_node("source")]


def resize(to):
    return ("block_resize", {"node-name": "d0", "size": to})


def size_of_disk(daemon):
    return os.path.getsize(daemon.path("d0.img"))


@pytest.mark.parametrize("new", [2 * MIB, 3 * MIB - 512, MIB + 512])
def test_growing_with_bitmaps(pair, new):
    granularities = (512, 4096, 65536, MIB)
    same_conversation(*pair, [
        new_file("d0.img", MIB), raw_node("d0"),
        *[bitmap("add", name=f"g{g}", granularity=g) for g in granularities],
        bitmap("add", name="off", disabled=True),
        *written("d0", MIB - 512, 512), bitmaps, resize(new), size_of_disk,
        bitmaps, *written("d0", MIB, 512), bitmaps,
        *written("d0", new - 512, 512), bitmaps, resize(-1), resize(new),
        bitmaps,
        ("block-dirty-bitmap-merge", {"node": "d0", "target": "g512",
                                      "bitmaps": ["g65536", "off"]}), bitmaps],
        ignore=("len", "offset"))


@pytest.mark.parametrize("new", [MIB, MIB + 512, MIB - 512, 512, 0])
def test_shrinking_and_growing_with_bitmaps(pair, new):
    size = 3 * MIB
    same_conversation(*pair, [
        new_file("d0.img", size), raw_node("d0"), bitmap("add"),
        bitmap("add", name="f", granularity=512),
        bitmap("add", name="huge", granularity=1 << 30),
        bitmap("add", name="empty"), bitmap("clear", name="empty"),
        *written("d0", 0, size), bitmap("clear", name="empty"), bitmaps,
        resize(new), size_of_disk, bitmaps, resize(size), bitmaps,
        *written("d0", 2 * MIB, 512), bitmaps], ignore=("len", "offset"))


def test_resizing_what_a_backup_uses(pair):
    def refused(node):
        """Who refuses differs: a permission or a job."""
        def step(daemon):
            return sorted(daemon.call("block_resize", node_name=node,
                                      size=2 * MIB))
        return step
    same_conversation(*pair, [
        *[step for n in ("d0", "t0")
          for step in (new_file(f"{n}.img", MIB), raw_node(n))],
        backup("d0", "t0", sync="none"), until("running"),
        refused("d0"), refused("t0"), size_of_disk, content("t0.img"), jobs,
        ("job-cancel", {"id": "j"}),
        until("null"), refused("d0"), refused("t0")])


# ---- many at a time ----------------------------------------------------------

def test_many_jobs_at_once(start):
    varved = start(Varved)
    for n in range(40):
        for name in (f"n{n}", f"t{n}"):
            varved.command(*null_node(name, 4 * MIB))
    varved.command("transaction", actions=[
        {"type": "blockdev-backup", "data": {
            "job-id": f"j{n}", "device": f"n{n}", "target": f"t{n}",
            "sync": "full" if n % 2 else "none"}} for n in range(40)],
        properties={"completion-mode": "grouped"})
    assert len(varved.command("query-jobs")) == 40
    varved.command("job-cancel", id="j20")
    for n in range(40):
        varved.qmp.wait_job(f"j{n}", "null")
    with pytest.raises(QmpError):
        varved.command("job-cancel", id="j20")
    assert varved.command("query-jobs") == []

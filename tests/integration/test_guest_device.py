"""The virtio-blk device as its guest and the monitor see it: errors and what is
done about them, stop and cont, violations and reset, bitmaps."""
import os
import subprocess

import pytest

from lib import QmpError, Varved, guest_request, program, wait_for_writes
from lib.steps import bitmaps

MIB = 1 << 20
KIB = 1 << 10
SIZE = 8 * MIB
EIO, ENOSPC = 5, 28


def make(start, rules=(), size=SIZE, directory=None, node=None, threads=(),
         **properties):
    """A varved with a guest's disk "d0"; rules make its file fail."""
    daemon = start.prepare(Varved)
    image = os.path.join(str(directory or daemon.directory), "disk.img")
    with open(image, "wb") as f:
        f.truncate(size)
    file = f"file.driver=file,file.filename={image}"
    if rules:
        file = f"file.driver=blkdebug,file.image.driver=file," \
               f"file.image.filename={image}"
        for i, rule in enumerate(rules):
            for key, value in rule.items():
                file += f",file.inject-error.{i}.{key}={value}"
    more = "".join(f",{k}={v}" for k, v in (node or {}).items())
    for thread in threads:
        daemon.args += ["--object", f"iothread,id={thread}"]
    daemon.args += ["--blockdev",
                    f"driver=raw,node-name=d0,discard=unmap{more},{file}",
                    "--device", "virtio-blk,drive=d0,id=vd-d0" + "".join(
                        f",{k.replace('_', '-')}={v}"
                        for k, v in properties.items())]
    daemon.start()
    daemon.image = image
    return daemon


def request(daemon, op, offset=0, length=0, **more):
    return daemon.command("x-guest-request", device="vd-d0", op=op,
                          offset=offset, length=length, **more)


def io_events(daemon):
    return [(e["event"], e.get("data")) for e in daemon.qmp.take_events(0.02)
            if e["event"] in ("BLOCK_IO_ERROR", "STOP", "RESUME")]


def io_error(operation, action, errno):
    return ("BLOCK_IO_ERROR", {
        "device": "", "node-name": "d0", "operation": operation,
        "nospace": errno == ENOSPC, "action": action,
        "reason": os.strerror(errno)})


def status(daemon):
    return daemon.command("query-status")["status"]


POLICIES = [("report", EIO, "report"), ("report", ENOSPC, "report"),
            ("ignore", EIO, "ignore"), ("ignore", ENOSPC, "ignore"),
            ("stop", EIO, "stop"), ("stop", ENOSPC, "stop"),
            ("enospc", EIO, "report"), ("enospc", ENOSPC, "stop"),
            (None, EIO, "report"), (None, ENOSPC, "stop")]


@pytest.mark.parametrize("op", ["write", "write-zeroes", "flush", "discard"])
@pytest.mark.parametrize("policy, errno, action", POLICIES)
def test_a_failed_write(start, policy, errno, action, op):
    more = {"werror": policy} if policy else {}
    d = make(start, [{"event": "none", "iotype": op, "errno": errno,
                      "once": "on", "immediately": "on"}], **more)
    length = 0 if op == "flush" else 64 * KIB
    if op == "flush":
        # Without a write there is nothing to flush.
        assert request(d, "write", 0, 512) == {"status": "ok"}
    answer = request(d, op, 0, length, **(
        {"pattern": 7} if op == "write" else
        {"unmap": True} if op == "write-zeroes" else {}))
    ended = {"report": "ioerr", "ignore": "ok", "stop": "held"}[action]
    assert answer == {"status": ended}
    seen = io_events(d)
    assert seen[0] == io_error("write", action, errno)
    if action == "stop":
        assert seen[1:] == [("STOP", None)]
        assert status(d) == "io-error"
        d.command("cont")
        assert io_events(d) == [("RESUME", None)]
    assert status(d) == "running"
    if op == "write":
        kept = 7 if action == "stop" else 0
        assert request(d, "read", 0, length, verify=True, pattern=kept) == {
            "status": "ok"}
        assert request(d, "write", 0, length, pattern=9) == {"status": "ok"}
    assert io_events(d) == []


@pytest.mark.parametrize("policy, errno, action", [
    ("report", EIO, "report"), ("report", ENOSPC, "report"),
    ("ignore", EIO, "ignore"), ("stop", EIO, "stop"),
    ("stop", ENOSPC, "stop"), (None, EIO, "report"),
    (None, ENOSPC, "report")])
def test_a_failed_read(start, policy, errno, action):
    more = {"rerror": policy} if policy else {}
    d = make(start, [{"event": "none", "iotype": "read", "errno": errno,
                      "once": "on"}], **more)
    answer = request(d, "read", 4096, 4096)
    assert answer["status"] == {"report": "ioerr", "ignore": "ok",
                                "stop": "held"}[action]
    seen = io_events(d)
    assert seen[0] == io_error("read", action, errno)
    assert len(seen) == (2 if action == "stop" else 1)
    if action == "stop":
        d.command("cont")
    assert request(d, "read", 4096, 4096, verify=True) == {"status": "ok"}


def test_a_policy_is_shown_and_forgotten_by_cont(start):
    d = make(start, [{"event": "none", "iotype": "write", "errno": ENOSPC,
                      "once": "on"}], werror="enospc")

    def io_status():
        block, = [b for b in d.command("query-block")
                  if b.get("inserted", {}).get("node-name") == "d0"]
        return block["io-status"]
    assert io_status() == "ok"
    assert request(d, "write", 0, 512)["status"] == "held"
    assert io_status() == "nospace"
    d.command("cont")
    assert io_status() == "ok"


@pytest.mark.parametrize("queues", [1, 2])
def test_held_requests_end_well_for_the_guest(start, queues):
    """Many failures in the middle of a workload: the guest sees none."""
    d = make(start, [{"event": "none", "iotype": "write",
                      "errno": EIO if i % 2 else ENOSPC, "once": "on",
                      "sector": 640 + 800 * i} for i in range(12)],
             werror="stop", rerror="stop", num_queues=queues)
    d.command("x-guest-workload-start", device="vd-d0", depth=16, verify=True,
              block_size=65536, read_percent=40, seed=1, max_ops=1500)
    stops = 0
    while True:
        info = d.command("x-guest-workload-query", device="vd-d0")
        if not info["active"]:
            break
        if status(d) == "io-error":
            stops += 1
            d.command("cont")
    assert stops
    assert info["errors"] == info["mismatches"] == 0, info
    assert info["reads"] + info["writes"] == 1500
    events = [e for e, _ in io_events(d)]
    assert events.count("STOP") == events.count("RESUME") == stops
    assert events.count("BLOCK_IO_ERROR") >= stops


@pytest.fixture
def small_directory(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none",
                           path], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr}")
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_space_comes_back_and_the_guest_never_knew(start, small_directory):
    d = make(start, directory=small_directory)
    d.command("x-guest-workload-start", device="vd-d0", depth=8, verify=True,
              block_size=65536, sequential=True, seed=2, max_ops=128)
    event = d.qmp.wait_event("BLOCK_IO_ERROR")
    assert (event["event"], event["data"]) == io_error("write", "stop", ENOSPC)
    d.qmp.wait_event("STOP")
    assert status(d) == "io-error"
    d.command("cont")
    d.qmp.wait_event("STOP")
    subprocess.run(["mount", "-o", "remount,size=32m", small_directory],
                   check=True)
    d.command("cont")
    info = {"active": True}
    while info["active"]:
        info = d.command("x-guest-workload-query", device="vd-d0")
    assert info["errors"] == 0 and info["writes"] == 128, info
    d.command("x-guest-workload-start", device="vd-d0", depth=8, verify=True,
              block_size=65536, sequential=True, read_percent=100, max_ops=128)
    info = {"active": True}
    while info["active"]:
        info = d.command("x-guest-workload-query", device="vd-d0")
    assert info["mismatches"] == info["unverified"] == 0, info
    assert info["reads"] == 128


@pytest.mark.parametrize("end", ["stop", "terminate", "reset"])
def test_held_requests_do_not_hold_up_the_end(start, end):
    d = make(start, [{"event": "none", "iotype": "write", "errno": ENOSPC}])
    d.command("x-guest-workload-start", device="vd-d0", depth=16)
    d.qmp.wait_event("STOP")
    if end == "reset":
        d.command("x-guest-reset", device="vd-d0")
        d.command("cont")
        assert request(d, "read", 0, 512)["status"] == "ok"
        d.stop()
    else:
        getattr(d, end)()


def test_stop_and_cont(start):
    d = make(start)
    d.command("x-guest-workload-start", device="vd-d0", depth=8, verify=True,
              read_percent=50)
    wait_for_writes(d, "vd-d0", 1)
    for _ in range(20):
        d.command("stop")
        assert d.command("query-status")["running"] is False
        before = d.command("x-guest-workload-query", device="vd-d0")
        with pytest.raises(QmpError, match="not running"):
            request(d, "write", 0, 512)
        after = d.command("x-guest-workload-query", device="vd-d0")
        assert before["writes"] == after["writes"]
        d.command("cont")
    info = d.command("x-guest-workload-stop", device="vd-d0")
    assert info["errors"] == info["mismatches"] == 0
    assert info["writes"]


VIOLATIONS = ["loop", "address", "head", "avail-index", "zero-length",
              "no-status", "short-header", "indirect"]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("queues", [1, 2])
def test_violations_need_a_reset(start, queues, busy):
    d = make(start, num_queues=queues)
    d.command("block-dirty-bitmap-add", node="d0", name="b")
    assert request(d, "write", 0, 64 * KIB, pattern=5)["status"] == "ok"
    d.command("block-dirty-bitmap-clear", node="d0", name="b")
    for what in VIOLATIONS:
        if busy:
            d.command("x-guest-workload-start", device="vd-d0", depth=16,
                      offset=4 * MIB, read_percent=50)
        d.command("x-guest-inject-malformed", device="vd-d0", what=what)
        for op in ("read", "write", "flush"):
            assert request(d, op, 0, 0 if op == "flush" else 512)[
                "status"] == "needs-reset", what
        d.command("x-guest-reset", device="vd-d0")
        assert request(d, "read", 0, 64 * KIB, pattern=5, verify=True) == {
            "status": "ok"}, what
        assert d.command("query-status")["running"]
    if not busy:
        assert bitmaps(d)["d0/b"]["count"] == 0
    assert request(d, "write", 0, 512, pattern=5)["status"] == "ok"


@pytest.mark.parametrize("op", ["write", "write-zeroes", "discard"])
def test_what_marks_bitmaps(start, op):
    d = make(start)
    for granularity in (512, 4096, 65536, MIB):
        d.command("block-dirty-bitmap-add", node="d0", name=f"g{granularity}",
                  granularity=granularity)
    d.command("block-dirty-bitmap-add", node="d0", name="off", disabled=True)

    def counts():
        return {n.split("/")[1]: b["count"] for n, b in bitmaps(d).items()}
    assert request(d, "read", 0, SIZE)["status"] == "ok"
    assert request(d, "flush")["status"] == "ok"
    assert set(counts().values()) == {0}
    assert guest_request(d, "d0", op, 3 * MIB - 512, 1024) == "ok"
    assert counts() == {"g512": 1024, "g4096": 8192, "g65536": 131072,
                        f"g{MIB}": 2 * MIB, "off": 0}
    assert guest_request(d, "d0", op, SIZE - 4096, 4096) == "ok"
    assert counts() == {"g512": 5120, "g4096": 12288, "g65536": 196608,
                        f"g{MIB}": 3 * MIB, "off": 0}
    assert guest_request(d, "d0", op, 0, SIZE) == "ok"
    assert counts() == {"g512": SIZE, "g4096": SIZE, "g65536": SIZE,
                        f"g{MIB}": SIZE, "off": 0}


def test_beyond_the_end(start):
    d = make(start, size=SIZE + 512)
    d.command("block-dirty-bitmap-add", node="d0", name="b")
    for op in ("read", "write", "write-zeroes", "discard"):
        assert request(d, op, SIZE + 512, 512)["status"] == "ioerr", op
        assert request(d, op, SIZE, 1024)["status"] == "ioerr", op
        assert request(d, op, 1 << 60, 512)["status"] == "ioerr", op
        assert request(d, op, (1 << 63) - 512, 512)["status"] == "ioerr", op
    assert bitmaps(d)["d0/b"]["count"] == 0
    assert request(d, "write", SIZE, 512)["status"] == "ok"
    assert os.path.getsize(d.image) == SIZE + 512
    for wrong in ({"offset": 1}, {"length": 513}, {"offset": -512},
                  {"length": -512}):
        with pytest.raises(QmpError):
            d.command("x-guest-request", device="vd-d0", op="read",
                      **{"offset": 0, "length": 512, **wrong})


def test_a_read_only_disk(start):
    d = make(start, node={"read-only": "on"})
    assert request(d, "read", 0, 4096)["status"] == "ok"
    assert request(d, "flush")["status"] == "ok"
    for op in ("write", "write-zeroes", "discard"):
        assert request(d, op, 0, 4096)["status"] in ("ioerr", "unsupp"), op
    assert status(d) == "running"


def test_serial_numbers(start):
    d = make(start, serial="0123456789abcdefghij")
    assert request(d, "get-id") == {"status": "ok",
                                    "id": "0123456789abcdefghij"}


def test_a_guest_that_finds_the_disk_larger(start):
    d = make(start)
    d.command("block-dirty-bitmap-add", node="d0", name="b")
    assert request(d, "write", SIZE, 512)["status"] == "ioerr"
    d.command("block_resize", node_name="d0", size=2 * SIZE)
    assert request(d, "write", SIZE, 512)["status"] == "ok"
    assert request(d, "write", 2 * SIZE - 512, 512)["status"] == "ok"
    assert request(d, "write", 2 * SIZE, 512)["status"] == "ioerr"


@pytest.mark.parametrize("packed", ["off", "on"])
def test_one_queue_is_reset_under_load(start, packed):
    d = make(start, packed=packed, num_queues=2)
    d.command("x-guest-workload-start", device="vd-d0", depth=32, verify=True,
              **{"read-percent": 50})
    wait_for_writes(d, "vd-d0", 1)
    for i in range(20):
        d.command("x-guest-reset", device="vd-d0", queue=i % 2)
        assert request(d, "flush") == {"status": "ok"}
    with pytest.raises(QmpError, match="Queue 2, but there are 2"):
        d.command("x-guest-reset", device="vd-d0", queue=2)
    info = d.command("x-guest-workload-query", device="vd-d0")
    assert info["active"] and info["writes"]
    d.command("x-guest-workload-stop", device="vd-d0")
    info = d.command("x-guest-workload-query", device="vd-d0")
    assert info["mismatches"] == info["errors"] == 0, info


def test_nobody_has_such_a_device(varved):
    for command, more in (("x-guest-request", {"op": "read"}),
                          ("x-guest-workload-query", {}),
                          ("x-guest-reset", {}),
                          ("x-guest-inject-malformed", {"what": "loop"})):
        with pytest.raises(QmpError) as e:
            varved.command(command, device="nope", **more)
        assert e.value.cls == "DeviceNotFound"


def test_a_device_on_an_io_thread(start):
    """Errors, stop and cont, a workload, backups and the end, all from there."""
    daemon = make(start, rules=[{"event": "write_aio", "errno": ENOSPC,
                                 "once": "on"}],
                  threads=["t0"], iothread="t0", werror="stop")
    assert "in use" in daemon.call("object-del", id="t0")["error"]["desc"]
    assert request(daemon, "write", 0, 4096, pattern=1)["status"] == "held"
    assert io_events(daemon) == [io_error("write", "stop", ENOSPC),
                                 ("STOP", None)]
    assert status(daemon) == "io-error"
    daemon.command("cont")
    assert io_events(daemon) == [("RESUME", None)]
    assert request(daemon, "read", 0, 4096, pattern=1,
                   verify=True)["status"] == "ok"

    daemon.command("block-dirty-bitmap-add", node="d0", name="b")
    daemon.command("x-guest-workload-start", device="vd-d0", depth=8,
                   **{"read-percent": 30, "verify": True})
    daemon.command("blockdev-add", driver="null-co", node_name="target",
                   size=SIZE)
    for i in range(3):
        wait_for_writes(daemon, "vd-d0", 20)
        daemon.command("blockdev-backup", job_id="j", device="d0",
                       target="target", sync="incremental", bitmap="b")
        daemon.command("stop")
        daemon.command("cont")
        assert daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")["data"][
            "offset"] > 0
        daemon.qmp.wait_event("JOB_STATUS_CHANGE", id="j", status="null")
        daemon.command("human-monitor-command",
                       command_line='qemu-io target "write 0 64k"')
    info = daemon.command("x-guest-workload-stop", device="vd-d0")
    assert info["writes"] > 0 and info["mismatches"] == info["errors"] == 0
    [disk] = daemon.command("query-block")
    assert disk["qdev"] == "vd-d0"
    # The target of a job goes home after it, so that this one can come.
    daemon.command("blockdev-del", node_name="target")


def test_a_device_on_no_known_thread():
    r = subprocess.run([program("varved"), "--blockdev", "null-co,node-name=n",
                        "--device", "virtio-blk,drive=n,iothread=nosuch"],
                       capture_output=True, text=True)
    assert r.returncode == 1
    assert "Device 'nosuch' not found" in r.stderr

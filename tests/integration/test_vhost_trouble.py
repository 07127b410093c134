"""vhost-user exports in trouble: a disk that is really full, errors below, and
clients that stall or die in the middle of a message."""
import os
import socket
import struct
import subprocess
import threading

import pytest

from lib import Varved, images, program
from lib.qmp import TIMEOUT
from test_vhost_driver import MIB, io, options, serve

# The daemon has a small file system of its own, which other processes reach
# through /proc.
SMALL = """#!/bin/sh
mkdir -p small && mount -t tmpfs -o size=4M tmpfs small && exec {} "$@"
"""


@pytest.fixture
def small(start, tmp_path):
    """A daemon, and its file system."""
    inside = tmp_path / "inside"
    inside.write_text(SMALL.format(os.path.abspath(program("varved"))))
    script = tmp_path / "varved"
    script.write_text(f'#!/bin/sh\nexec unshare -rm sh {inside} "$@"\n')
    script.chmod(0o755)
    daemon = start(Varved, path=str(script))
    return daemon, f"/proc/{daemon.process.pid}/cwd/small"


def client(daemon, *commands):
    """varve-io on the export, which may have to wait."""
    return subprocess.Popen(
        [program("varve-io"), *(a for c in commands for a in ("-c", c)),
         "--image-opts", options(daemon)], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("policy", ["enospc", "stop"])
def test_a_full_disk_stops_the_guest_until_there_is_room(small, policy,
                                                         image_format):
    daemon, folder = small
    images.qemu_img("create", "-q", "-f", image_format, f"{folder}/disk", "8M")
    with open(f"{folder}/ballast", "wb") as f:
        f.write(bytes(3 * MIB))
    daemon.command("blockdev-add", driver=image_format, node_name="n", file={
        "driver": "file", "filename": "small/disk"})
    daemon.command("block-export-add", type="vhost-user-blk", id="e",
                   node_name="n", writable=True, werror=policy,
                   addr={"type": "unix", "path": daemon.path("s")})
    guest = client(daemon, "write -P 7 0 2M", "flush", "read -P 7 0 2M")
    event = daemon.qmp.wait_event("BLOCK_IO_ERROR")["data"]
    assert event["operation"] == "write" and event["nospace"] is True and \
        event["action"] == "stop"
    daemon.qmp.wait_event("STOP")
    assert daemon.command("query-status")["status"] == "io-error"
    # Still no room: it stops again.
    daemon.command("cont")
    daemon.qmp.wait_event("BLOCK_IO_ERROR")
    daemon.qmp.wait_event("STOP")
    assert guest.poll() is None
    os.unlink(f"{folder}/ballast")
    daemon.command("cont")
    out, _ = guest.communicate(timeout=TIMEOUT)
    assert guest.returncode == 0 and "failed" not in out, out
    assert daemon.command("query-status")["status"] == "running"
    daemon.command("block-export-del", id="e")
    daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
    daemon.command("blockdev-del", node_name="n")
    if image_format == "qcow2":
        images.check(f"{folder}/disk")


@pytest.mark.parametrize("what", ["read", "write"])
@pytest.mark.parametrize("policy", ["report", "ignore", "stop"])
def test_an_error_below_is_treated_as_the_export_says(start, tmp_path, what,
                                                      policy):
    path = tmp_path / "disk"
    path.write_bytes(b"\5" * MIB)
    daemon = start(Varved)
    daemon.command("blockdev-add", driver="raw", node_name="n", file={
        "driver": "blkdebug", "inject-error": [
            {"event": "none", "iotype": what, "errno": 5, "once": True}],
        "image": {"driver": "file", "filename": str(path)}})
    daemon.command("block-export-add", type="vhost-user-blk", id="e",
                   node_name="n", writable=True, **{
                       "rerror" if what == "read" else "werror": policy},
                   addr={"type": "unix", "path": daemon.path("s")})
    line = "read -P 5 0 64k" if what == "read" else "write -P 6 0 64k"
    guest = client(daemon, line)
    event = daemon.qmp.wait_event("BLOCK_IO_ERROR")["data"]
    assert [event["operation"], event["action"], event["nospace"]] == \
        [what, policy, False]
    if policy == "stop":
        daemon.qmp.wait_event("STOP")
        assert guest.poll() is None
        daemon.command("cont")
    out, _ = guest.communicate(timeout=TIMEOUT)
    if policy == "report":
        assert f"{what} failed: Input/output error" in out
    elif (what, policy) == ("read", "ignore"):
        assert "failed: Input/output" not in out
    else:
        assert guest.returncode == 0 and "failed" not in out, out
    if what == "write":
        assert path.read_bytes()[0] == (6 if policy == "stop" else 5)


# ---- messages ---------------------------------------------------------------

GET_FEATURES, SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 1, 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE = 8, 9, 10
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_CONFIG = 15, 16, 24


def message(request, payload=b""):
    return struct.pack("<III", request, 1, len(payload)) + payload


FEATURES = struct.pack("<Q", 1 << 32 | 1 << 30)
MESSAGES = [
    message(GET_FEATURES), message(SET_OWNER),
    message(SET_FEATURES, FEATURES), message(GET_PROTOCOL_FEATURES),
    message(SET_PROTOCOL_FEATURES, struct.pack("<Q", 1 << 9)),
    message(GET_CONFIG, struct.pack("<III", 0, 60, 0) + bytes(60)),
    message(SET_MEM_TABLE, struct.pack("<II", 1, 0) +
            struct.pack("<QQQQ", 0, MIB, 0, 0)),
    message(SET_VRING_NUM, struct.pack("<II", 0, 128)),
    message(SET_VRING_BASE, struct.pack("<II", 0, 0)),
    message(SET_VRING_ADDR, bytes(40)),
]


def connect(daemon):
    s = socket.socket(socket.AF_UNIX)
    s.connect(daemon.path("s"))
    s.settimeout(TIMEOUT)
    return s


def answer(s):
    data = s.recv(20, socket.MSG_WAITALL)
    assert struct.unpack("<III", data[:12]) == (GET_FEATURES, 5, 8)
    return data[12:]


@pytest.fixture
def export(start, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(MIB))
    return serve(start, Varved, path, "writable=on")


@pytest.mark.parametrize("sent", [0, 1, 11, 12, 15])
def test_who_stalls_in_a_message_holds_nobody_else_up(export, sent):
    with connect(export) as first:
        first.sendall(message(SET_FEATURES, FEATURES)[:sent])
        with connect(export) as second:
            second.sendall(message(GET_FEATURES))
            assert export.command("query-status")["running"]
            assert export.command("query-block-exports")[0]["id"] == "e"
            first.close()
            answer(second)


def test_who_reads_no_answer_holds_nobody_else_up(export):
    with connect(export) as first:
        first.setblocking(False)
        flood = message(GET_FEATURES) * 1000
        try:
            while True:
                first.send(flood)
                # The export may end the connection: it asks too much.
                assert export.command("query-status")["running"]
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            pass
        assert export.command("query-status")["running"]
        export.command("block-export-del", id="e", mode="hard")
        export.qmp.wait_event("BLOCK_EXPORT_DELETED")


def test_a_client_may_die_anywhere_in_a_message(export):
    before = b""
    for part in MESSAGES:
        for sent in range(len(part) + 1):
            with connect(export) as s:
                s.sendall(before + part[:sent])
        before += part
    with connect(export) as s:
        s.sendall(message(GET_FEATURES))
        answer(s)
    io(export, "write -P 3 0 64k", "read -P 3 0 64k")
    assert export.command("query-status")["running"]


def test_clients_die_while_others_wait(export):
    """Many at once, each gone in the middle of something."""
    def die(number):
        with connect(export) as s:
            s.sendall(b"".join(MESSAGES[:number % 4]) + b"\1\0\0")

    threads = [threading.Thread(target=die, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    io(export, "write -P 4 0 64k", "read -P 4 0 64k")

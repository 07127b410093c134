"""The driver virtio-blk-vhost-user: disks that another program serves."""
import json
import os
import subprocess
import threading
import time

import pytest

from lib import Oracle, Varved, images, program
from lib.qmp import TIMEOUT

MIB = 1 << 20
SIZE = 16 * MIB


def serve(start, kind, path, *more, image_format="raw"):
    """A daemon that exports an image; the socket is daemon.path("s")."""
    return start(kind, "--blockdev", f"file,filename={path},node-name=f",
                 "--blockdev", f"{image_format},file=f,node-name=n",
                 "--export", ",".join(("vhost-user-blk,id=e,node-name=n,"
                                       "addr.type=unix,addr.path=s", *more)))


def options(daemon, **more):
    return ",".join(["driver=virtio-blk-vhost-user",
                     f"path={daemon.path('s')}",
                     *(f"{k.replace('_', '-')}={v}" for k, v in more.items())])


def io(daemon, *commands, **more):
    """The output of varve-io on the export."""
    done = run_io(daemon, *commands, **more)
    assert done.returncode == 0 and not done.stderr, (done.stdout, done.stderr)
    return done.stdout


def run_io(daemon, *commands, flags=(), **more):
    args = [*flags, *(a for c in commands for a in ("-c", c))]
    return subprocess.run([program("varve-io"), *args, "--image-opts",
                           options(daemon, **more)], capture_output=True,
                          text=True, timeout=TIMEOUT)


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "disk.raw"
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


@pytest.mark.parametrize("kind", [Varved, Oracle])
def test_requests_reach_the_image(start, raw, kind):
    daemon = serve(start, kind, raw, "writable=on")
    out = io(daemon, "write -P 1 1M 3M", "read -P 1 1M 3M", "flush",
             "write -P 2 513k 5k", "read -P 0 512k 1k", "read -P 2 513k 5k",
             "write -z 2M 64k", "read -P 0 2M 64k", "discard 8M 1M",
             "write -q -P 3 15M 1M", "read -P 3 15M 1M", "length")
    assert out.splitlines()[-1] == "16 MiB"
    data = raw.read_bytes()
    assert data[MIB:2 * MIB] == b"\1" * MIB
    assert data[2 * MIB:2 * MIB + 65536] == bytes(65536)
    assert data[513 << 10:518 << 10] == b"\2" * (5 << 10)
    assert data[15 * MIB:] == b"\3" * MIB
    assert "Pattern verification failed" in run_io(
        daemon, "read -P 9 1M 1M").stdout
    done = run_io(daemon, "read 16M 512")
    assert done.returncode == 1


@pytest.mark.parametrize("kind", [Varved, Oracle])
def test_many_requests_at_once(start, raw, kind):
    daemon = serve(start, kind, raw, "writable=on")
    # More than the ring has room for.
    out = io(daemon, *(f"aio_write -q -P {1 + i % 200} {i * 32}k 32k"
                       for i in range(400)), "aio_flush",
             *(f"read -P {1 + i % 200} {i * 32}k 32k" for i in range(400)))
    assert "failed" not in out


@pytest.mark.parametrize("kind", [Varved, Oracle])
def test_conversion_of_a_served_image(start, tmp_path, kind):
    path = tmp_path / "disk.qcow2"
    images.create(str(path), SIZE)
    subprocess.run([program("qemu-io"), "-c", "write -P 7 3M 2M", "-c",
                    "write -P 8 10M 4k", str(path)], check=True,
                   stdout=subprocess.DEVNULL)
    daemon = serve(start, kind, path, image_format="qcow2")
    out = tmp_path / "out.qcow2"
    name = "json:" + json.dumps({"driver": "virtio-blk-vhost-user",
                                 "path": daemon.path("s")})
    subprocess.run([program("varve-img"), "convert", "-O", "qcow2", name,
                    str(out)], check=True, timeout=TIMEOUT)
    daemon.stop()
    images.assert_equal(str(path), str(out), "qcow2")


@pytest.mark.parametrize("kind", [Varved, Oracle])
def test_read_only_disk(start, raw, kind):
    daemon = serve(start, kind, raw)
    done = run_io(daemon, "read 0 4k")
    assert done.returncode == 1
    assert done.stderr == "varve-io: can't open: The disk is read-only\n"
    io(daemon, "read 0 4k", flags=["-r"])


def test_nobody_there(start, tmp_path):
    class Nobody:
        @staticmethod
        def path(name):
            return str(tmp_path / name)
    done = run_io(Nobody, "read 0 4k")
    assert done.returncode == 1
    assert done.stderr == ("varve-io: can't open: Failed to connect to "
                           f"'{tmp_path}/s': No such file or directory\n")


def eventually(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def size_of(daemon, node):
    return {n["node-name"]: n["image"]["virtual-size"] for n in
            daemon.command("query-named-block-nodes")}[node]


def test_resize_is_seen(start, raw):
    behind = serve(start, Varved, raw, "writable=on")
    front = start(Varved)
    front.command("blockdev-add", driver="virtio-blk-vhost-user", node_name="v",
                  path=behind.path("s"))
    assert size_of(front, "v") == SIZE
    behind.command("block_resize", node_name="n", size=2 * SIZE)
    eventually(lambda: size_of(front, "v") == 2 * SIZE)
    front.command("blockdev-del", node_name="v")


def test_export_of_an_export(start, raw):
    behind = serve(start, Varved, raw, "writable=on")
    front = start(Varved, "--blockdev",
                  f"virtio-blk-vhost-user,path={behind.path('s')},node-name=n",
                  "--export", "vhost-user-blk,id=e,node-name=n,writable=on,"
                  "addr.type=unix,addr.path=s")
    io(front, "write -P 5 1M 2M", "read -P 5 1M 2M", "flush")
    assert raw.read_bytes()[MIB:3 * MIB] == b"\5" * (2 * MIB)


def test_lost_back_end_fails_requests(start, raw):
    behind = serve(start, Varved, raw, "writable=on")
    front = start(Varved)
    front.command("blockdev-add", driver="virtio-blk-vhost-user", node_name="v",
                  path=behind.path("s"))
    behind.kill()
    answer = front.command("human-monitor-command",
                           command_line='qemu-io v "write 0 4k"')
    assert answer == "write failed: Input/output error\n"
    front.command("blockdev-del", node_name="v")


@pytest.mark.parametrize("kind", [Varved, Oracle])
def test_requests_wait_for_another_back_end(start, raw, kind):
    behind = serve(start, kind, raw, "writable=on")
    front = start(Varved)
    front.command("blockdev-add", driver="virtio-blk-vhost-user", node_name="v",
                  path=behind.path("s"), reconnect_delay=60)
    behind.kill()
    os.unlink(behind.path("s"))
    answer = []
    other = front.connect(socket=1)
    writer = threading.Thread(target=lambda: answer.append(other.command(
        "human-monitor-command", command_line='qemu-io v "write -P 6 0 4k"')))
    writer.start()
    behind.restart()
    writer.join(TIMEOUT)
    assert answer and answer[0].startswith("wrote 4096/4096"), answer
    assert raw.read_bytes()[:4096] == b"\6" * 4096
    front.command("blockdev-del", node_name="v")


def test_patience_ends(start, raw):
    behind = serve(start, Varved, raw, "writable=on")
    front = start(Varved)
    front.command("blockdev-add", driver="virtio-blk-vhost-user", node_name="v",
                  path=behind.path("s"), reconnect_delay=1)

    def write():
        return front.command("human-monitor-command",
                             command_line='qemu-io v "write -P 6 0 4k"')

    behind.kill()
    assert write() == "write failed: Input/output error\n"
    behind.restart()
    eventually(lambda: write().startswith("wrote 4096/4096"))
    front.command("blockdev-del", node_name="v")

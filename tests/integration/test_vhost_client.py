"""A guest of our own on the rings of either daemon: what it reads is what it
wrote, with every way to set up memory and rings, and across the death of the
daemon."""
import os
import random
import signal
import socket
import subprocess
import time

import pytest

from lib import Oracle, Varved, images, program
from lib.vhost import Client, client_program

MIB = 1 << 20
# In a long run, VARVE_KILLS=1000.
KILLS = int(os.environ.get("VARVE_KILLS", "50"))

WAYS = {
    "plain": {},
    "two queues": {"queues": 2},
    "no indirect descriptors": {"indirect": 0},
    "no event index": {"event_idx": 0},
    "neither": {"indirect": 0, "event_idx": 0},
    "a table of memory": {"slots": 0},
    "no acknowledgements": {"ack": 0, "slots": 0},
    "no in-flight region": {"inflight": 0},
    "many buffers": {"segments": 8},
    "a small ring": {"size": 16, "depth": 8},
    "large requests": {"bs": 262144, "depth": 4},
    "one at a time": {"depth": 1, "poll": 1},
}


def export(image, **more):
    options = {"id": "e", "node-name": "n", "addr.type": "unix",
               "addr.path": "s", "writable": "on", "num-queues": 2, **more}
    driver = "qcow2" if image.endswith(".qcow2") else "raw"
    return ("--blockdev", f"driver=file,filename={image},node-name=f",
            "--blockdev", f"driver={driver},file=f,node-name=n", "--export",
            ",".join(["vhost-user-blk",
                      *(f"{k}={v}" for k, v in options.items())]))


def new_image(directory, image_format, size=8 * MIB):
    path = str(directory / f"disk.{image_format}")
    images.qemu_img("create", "-q", "-f", image_format, path, size)
    return path


@pytest.mark.parametrize("kind", [Varved, Oracle])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_read_was_written(start, tmp_path, kind, way):
    daemon = start(kind, *export(new_image(tmp_path, "raw")))
    options = {"rw": 40, "discard": 3, "zeroes": 5, "flush": 50, "verify": 1,
               "poll": 0, **WAYS[way]}
    with Client(daemon.path("s"), **options) as client:
        while client.stats()["ops"] < 500:
            time.sleep(0.01)
        load, check = client.finish()
    assert load["mismatches"] == check["mismatches"] == 0
    assert check["ops"] == 8 * MIB // options.get("bs", 4096)
    assert "warning: " not in daemon.stderr()


@pytest.mark.parametrize("way", ["plain", "no indirect descriptors",
                                 "no event index"])
def test_packed_rings(start, tmp_path, way):
    daemon = start(Varved, *export(new_image(tmp_path, "raw")))
    with Client(daemon.path("s"), rw=40, verify=1, packed=1, poll=0,
                **WAYS[way]) as client:
        while client.stats()["ops"] < 500:
            time.sleep(0.01)
        load, _ = client.finish()
    assert int(load["features"], 16) & 1 << 34
    assert "warning: " not in daemon.stderr()


class Mortal:
    """A varved without monitors, that is killed and started again."""

    def __init__(self, directory, *args):
        self.directory = directory
        self.args = args
        self.process = None
        self.stderr = open(directory / "stderr", "ab")

    def start(self):
        self.process = subprocess.Popen([program("varved"), *self.args],
                                        cwd=self.directory, stderr=self.stderr)

    def kill(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def close(self):
        self.kill()
        self.stderr.close()


def wait_until_it_listens(path):
    while True:
        with socket.socket(socket.AF_UNIX) as s:
            try:
                return s.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.005)


def torture(tmp_path, rng, image_format, **options):
    image = new_image(tmp_path, image_format)
    daemon = Mortal(tmp_path, *export(image))
    client_program()
    try:
        daemon.start()
        wait_until_it_listens(str(tmp_path / "s"))
        with Client(str(tmp_path / "s"), verify=1, rw=30, zeroes=5, discard=2,
                    flush=40, depth=16, queues=2, poll=0, reconnect=100,
                    seed=rng.getrandbits(30), **options) as client:
            for i in range(KILLS):
                if i % 5 == 0:  # also in the middle of a set-up, but not only
                    goal = client.stats()["ops"] + 100
                    while client.stats()["ops"] < goal:
                        time.sleep(0.002)
                time.sleep(rng.expovariate(1 / 0.02))
                daemon.kill()
                daemon.start()
            load, check = client.finish()
    finally:
        daemon.close()
    print(f"{load['ops']} requests, {load['connections']} connections")
    assert load["errors"] == load["mismatches"] == 0, load
    assert check["errors"] == check["mismatches"] == 0, check
    assert load["connections"] >= KILLS / 5
    if image_format == "qcow2":
        images.check(image, leaks_allowed=True)


@pytest.mark.timeout(240 + 2 * KILLS)
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_nothing_is_lost_when_the_daemon_is_killed(tmp_path, seed, image_format,
                                                   ring):
    torture(tmp_path, random.Random(seed), image_format,
            packed=int(ring == "packed"))


def test_requests_are_repeated_without_a_region(tmp_path, seed):
    torture(tmp_path, random.Random(seed), "raw", inflight=0)

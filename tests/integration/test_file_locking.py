"""Who may open an image while somebody else has it: every pair of our programs
and QEMU's, in both directions, against what two of QEMU's do."""
import json
import os
import subprocess
import time

import pytest

from lib import Varved
from lib.daemon import program

FORMATS = ("raw", "qcow2")
SIDES = ("qemu", "varve")
TIMEOUT = 120


class Holder:
    """A program that has the image open until close()."""

    def __init__(self, side, args):
        self.process = subprocess.Popen(
            [program(f"{side}-io"), *args], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.process.stdin.write("length\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert "MiB" in line, line

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)

    def close(self):
        self.process.communicate("quit\n", timeout=TIMEOUT)


class OurNode:
    """A node of varved."""

    def __init__(self, directory, arguments):
        self.daemon = Varved(directory, sockets=1)
        self.daemon.command("blockdev-add", arguments)

    def kill(self):
        self.daemon.kill()

    def close(self):
        self.daemon.command("blockdev-del", {"node-name": "n"})
        self.daemon.stop()
        self.daemon.kill()


class QemuNode:
    """One of qemu-storage-daemon. Without a monitor: it loses what a client
    sends at once every thousandth time."""

    def __init__(self, directory, arguments):
        os.makedirs(directory, exist_ok=True)
        pidfile = os.path.join(directory, "pid")
        self.process = subprocess.Popen(
            [program("qemu-storage-daemon"), "--pidfile", pidfile,
             "--blockdev", json.dumps(arguments)])
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(pidfile):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def kill(self):
        self.process.kill()
        self.process.wait(TIMEOUT)

    def close(self):
        # A signal that comes just before its loop begins to wait is not
        # looked at until the next one.
        for _ in range(TIMEOUT):
            self.process.terminate()
            try:
                assert self.process.wait(1) == 0
                return
            except subprocess.TimeoutExpired:
                pass
        raise AssertionError("qemu-storage-daemon does not end")


# How an image is held: what follows `qemu-io`, or options of a node.
HOLDERS = {
    "write": ["-f", "{fmt}", "{image}"],
    "read": ["-r", "-f", "{fmt}", "{image}"],
    "forced": ["-r", "-U", "-f", "{fmt}", "{image}"],
    "unlocked": ["--image-opts", "driver={fmt},file.driver=file,"
                 "file.filename={image},file.locking=off"],
    "node": {"node-name": "n", "driver": "{fmt}",
             "file": {"driver": "file", "filename": "{image}"}},
    "node-read-only": {"node-name": "n", "driver": "{fmt}", "read-only": True,
                       "file": {"driver": "file", "filename": "{image}"}},
    "node-forced": {"node-name": "n", "driver": "{fmt}", "read-only": True,
                    "force-share": True,
                    "file": {"driver": "file", "filename": "{image}"}},
    "protocol": {"node-name": "n", "driver": "file", "filename": "{image}"},
}

# Who comes while it is held: a program and its arguments, the last of which
# may say what to do.
NEWCOMERS = {
    "write": ("io", "-f", "{fmt}", "-c", "length", "{image}"),
    "read": ("io", "-r", "-f", "{fmt}", "-c", "length", "{image}"),
    "forced": ("io", "-r", "-U", "-f", "{fmt}", "-c", "length", "{image}"),
    "unlocked": ("io", "-c", "length", "--image-opts",
                 "driver={fmt},file.driver=file,file.filename={image},"
                 "file.locking=off"),
    "info": ("img", "info", "-f", "{fmt}", "{image}"),
    "info -U": ("img", "info", "-U", "-f", "{fmt}", "{image}"),
    "convert from": ("img", "convert", "-f", "{fmt}", "-O", "raw", "{image}",
                     "{other}"),
    "convert from -U": ("img", "convert", "-U", "-f", "{fmt}", "-O", "raw",
                        "{image}", "{other}"),
    "convert to": ("img", "convert", "-f", "raw", "-O", "{fmt}", "{source}",
                   "{image}"),
    "compare": ("img", "compare", "-f", "{fmt}", "-F", "{fmt}", "{image}",
                "{image}"),
    "create": ("img", "create", "-q", "-f", "{fmt}", "{image}", "1M"),
}


def fill_in(what, **names):
    if isinstance(what, dict):
        return {k: fill_in(v, **names) for k, v in what.items()}
    if isinstance(what, (list, tuple)):
        return [fill_in(v, **names) for v in what]
    return what.format(**names) if isinstance(what, str) else what


@pytest.fixture
def names(tmp_path):
    image = tmp_path / "image"
    source = tmp_path / "source"
    source.write_bytes(bytes(1 << 20))
    return {"image": str(image), "other": str(tmp_path / "other"),
            "source": str(source)}


def make_image(names, fmt):
    subprocess.run([program("qemu-img"), "create", "-q", "-f", fmt,
                    names["image"], "1M"], check=True)


def hold(side, how, names, fmt, directory):
    what = fill_in(HOLDERS[how], fmt=fmt, **names)
    if isinstance(what, dict):
        kind = OurNode if side == "varve" else QemuNode
        return kind(str(directory), what)
    return Holder(side, what)


def come(side, who, names, fmt):
    """(let in?, what it says) with the program's own name taken out."""
    tool, *args = fill_in(NEWCOMERS[who], fmt=fmt, **names)
    argv = [program(f"{side}-{tool}"), *args]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, check=False)
    text = done.stderr.replace(f"{side}-{tool}:", "TOOL:")
    return done.returncode == 0, text


def outcomes(names, fmt, how, holder_side, sides, directory):
    """Of every newcomer of each side, in turn, on a fresh image."""
    seen = {}
    for who in NEWCOMERS:
        for side in sides:
            if os.path.exists(names["image"]):
                os.unlink(names["image"])
            make_image(names, fmt)
            held = hold(holder_side, how, names, fmt, directory)
            try:
                seen[who, side] = come(side, who, names, fmt)
            finally:
                held.close()
    return seen


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("how", HOLDERS)
def test_any_two_programs_are_as_two_of_qemu(names, tmp_path, fmt, how):
    expected = outcomes(names, fmt, how, "qemu", ("qemu",), tmp_path / "q")
    by_qemu = outcomes(names, fmt, how, "qemu", ("varve",), tmp_path / "q")
    by_us = outcomes(names, fmt, how, "varve", SIDES, tmp_path / "v")
    differ = []
    for who in NEWCOMERS:
        want = expected[who, "qemu"]
        for label, got in (("varve while qemu holds", by_qemu[who, "varve"]),
                           ("qemu while varve holds", by_us[who, "qemu"]),
                           ("varve while varve holds", by_us[who, "varve"])):
            if got != want:
                differ.append(f"{who}, {label}: {got}, but QEMU: {want}")
    assert not differ, "\n".join(differ)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("how", ("write", "node"))
def test_a_killed_holder_frees_the_image(names, tmp_path, how, side):
    make_image(names, "qcow2")
    other = SIDES[1 - SIDES.index(side)]
    held = hold(side, how, names, "qcow2", tmp_path / "d")
    refused = come(other, "write", names, "qcow2")
    assert not refused[0] and 'Failed to get "write" lock' in refused[1]
    held.kill()
    assert come(other, "write", names, "qcow2") == (True, "")


def test_qemu_nbd_and_our_node(names, tmp_path):
    """A server that lets several clients in, in both directions."""
    make_image(names, "qcow2")
    socket = str(tmp_path / "socket")
    argv = [program("qemu-nbd"), "--persistent", "-f", "qcow2", "-k", socket,
            names["image"]]
    server = subprocess.Popen(argv)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(socket):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not come("varve", "write", names, "qcow2")[0]
        assert not come("varve", "read", names, "qcow2")[0]
        assert come("varve", "forced", names, "qcow2") == (True, "")
    finally:
        server.kill()
        server.wait(TIMEOUT)
    os.unlink(socket)
    held = hold("varve", "node", names, "qcow2", tmp_path / "d")
    done = subprocess.run(argv, timeout=TIMEOUT, stderr=subprocess.PIPE,
                          text=True, check=False)
    assert done.returncode and 'Failed to get "write" lock' in done.stderr
    held.close()


def test_the_monitor_names_the_lock_without_the_hint(names, tmp_path):
    node = fill_in(HOLDERS["node"], fmt="qcow2", **names)
    make_image(names, "qcow2")
    held = hold("qemu", "write", names, "qcow2", tmp_path)
    with Varved(tmp_path / "v") as daemon:
        answer = daemon.call("blockdev-add", node)
        assert answer["error"] == {
            "class": "GenericError", "desc": 'Failed to get "write" lock'}
        held.close()
        daemon.command("blockdev-add", node)

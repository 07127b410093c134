"""A guest on a node of either program: the in-process guest of ours, a client
of an NBD export of theirs."""
import json
import os
import subprocess
import time

from .daemon import Varved, program
from .qmp import TIMEOUT

UNIT = 1024


def device_args(daemon_kind, node, **properties):
    """Options that put a guest's disk on a node."""
    if not issubclass(daemon_kind, Varved):
        return []
    more = "".join(f",{k.replace('_', '-')}={v}"
                   for k, v in properties.items())
    return ["--device", f"virtio-blk,drive={node},id=vd-{node}{more}"]


def attach_guest(daemon, node):
    """What device_args() leaves to do when the program runs."""
    if isinstance(daemon, Varved):
        return
    path = daemon.path("nbd.sock")
    if not os.path.exists(path):
        daemon.command("nbd-server-start", addr={
            "type": "unix", "data": {"path": path}})
    daemon.command("block-export-add", type="nbd", id=f"vd-{node}",
                   node_name=node, name=node, writable=True)


def guest_request(daemon, node, op, offset=0, length=0, pattern=0):
    """One request; "ok" or "error"."""
    if isinstance(daemon, Varved):
        more = {"pattern": pattern} if op == "write" else {}
        if op == "write-zeroes":
            more = {"unmap": True}
        return {"ok": "ok", "ioerr": "error"}[daemon.command(
            "x-guest-request", device=f"vd-{node}", op=op, offset=offset,
            length=length, **more)["status"]]
    line = {"write": f"write -P {pattern} {offset} {length}",
            "read": f"read {offset} {length}", "flush": "flush",
            "write-zeroes": f"write -z -u {offset} {length}",
            "discard": f"discard {offset} {length}"}[op]
    done = subprocess.run(
        [program("qemu-io"), "-f", "raw", "-c", line,
         f"nbd+unix:///{node}?socket={daemon.path('nbd.sock')}"],
        capture_output=True, text=True, timeout=TIMEOUT, check=False)
    text = done.stdout + done.stderr
    return "error" if done.returncode or "failed" in text else "ok"


def wait_for_writes(daemon, device, n):
    """Until the workload of a device of ours has written so much more."""
    def writes():
        return daemon.command("x-guest-workload-query",
                              device=device)["writes"]
    goal = writes() + n
    deadline = time.monotonic() + TIMEOUT
    while writes() < goal:
        assert time.monotonic() < deadline, "the guest stands still"
        time.sleep(0.005)


def guest(node, op, offset=0, length=0, pattern=0):
    """A step of a conversation."""
    def step(daemon):
        return guest_request(daemon, node, op, offset, length, pattern)
    step.__name__ = f"guest: {op} {offset}+{length}"
    return step


def guest_pair(start, kinds, nodes, files=None, rules=()):
    """Both programs with a raw node over a file disk-<name>.img for each name
    in `nodes` (name -> size), and a guest on it. files: name -> bytes at the
    start of the file. rules: what blkdebug injects below each."""
    daemons = []
    for kind in kinds:
        daemon = start.prepare(kind)
        for name, size in nodes.items():
            with open(daemon.path(f"disk-{name}.img"), "wb") as f:
                f.write((files or {}).get(name, b""))
                f.truncate(size)
            file = {"driver": "file", "filename": f"disk-{name}.img"}
            if rules:
                file = {"driver": "blkdebug", "image": file,
                        "inject-error": list(rules)}
            daemon.args += ["--blockdev", json.dumps(
                {"driver": "raw", "node-name": name, "file": file})]
        for name in nodes:
            daemon.args += device_args(kind, name)
        daemon.start()
        for name in nodes:
            attach_guest(daemon, name)
        daemons.append(daemon)
    return daemons

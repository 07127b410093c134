"""Backup jobs of varved beside the same jobs of qemu-storage-daemon."""
import os
import shutil
import subprocess
import time

from lib import Oracle, Varved

from . import report
from .convert import half_filled

SIZE = 4 << 30
CLUSTER = 64 << 10


def qcow2(path, size, backing=None):
    argv = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if backing:
        argv += ["-b", backing, "-F", "qcow2"]
    subprocess.run([*argv, path, *([] if backing else [str(size)])], check=True)


class Peer:
    """One daemon with the source opened, doing one backup a call."""

    def __init__(self, context, kind, source, patch, size):
        self.size = size
        self.dir = context.path(kind.name)
        self.source = context.path(f"{kind.name}.qcow2")
        shutil.copyfile(source, self.source)
        self.daemon = kind(
            self.dir,
            "--blockdev", "driver=qcow2,node-name=src,discard=unmap,"
            f"file.driver=file,file.filename={self.source}",
            "--blockdev", "driver=qcow2,node-name=patch,read-only=on,"
            f"file.driver=file,file.filename={patch}")
        self.number = 0
        self.peak_mib = 0

    def target(self):
        self.number += 1
        path = os.path.join(self.dir, f"t{self.number}.qcow2")
        qcow2(path, self.size)
        os.sync()
        node = f"t{self.number}"
        self.daemon.command("blockdev-add", {
            "driver": "qcow2", "node-name": node,
            "cache": {"no-flush": True},
            "file": {"driver": "file", "filename": path}})
        return node, path

    def backup(self, copied, **args):
        """MB/s over the bytes that had to be copied."""
        node, path = self.target()
        began = time.monotonic()
        self.daemon.command("blockdev-backup", {
            "job-id": node, "device": "src", "target": node, **args})
        event = self.daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=node,
                                           timeout=600)
        seconds = time.monotonic() - began
        assert "error" not in event["data"], event
        self.daemon.command("blockdev-del", {"node-name": node})
        self.daemon.qmp.take_events()
        os.unlink(path)
        with open(f"/proc/{self.daemon.process.pid}/status") as f:
            peak = [x for x in f if x.startswith("VmHWM")][0]
        self.peak_mib = int(peak.split()[1]) / 1024
        return copied / seconds / 1e6

    def full(self):
        return self.backup(self.size // 2, sync="full")

    def incremental(self):
        """With a bitmap that has every 20th cluster of 64 KiB set. The marks come
        from a backup of the patch into the source, which either daemon does."""
        args = {"node": "src", "name": f"b{self.number}"}
        self.daemon.command("block-dirty-bitmap-add", args)
        self.daemon.command("blockdev-backup", {
            "job-id": "patch", "device": "patch", "target": "src",
            "sync": "top"})
        self.daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device="patch")
        speed = self.backup(self.size // 20, sync="incremental",
                            bitmap=args["name"])
        self.daemon.command("block-dirty-bitmap-remove", args)
        return speed


def make_patch(path, size):
    qcow2(path, size)
    step = 20 * CLUSTER
    script = "".join(f"write -q {offset} {CLUSTER}\n"
                     for offset in range(0, size - CLUSTER, step))
    subprocess.run(["qemu-io", path], input=script.encode(), check=True,
                   stdout=subprocess.DEVNULL)


def run(context):
    size = SIZE // 8 if context.quick else SIZE
    raw, source = context.path("src.raw"), context.path("src.qcow2")
    patch = context.path("patch.qcow2")
    half_filled(raw, size)
    make_patch(patch, size)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, source],
                   check=True)
    os.unlink(raw)
    peers = [Peer(context, kind, source, patch, size)
             for kind in (Varved, Oracle)]
    os.unlink(source)
    rounds = 3 if context.quick else 5
    rows = [report.paired(context, "backup", row, getattr(peers[0], what),
                          getattr(peers[1], what), rounds, " MB/s")
            for row, what in (("full, half-filled", "full"),
                              ("incremental, 5 %", "incremental"))]
    memory = [p.peak_mib for p in peers]
    context.add("backup", "peak memory", varve=memory[0], qemu=memory[1],
                unit="MiB")
    rows.append(["peak memory", f"{memory[0]:.1f} MiB", f"{memory[1]:.1f} MiB",
                 f"{memory[1] / memory[0]:.2f}", ""])
    context.table("backup", f"Backup of a qcow2 disk of {size >> 20} MiB",
                  report.PAIRED_HEADER, rows)
    for peer in peers:
        peer.daemon.stop()
        os.unlink(peer.source)

"""Disks of a varved with a guest that writes, and their chains of backups."""
import os
import random

from . import images
from .daemon import Varved
from .guest import guest_request, wait_for_writes
from .steps import dashes

MIB = 1 << 20
SIZE = 24 * MIB
# At the end of a disk, where the workload of a guest does not write: what is
# dirty there only a job can copy, so that a slow one lasts as long as it must.
APART = 2 * MIB


class Disk:
    """A disk of a varved with a guest, and its chain of backups."""

    def __init__(self, name, daemon, rng):
        self.name, self.daemon, self.rng = name, daemon, rng
        self.image = daemon.path(f"disk-{name}.qcow2")
        self.chain = []
        self.instant = {}
        self.targets = 0

    def start_guest(self, **more):
        self.daemon.command(
            "x-guest-workload-start", device=f"vd-{self.name}", **{
                "rate": 1500, "depth": 8, "block_size": 4096, "verify": True,
                "read_percent": 30, "discard_percent": 3, "zeroes_percent": 3,
                "flush_every": 50, "length": SIZE - APART,
                "seed": self.rng.getrandbits(32), **more})

    def stop_guest(self):
        done = self.daemon.command("x-guest-workload-stop",
                                   device=f"vd-{self.name}")
        assert done["mismatches"] == 0 and done["errors"] == 0, done
        return done

    def wait_for_writes(self, n):
        """Until the guest has written so much more."""
        wait_for_writes(self.daemon, f"vd-{self.name}", n)

    def write_apart(self):
        """Two pieces, with something between them."""
        for offset in (SIZE - APART, SIZE - MIB // 2):
            assert guest_request(self.daemon, self.name, "write", offset,
                                 MIB // 2, self.rng.randrange(1, 256)) == "ok"

    def bitmap(self, name="b"):
        for b in self.daemon.command("query-named-block-nodes"):
            if b["node-name"] == self.name:
                return {m["name"]: m for m in b["dirty-bitmaps"]
                        if "name" in m}[name]
        raise AssertionError(f"no node {self.name}")

    def new_target(self, directory=None):
        self.targets += 1
        name = f"{self.name}-{self.targets}.qcow2"
        path = os.path.join(directory or self.daemon.directory, name)
        backing = self.chain[-1] if self.chain else None
        images.create(path, None if backing else SIZE, backing,
                      tool=self.rng.choice(["qemu-img", "varve-img"]))
        return path

    def add_node(self, path, rules=()):
        """Opens a target; its name."""
        node = f"target-{self.name}"
        file = {"driver": "file", "filename": path}
        if rules:
            file = {"driver": "blkdebug", "image": file,
                    "inject-error": list(rules)}
        self.daemon.command("blockdev-add", driver="qcow2", node_name=node,
                            file=file)
        return node

    def remove_node(self):
        self.daemon.command("blockdev-del", node_name=f"target-{self.name}")

    def action(self, target, sync, **more):
        return {"type": "blockdev-backup", "data": {
            "job-id": f"job-{self.name}", "device": self.name,
            "target": target, "sync": sync,
            **({"bitmap": "b"} if sync == "incremental" else {}),
            **dashes(more)}}

    def frozen(self):
        """Copies what the disk holds; the guest stands still."""
        copy = self.daemon.path(f"frozen-{self.name}.img")
        images.freeze(self.image, copy)
        return copy

    def verify(self, path, frozen):
        images.assert_equal(frozen, path)
        images.check(path)
        self.chain.append(path)

    def wait(self):
        """How the job ended: None, "cancelled", or its error."""
        return wait_all([self])[0]

    def resume_guest(self):
        """If an error has stopped it."""
        if self.daemon.command("query-status")["status"] == "io-error":
            self.daemon.command("cont")


def wait_all(disks):
    """How the jobs of all have ended, and gone."""
    qmp = disks[0].daemon.qmp
    ends, gone = {}, set()
    while len(gone) < len(disks):
        event = qmp.next_event()
        data = event.get("data", {})
        if event["event"] == "BLOCK_JOB_COMPLETED":
            ends[data["device"]] = data.get("error")
        elif event["event"] == "BLOCK_JOB_CANCELLED":
            ends[data["device"]] = "cancelled"
        elif event["event"] == "JOB_STATUS_CHANGE" and \
                data["status"] == "null" and data["id"] in ends:
            gone.add(data["id"])
    disks[0].resume_guest()
    return [ends[f"job-{d.name}"] for d in disks]


def backup_all(disks, sync, targets, mode=None, before=(), **more):
    """One instant for all: the frozen copies of it."""
    daemon = disks[0].daemon
    daemon.command("stop")
    frozen = [d.frozen() for d in disks]
    actions = [a for d in disks for a in before(d)] if before else []
    actions += [d.action(t, sync, **more) for d, t in zip(disks, targets)]
    daemon.command("transaction", actions=actions,
                   **({"properties": {"completion-mode": mode}} if mode
                      else {}))
    daemon.command("cont")
    return frozen


def add_bitmap(disk):
    return [{"type": "block-dirty-bitmap-add",
             "data": {"node": disk.name, "name": "b"}}]


def make_disks(start, seed, n, cluster=None):
    rng = random.Random(seed)
    daemon = start.prepare(Varved)
    disks = []
    for i in range(n):
        d = Disk(f"d{i}", daemon, rng)
        images.create(d.image, SIZE, cluster=cluster)
        daemon.args += [
            "--blockdev", f"driver=qcow2,node-name={d.name},discard=unmap,"
            f"file.driver=file,file.discard=unmap,file.filename={d.image}",
            # A write of the guest whose old data cannot be saved fails; held
            # until the job has gone, it is no error for the guest.
            "--device", f"virtio-blk,drive={d.name},id=vd-{d.name},"
            "werror=stop,rerror=stop"]
        disks.append(d)
    daemon.start()
    return disks


def full_backup(disk):
    path = disk.new_target()
    target = disk.add_node(path)
    frozen = backup_all([disk], "full", [target], before=add_bitmap)
    assert disk.wait() is None
    disk.remove_node()
    disk.verify(path, frozen[0])


def incremental(disk, **more):
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)], **more)
    end = disk.wait()
    disk.remove_node()
    assert end is None
    disk.verify(path, frozen[0])


def finish(disk):
    """The last incremental, with the guest at rest: the chain is the disk."""
    disk.stop_guest()
    incremental(disk)
    assert disk.bitmap()["count"] == 0
    disk.daemon.stop()
    images.assert_equal(disk.image, disk.chain[-1], "qcow2")
    images.check(disk.image)
    for path in disk.chain:
        images.check(path)

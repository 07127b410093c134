"""Chains of a full backup and incrementals, taken while a guest writes: each is
the disk at its instant, whatever failed on the way.

$VARVE_TEST_SEED repeats a run; the seed is printed when a test fails.
"""
import os
import random
import subprocess
import time

import pytest

from lib import QmpError, Varved, guest_request
from lib import images
from lib.steps import dashes

MIB = 1 << 20
SIZE = 24 * MIB


@pytest.fixture
def seed():
    value = int(os.environ.get("VARVE_TEST_SEED") or
                random.SystemRandom().getrandbits(32))
    print(f"VARVE_TEST_SEED={value}")
    return value


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
                "flush_every": 50, "seed": self.rng.getrandbits(32), **more})

    def stop_guest(self):
        done = self.daemon.command("x-guest-workload-stop",
                                   device=f"vd-{self.name}")
        assert done["mismatches"] == 0 and done["errors"] == 0, done
        return done

    def wait_for_writes(self, n):
        """Until the guest has written so much more."""
        def writes():
            return self.daemon.command("x-guest-workload-query",
                                       device=f"vd-{self.name}")["writes"]
        goal = writes() + n
        deadline = time.monotonic() + 20
        while writes() < goal:
            assert time.monotonic() < deadline, "the guest stands still"
            time.sleep(0.005)

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
        images.create(path, None if backing else SIZE, backing)
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
        while True:
            event = self.daemon.qmp.next_event()
            data = event.get("data", {})
            if data.get("device") != f"job-{self.name}":
                continue
            if event["event"] == "BLOCK_JOB_COMPLETED":
                end = data.get("error")
            elif event["event"] == "BLOCK_JOB_CANCELLED":
                end = "cancelled"
            else:
                continue
            self.daemon.qmp.wait_job(f"job-{self.name}", "null")
            self.resume_guest()
            return end

    def resume_guest(self):
        """If an error has stopped it."""
        if self.daemon.command("query-status")["status"] == "io-error":
            self.daemon.command("cont")


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


@pytest.fixture
def disk(start, seed):
    return make_disks(start, seed, 1)[0]


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


def test_each_backup_is_the_disk_at_its_instant(disk):
    disk.start_guest()
    disk.wait_for_writes(200)
    full_backup(disk)
    for _ in range(4):
        disk.wait_for_writes(100)
        incremental(disk)
    finish(disk)


def test_a_throttled_backup_keeps_its_instant(disk):
    """So slow that the guest overwrites much of what is still to be copied."""
    disk.start_guest(length=4 * MIB, offset=2 * MIB, read_percent=0)
    disk.wait_for_writes(800)
    full_backup(disk)
    disk.wait_for_writes(400)
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)],
                        speed=MIB // 2)
    disk.wait_for_writes(300)
    disk.daemon.command("block-job-set-speed", device="job-d0", speed=0)
    assert disk.wait() is None
    disk.remove_node()
    disk.verify(path, frozen[0])
    finish(disk)


def fail_by_error(disk):
    """An error at a random place of the target, by blkdebug."""
    path = disk.new_target()
    event = disk.rng.choice(["write_aio", "write_aio", "cluster_alloc",
                             "l2_update", "flush_to_disk", "read_aio"])
    rule = {"event": event, "errno": disk.rng.choice([5, 28]), "once": True,
            "immediately": disk.rng.random() < 0.5}
    if event == "write_aio" and disk.rng.random() < 0.7:
        rule["sector"] = disk.rng.randrange(640, 640 + SIZE // 512 // 2)
    try:
        node = disk.add_node(path, [rule])
    except QmpError:
        return None, path, None
    frozen = backup_all([disk], "incremental", [node])
    return frozen[0], path, disk.wait()


def fail_by_cancellation(disk):
    """Cancelled at a random time."""
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)],
                        speed=8 * MIB)
    time.sleep(disk.rng.random() * 0.05)
    answer = disk.daemon.call("block-job-cancel", device="job-d0",
                              force=disk.rng.random() < 0.5)
    assert "return" in answer or \
        answer["error"]["class"] == "DeviceNotActive", answer
    return frozen[0], path, disk.wait()


def test_no_dirty_bit_is_lost_by_failures(disk):
    disk.start_guest()
    disk.wait_for_writes(200)
    full_backup(disk)
    failures = 0
    for _ in range(14):
        disk.wait_for_writes(disk.rng.randrange(10, 120))
        attempt = disk.rng.choice([fail_by_error, fail_by_error,
                                   fail_by_cancellation])
        frozen, path, end = attempt(disk)
        if frozen is None:
            continue
        disk.remove_node()
        if end is None:
            disk.verify(path, frozen)
        else:
            failures += 1
            images.check(path, leaks_allowed=True)
            if disk.rng.random() < 0.5:
                incremental(disk)
    finish(disk)
    assert failures


@pytest.fixture
def small_directory(tmp_path):
    """A file system of its own with little space."""
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


def test_a_full_file_system(disk, small_directory):
    """The first attempt finds no space; nothing is lost, and the retry goes
    elsewhere. With the policy enospc the job waits for space instead."""
    disk.start_guest()
    disk.wait_for_writes(400)
    full_backup(disk)
    disk.wait_for_writes(400)
    before = disk.bitmap()["count"]
    assert before > 2 * MIB
    path = disk.new_target(small_directory)
    backup_all([disk], "incremental", [disk.add_node(path)])
    assert disk.wait() == "No space left on device"
    disk.remove_node()
    assert disk.bitmap()["count"] >= before
    images.check(path, leaks_allowed=True)
    os.unlink(path)
    incremental(disk)
    disk.wait_for_writes(400)
    path = disk.new_target(small_directory)
    frozen = backup_all([disk], "incremental", [disk.add_node(path)],
                        on_target_error="enospc")
    assert disk.daemon.qmp.wait_event("BLOCK_JOB_ERROR")["data"] == {
        "device": "job-d0", "operation": "write", "action": "stop"}
    deadline = time.monotonic() + 20
    while True:
        job, = disk.daemon.command("query-block-jobs")
        if job["status"] == "paused":
            break
        assert time.monotonic() < deadline, job
        time.sleep(0.005)
    assert job["io-status"] == "nospace"
    subprocess.run(["mount", "-o", "remount,size=32m", small_directory],
                   check=True)
    disk.daemon.command("block-job-resume", device="job-d0")
    assert disk.wait() is None
    disk.remove_node()
    disk.verify(path, frozen[0])
    finish(disk)


def test_resizing_keeps_the_chain(disk):
    """The disk grows between two incrementals."""
    disk.start_guest(length=SIZE)
    disk.wait_for_writes(200)
    full_backup(disk)
    disk.wait_for_writes(100)
    disk.stop_guest()
    before = disk.bitmap()["count"]
    disk.daemon.command("block_resize", node_name="d0", size=SIZE + 4 * MIB)
    # Whatever is new is dirty, as a backup must bring it.
    assert disk.bitmap()["count"] >= before
    assert guest_request(disk.daemon, "d0", "write", SIZE - 65536, 65536,
                         3) == "ok"
    path = disk.new_target()
    images.qemu_img("resize", "-q", path, SIZE + 4 * MIB)
    frozen = backup_all([disk], "incremental", [disk.add_node(path)])
    assert disk.wait() is None
    disk.remove_node()
    disk.verify(path, frozen[0])


@pytest.mark.parametrize("cluster", [512, 4096, 1 << 20])
def test_clusters_of_other_sizes(start, seed, cluster):
    disk, = make_disks(start, seed, 1, cluster)
    disk.start_guest(rate=800)
    disk.wait_for_writes(100)
    full_backup(disk)
    assert disk.bitmap()["granularity"] == min(65536, max(4096, cluster))
    disk.wait_for_writes(60)
    incremental(disk)
    finish(disk)

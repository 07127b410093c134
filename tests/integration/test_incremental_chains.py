"""Chains of a full backup and incrementals, taken while a guest writes: each is
the disk at its instant, whatever failed on the way.

$VARVE_TEST_SEED repeats a run; the seed is printed when a test fails.
"""
import os
import subprocess
import time

import pytest

from lib import QmpError, guest_request, images
from lib.disks import (MIB, SIZE, backup_all, finish, full_backup, incremental,
                       make_disks)


@pytest.fixture
def disk(start, seed):
    return make_disks(start, seed, 1)[0]


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
    disk.start_guest(length=16 * MIB, offset=2 * MIB, read_percent=0)
    disk.wait_for_writes(400)
    full_backup(disk)
    disk.write_apart()
    disk.wait_for_writes(400)
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)], speed=1)
    disk.wait_for_writes(150)
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
    """Cancelled at a random time, if it has not ended."""
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path)],
                        speed=8 * MIB)
    time.sleep(disk.rng.random() * 0.05)
    answer = disk.daemon.call("block-job-cancel", device="job-d0",
                              force=disk.rng.random() < 0.5)
    assert "return" in answer or \
        answer["error"]["class"] == "DeviceNotActive", answer
    return frozen[0], path, disk.wait()


def fail_for_certain(disk):
    """A target that takes nothing."""
    path = disk.new_target()
    frozen = backup_all([disk], "incremental", [disk.add_node(path, [
        {"event": "none", "iotype": "write", "errno": 5}])])
    return frozen[0], path, disk.wait()


def test_no_dirty_bit_is_lost_by_failures(disk):
    disk.start_guest()
    disk.wait_for_writes(200)
    full_backup(disk)
    attempts = [disk.rng.choice([fail_by_error, fail_by_error,
                                 fail_by_cancellation]) for _ in range(13)]
    failures = 0
    for attempt in [*attempts, fail_for_certain]:
        disk.wait_for_writes(disk.rng.randrange(10, 120))
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
    disk.daemon.qmp.wait_paused("job-d0")
    job, = disk.daemon.command("query-block-jobs")
    assert job["status"] == "paused" and job["io-status"] == "nospace"
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

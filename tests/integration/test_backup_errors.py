"""Errors of the source and of the target of a backup, and what each policy
makes of them, compared with qemu-storage-daemon's."""
import os

import pytest

from lib import (Oracle, QmpError, Varved, guest, guest_pair, play,
                 same_conversation)
from lib.steps import (backup, bitmap, bitmaps, content, failing_node, jobs,
                       new_file, raw_node, until, until_held, verb)

KIB = 1 << 10
MIB = 1 << 20
CLUSTER = 64 * KIB
SIZE = 8 * CLUSTER
EIO, ENOSPC = 5, 28
PLACES = {"first": 0, "middle": 4 * 128 + 7, "last": 7 * 128 + 127}
DATA = b"".join(bytes([i + 1]) * CLUSTER for i in range(8))
CAREFUL = {"auto_dismiss": False,
           "x_perf": {"max-workers": 1, "max-chunk": CLUSTER}}
# All but two clusters.
DIRTY = [bitmap("add"), guest("d0", "write", 0, 2 * CLUSTER, 0x71),
         guest("d0", "write", 4 * CLUSTER, 4 * CLUSTER, 0x72)]


def rule(iotype, sector, errno, once=True):
    return {"event": "none", "iotype": iotype, "sector": sector,
            "errno": errno, "once": once}


def pair_of(start, rules=()):
    return guest_pair(start, (Varved, Oracle), {"d0": SIZE}, {"d0": DATA},
                      rules)


def target_that_fails(*rules, name="t0"):
    return [new_file(f"{name}.img", SIZE),
            failing_node(name, f"{name}.img", rules)]


def good_target(name="t0"):
    return [new_file(f"{name}.img", SIZE), raw_node(name)]


def stops(policy, errno):
    return policy == "stop" or policy == "enospc" and errno == ENOSPC


def through(policy, errno, fails_for_good=False):
    """The steps from the start of a job to its end."""
    if not stops(policy, errno):
        return [until("concluded")]
    return [until_held(), "query-jobs", "query-block-jobs", bitmaps,
            verb("job-complete"), verb("job-finalize"),
            verb("job-dismiss"), verb("block-job-cancel"),
            verb("block-job-set-speed", speed=1 << 40),
            verb("job-resume"),
            *([until_held(), verb("job-cancel")] if fails_for_good else []),
            until("concluded")]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("policy, errno", [
    ("report", EIO), ("ignore", EIO), ("stop", EIO), ("enospc", EIO),
    ("enospc", ENOSPC), ("report", ENOSPC)])
def test_one_failed_write_to_the_target(start, policy, errno, place):
    same_conversation(*pair_of(start), [
        *DIRTY, *target_that_fails(rule("write", PLACES[place], errno)),
        backup("d0", "t0", sync="incremental", bitmap="b",
               on_target_error=policy, **CAREFUL),
        *through(policy, errno), "query-jobs", "query-block-jobs", bitmaps,
        content("t0.img"), verb("job-dismiss"), until("null"),
        *good_target("t1"),
        backup("d0", "t1", sync="incremental", bitmap="b"), until("null"),
        bitmaps, content("t1.img")], ignore=("busy",))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("policy, errno", [
    ("report", EIO), ("ignore", EIO), ("stop", EIO), ("enospc", ENOSPC)])
def test_one_failed_read_of_the_source(start, policy, errno, place):
    pair = pair_of(start, [rule("read", PLACES[place], errno)])
    same_conversation(*pair, [
        *DIRTY, *good_target(),
        backup("d0", "t0", sync="bitmap", bitmap="b", bitmap_mode="always",
               on_source_error=policy, **CAREFUL),
        *through(policy, errno), "query-jobs", "query-block-jobs", bitmaps,
        content("t0.img"), verb("job-dismiss"), until("null"),
        *good_target("t1"),
        backup("d0", "t1", sync="incremental", bitmap="b"), until("null"),
        bitmaps, content("t1.img")], ignore=("busy",))


@pytest.mark.parametrize("cancel", ["job-cancel", "block-job-cancel"])
@pytest.mark.parametrize("sync, mode", [
    ("full", "always"), ("bitmap", "always"), ("incremental", "on-success")])
def test_a_target_that_goes_on_failing(start, sync, mode, cancel):
    """Stopped, resumed, stopped again, cancelled."""
    force = {"force": True} if cancel.startswith("block") else {}
    same_conversation(*pair_of(start), [
        *DIRTY, *target_that_fails(rule("write", PLACES["middle"], EIO,
                                        once=False)),
        backup("d0", "t0", sync=sync, bitmap="b", bitmap_mode=mode,
               on_target_error="stop", **CAREFUL),
        until_held(), bitmaps, guest("d0", "write", 3 * CLUSTER, 512, 0x73),
        verb("job-resume"), until_held(), bitmaps, verb("job-pause"),
        verb(cancel, **force), until("concluded"), "query-jobs", bitmaps,
        guest("d0", "write", 2 * CLUSTER, 512, 0x74), bitmaps],
        ignore=("busy",))


def test_an_ignored_error_that_stays_does_not_spin(start):
    """The job goes on trying, takes commands, and is cancelled."""
    varved = pair_of(start)[0]
    for step in [*target_that_fails(rule("write", 0, EIO, once=False)),
                 backup("d0", "t0", on_target_error="ignore")]:
        play(varved, step)
    for _ in range(3):
        assert varved.qmp.wait_event("BLOCK_JOB_ERROR")["data"] == {
            "device": "j", "operation": "write", "action": "ignore"}
    before = cpu_seconds(varved.process.pid)
    for _ in range(6):
        varved.qmp.wait_event("BLOCK_JOB_ERROR")
    assert cpu_seconds(varved.process.pid) - before < 0.2
    varved.command("job-cancel", id="j")
    varved.qmp.wait_job("j", "null")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("sync", ["none", "full"])
@pytest.mark.parametrize("policy", ["report", "ignore", "stop"])
def test_old_data_that_cannot_be_saved(start, sync, policy):
    """The guest's write fails, whatever the policy is; the disk keeps what it
    held, and the bitmap too."""
    same_conversation(*pair_of(start), [
        bitmap("add"),
        *target_that_fails(rule("write", 7 * 128, EIO),
                           rule("write", 2 * 128, EIO, once=False)),
        backup("d0", "t0", sync=sync, speed=1, on_target_error=policy,
               on_source_error=policy, **CAREFUL),
        until("running"), guest("d0", "write", 7 * CLUSTER, 512, 0x75),
        content("disk-d0.img"),
        guest("d0", "write", 7 * CLUSTER, 512, 0x75),
        guest("d0", "write", 2 * CLUSTER, 512, 0x75),
        guest("d0", "write-zeroes", 2 * CLUSTER, 512),
        guest("d0", "write", 3 * CLUSTER, 512, 0x75),
        guest("d0", "read", 0, SIZE),
        content("disk-d0.img"), jobs, verb("block-job-cancel", force=True),
        until("concluded"), bitmaps, content("t0.img")],
        ignore=("offset", "len"))


def test_unaligned_ends(start):
    """A disk that ends inside of a cluster, its last sector in error once."""
    size = SIZE + 512
    pair = guest_pair(start, (Varved, Oracle), {"d0": size}, {"d0": DATA})
    same_conversation(*pair, [
        bitmap("add"), guest("d0", "write", SIZE, 512, 0x76), bitmaps,
        new_file("t0.img", size),
        failing_node("t0", "t0.img", [rule("write", SIZE // 512, EIO)]),
        backup("d0", "t0", sync="incremental", bitmap="b"), until("null"),
        bitmaps, backup("d0", "t0", sync="incremental", bitmap="b"),
        until("null"), bitmaps, content("t0.img")],
        # The peer counts the whole last cluster.
        ignore=("len", "offset"))


def test_a_flush_of_the_target_that_fails(start):
    """varved makes the target stable before it says that a backup succeeded."""
    varved = start(Varved)
    for name in ("d0", "t0"):
        with open(varved.path(f"{name}.img"), "wb") as f:
            f.write(DATA)
    varved.command("blockdev-add", driver="raw", node_name="d0", file={
        "driver": "file", "filename": "d0.img"})
    varved.command("blockdev-add", driver="raw", node_name="t0", file={
        "driver": "blkdebug", "image": {"driver": "file",
                                        "filename": "t0.img"},
        "inject-error": [{"event": "none", "iotype": "flush", "errno": EIO,
                          "once": True}]})
    varved.command("block-dirty-bitmap-add", node="d0", name="b")
    varved.command("blockdev-backup", job_id="j", device="d0", target="t0",
                   sync="full", bitmap="b", bitmap_mode="on-success")
    end = varved.qmp.wait_event("BLOCK_JOB_COMPLETED")["data"]
    assert end["error"] == "Input/output error"


def test_a_target_that_is_lost_and_a_daemon_that_goes_on(start):
    """Every write of the target fails, in every job; the guest and the monitor
    do not mind."""
    varved = pair_of(start)[0]
    varved.command("x-guest-workload-start", device="vd-d0", depth=4,
                   verify=True, read_percent=50)
    for n in range(10):
        with open(varved.path("t.img"), "wb") as f:
            f.truncate(SIZE)
        varved.command("blockdev-add", driver="raw", node_name="t", file={
            "driver": "blkdebug", "image": {"driver": "file",
                                            "filename": "t.img"},
            "inject-error": [{"event": "none", "iotype": "write",
                              "errno": EIO}]})
        varved.command("blockdev-backup", job_id="j", device="d0", target="t",
                       sync="full", filter_node_name=f"f{n}")
        error = varved.qmp.wait_event("BLOCK_JOB_COMPLETED")["data"]["error"]
        assert error == "Input/output error"
        varved.qmp.wait_job("j", "null")
        varved.command("blockdev-del", node_name="t")
        with pytest.raises(QmpError):
            varved.command("blockdev-del", node_name=f"f{n}")
    info = varved.command("x-guest-workload-stop", device="vd-d0")
    assert info["mismatches"] == 0
    assert len(varved.command("query-named-block-nodes")) == 2

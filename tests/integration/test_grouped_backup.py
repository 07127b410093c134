"""Backups of several disks in one transaction, alone or as a group: all good,
one failing, one cancelled."""
import pytest

from lib import Oracle, SystemOracle, Varved, guest, guest_pair, \
    same_conversation
from lib.disks import (add_bitmap, backup_all, finish, full_backup, incremental,
                       make_disks, wait_all)
from lib.steps import (JOB_EVENTS, backup, bitmap, bitmaps, content,
                       failing_node, job_events, jobs, new_file, raw_node,
                       verb)

KIB = 1 << 10
MIB = 1 << 20

FATES = [("good", "fail"), ("cancel", "good"), ("good", "good", "good"),
         ("cancel", "fail", "good"), ("good", "good", "cancel", "good")]
FAILURE = {"event": "write_aio", "errno": 28}


def attempt(disks, fates, mode):
    """Incrementals of all; what each came to, and its instant."""
    daemon = disks[0].daemon
    paths, targets = [], []
    for disk, fate in zip(disks, fates):
        paths.append(disk.new_target())
        targets.append(disk.add_node(paths[-1],
                                     [FAILURE] if fate == "fail" else []))
    for disk, fate in zip(disks, fates):
        if fate == "cancel":
            disk.write_apart()
    daemon.command("stop")
    frozen = [d.frozen() for d in disks]
    counts = [d.bitmap()["count"] for d in disks]
    daemon.command("transaction", actions=[
        d.action(t, "incremental", speed=1 if fate == "cancel" else 0)
        for d, t, fate in zip(disks, targets, fates)],
        properties={"completion-mode": mode})
    daemon.command("cont")
    for disk, fate in zip(disks, fates):
        if fate == "cancel":
            # Where another failed, the group has gone already.
            daemon.call("block-job-cancel", device=f"job-{disk.name}")
    ends = wait_all(disks)
    for disk in disks:
        disk.remove_node()
    return list(zip(disks, paths, frozen, counts, ends))


@pytest.mark.parametrize("fates", FATES, ids="-".join)
@pytest.mark.parametrize("mode", ["individual", "grouped"])
def test_what_each_disk_keeps(start, seed, mode, fates):
    disks = make_disks(start, seed, len(fates))
    for disk in disks:
        disk.start_guest(rate=700)
    for disk in disks:
        disk.wait_for_writes(60)
    paths = [d.new_target() for d in disks]
    targets = [d.add_node(p) for d, p in zip(disks, paths)]
    frozen = backup_all(disks, "full", targets, mode="individual",
                        before=add_bitmap)
    assert set(wait_all(disks)) == {None}
    for disk, path, instant in zip(disks, paths, frozen):
        disk.remove_node()
        disk.verify(path, instant)
        disk.wait_for_writes(40)
    all_good = set(fates) == {"good"}
    for fate, (disk, path, instant, count, end) in zip(
            fates, attempt(disks, fates, mode)):
        if mode == "grouped" and not all_good:
            assert end is not None
        else:
            assert (end is None) == (fate == "good"), (fate, end)
        if fate == "fail":
            assert end in ("No space left on device", "cancelled")
        if end is None:
            disk.verify(path, instant)
        else:
            assert disk.bitmap()["count"] >= count
    for disk, path, instant, _, end in attempt(
            disks, ["good"] * len(disks), "grouped"):
        assert end is None
        disk.verify(path, instant)
    for disk in disks:
        disk.stop_guest()
    for disk in disks[1:]:
        incremental(disk)
    finish(disks[0])


# ---- beside the peer ---------------------------------------------------------

SIZE = MIB
NAMES = ("d0", "d1", "d2")


@pytest.fixture
def disks(start):
    return guest_pair(start, (Varved, Oracle), {n: SIZE for n in NAMES},
                      {n: n.encode() * 100000 for n in NAMES})


def actions(*each, mode=None):
    def action(step):
        return {"type": step[0], "data": step[1]}
    return ("transaction", {
        "actions": [action(s) for s in each],
        **({"properties": {"completion-mode": mode}} if mode else {})})


def incremental_of(n, **more):
    return backup(f"d{n}", f"t{n}", job=f"j{n}", sync="incremental",
                  bitmap="b", **more)


def all_end(daemon):
    """The events of each job until none is left."""
    seen, gone = {}, set()
    while len(gone) < 3:
        event = daemon.qmp.next_event()
        if event["event"] not in JOB_EVENTS:
            continue
        data = event["data"]
        job = data.get("id") or data["device"]
        if job_events([event]):
            seen.setdefault(job, []).append([event["event"], data])
        if data.get("status") == "null" and len(seen.get(job, [])) > 1:
            gone.add(job)
    return seen


SET_UP = [
    *[bitmap("add", node=n) for n in NAMES],
    *[guest(n, "write", 64 * KIB * (i + 1), 4096, 0x51)
      for i, n in enumerate(NAMES)],
    *[guest(n, "write", 64 * KIB * 12 - 512, 1024, 0x52) for n in NAMES],
    *[new_file(f"t{i}.img", SIZE) for i in range(3)], raw_node("t0")]
GOOD = [raw_node("t1"), raw_node("t2")]
ONE_BAD = [failing_node("t1", "t1.img", [
    {"event": "none", "iotype": "write", "errno": 28}]), raw_node("t2")]


@pytest.mark.parametrize("mode", ["individual", "grouped"])
def test_all_good(disks, mode):
    same_conversation(*disks, SET_UP + GOOD + [
        actions(*[incremental_of(n) for n in range(3)], mode=mode), all_end,
        bitmaps, *[content(f"t{i}.img") for i in range(3)]])


@pytest.mark.parametrize("mode", ["individual", "grouped"])
def test_one_fails(disks, mode):
    """The others are held up until it does, so that all is known of them."""
    same_conversation(*disks, SET_UP + ONE_BAD + [
        actions(incremental_of(0, speed=1), incremental_of(1),
                incremental_of(2, speed=1), mode=mode),
        lambda d: d.qmp.wait_event("BLOCK_JOB_ERROR")["data"],
        *([verb("block-job-set-speed", f"j{n}", speed=0) for n in (0, 2)]
          if mode == "individual" else []),
        *[guest(n, "write", 0, 512, 0x53) for n in NAMES],
        lambda d: sorted(all_end(d)), bitmaps, jobs])


@pytest.mark.parametrize("mode", ["individual", "grouped"])
@pytest.mark.parametrize("cancelled", [0, 2])
def test_one_is_cancelled(disks, mode, cancelled):
    other = 2 - cancelled

    def waiting(daemon):
        end = "null" if mode == "individual" else "waiting"
        daemon.qmp.wait_job("j1", end)
        daemon.qmp.wait_job(f"j{other}", end)
        daemon.qmp.events.clear()
    same_conversation(*disks, SET_UP + GOOD + [
        actions(incremental_of(other), incremental_of(1),
                incremental_of(cancelled, speed=1), mode=mode),
        waiting, *[guest(n, "write", 0, 512, 0x54) for n in NAMES],
        jobs, bitmaps, verb("job-cancel", f"j{cancelled}"),
        lambda d: d.qmp.wait_job(f"j{cancelled}", "null")["data"],
        lambda d: [d.qmp.wait_job(f"j{n}", "null")["data"]
                   for n in (other, 1) if mode == "grouped"],
        bitmaps, jobs])


def test_an_aborted_transaction_changes_nothing(disks):
    same_conversation(*disks, SET_UP + GOOD + [
        bitmap("add", name="c", granularity=4096),
        bitmap("add", name="off", disabled=True),
        guest("d0", "write", 32 * KIB, 8192, 0x61), bitmaps,
        actions(bitmap("clear"), bitmap("disable", name="c"),
                bitmap("enable", name="off"),
                ("block-dirty-bitmap-merge", {
                    "node": "d0", "target": "off",
                    "bitmaps": ["b", {"node": "d1", "name": "b"}]}),
                bitmap("add", name="new"), bitmap("remove", node="d2"),
                incremental_of(1), bitmap("clear", name="c"), ("abort", {})),
        jobs, bitmaps, guest("d0", "write", 0, 512, 0x62), bitmaps,
        guest("d1", "write", 0, 512, 0x62), bitmaps,
        content("t1.img"),
        actions(incremental_of(0), backup("d1", "t0", job="j1")),
        actions(incremental_of(0), backup(
            "d0", "t1", job="x", sync="incremental", bitmap="b")),
        jobs, bitmaps])


def test_an_aborted_drive_backup(start):
    """Its file is there afterwards, as with the emulator."""
    pair = guest_pair(start, (Varved, SystemOracle), {"d0": SIZE},
                      {"d0": b"x" * SIZE})

    def size(daemon):
        with open(daemon.path("t.img"), "rb") as f:
            return f.seek(0, 2)
    same_conversation(*pair, [
        bitmap("add"), guest("d0", "write", 0, 512, 1), bitmaps,
        actions(("drive-backup", {
            "job-id": "j", "device": "d0", "target": "{dir}/t.img",
            "sync": "full"}), bitmap("clear"), ("abort", {})),
        size, jobs, bitmaps])


def test_a_group_whose_pending_jobs_wait_for_finalize(disks):
    same_conversation(*disks, SET_UP + GOOD + [
        actions(*[incremental_of(n, **{"auto-finalize": n != 1})
                  for n in range(3)], mode="grouped"),
        lambda d: [d.qmp.wait_job("j1", "pending")["data"], jobs(d)],
        *[guest(n, "write", 0, 512, 0x54) for n in NAMES], bitmaps,
        verb("job-finalize", "j0"), jobs, verb("job-finalize", "j1"),
        lambda d: [d.qmp.wait_job(f"j{n}", "null")["data"] for n in range(3)],
        bitmaps, *[content(f"t{i}.img") for i in range(3)]])


def test_full_backups_of_all_follow_a_chain(start, seed):
    """A new anchor for all disks at one instant: bitmaps cleared and full
    backups started together."""
    disks = make_disks(start, seed, 2)
    for disk in disks:
        disk.start_guest()
        disk.wait_for_writes(50)
        full_backup(disk)
        disk.wait_for_writes(50)
    chains = [d.chain for d in disks]
    for disk in disks:
        disk.chain = []
    paths = [d.new_target() for d in disks]
    targets = [d.add_node(p) for d, p in zip(disks, paths)]
    frozen = backup_all(disks, "full", targets, before=lambda d: [{
        "type": "block-dirty-bitmap-clear",
        "data": {"node": d.name, "name": "b"}}])
    assert wait_all(disks) == [None, None]
    assert all(chains)
    for disk, path, instant in zip(disks, paths, frozen):
        disk.remove_node()
        disk.verify(path, instant)
        disk.stop_guest()
    incremental(disks[1])
    finish(disks[0])

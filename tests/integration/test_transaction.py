"""Transactions, compared with qemu-storage-daemon's."""
import pytest

from lib import Events, same_conversation

MIB = 1 << 20
JOB_EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED",
              "BLOCK_JOB_CANCELLED", "BLOCK_JOB_PENDING", "BLOCK_JOB_ERROR")


def action(kind, **data):
    return {"type": kind, "data": {k.replace("_", "-"): v
                                   for k, v in data.items()}}


def bitmap(verb, **data):
    return action(f"block-dirty-bitmap-{verb}", **data)


def backup(n, **data):
    """Of node n<n> into t<n> as job j<n>."""
    return action("blockdev-backup", **{
        "job_id": f"j{n}", "device": f"n{n}", "target": f"t{n}",
        "sync": "full", **data})


ABORT = action("abort")


def transaction(*actions, mode=None, **more):
    arguments = {"actions": list(actions), **more}
    if mode:
        arguments["properties"] = {"completion-mode": mode}
    return ("transaction", arguments)


def null_node(name):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": MIB})


def bitmaps(daemon):
    """The named bitmaps of all nodes, in an order of our own."""
    return {n["node-name"]: sorted((b for b in n["dirty-bitmaps"]
                                    if "name" in b), key=lambda b: b["name"])
            for n in daemon.command("query-named-block-nodes", flat=True)
            if n.get("dirty-bitmaps") and n["drv"] != "copy-before-write"}


def events_by_job(daemon):
    """The events of each job in their order; how those of several jobs mix
    depends on who is faster."""
    jobs = {}
    for e in daemon.qmp.take_events(0.4):
        data = e["data"]
        jobs.setdefault(data.get("id") or data["device"], []).append(
            [e["event"], data])
    return jobs


NODES = [null_node(n) for n in ("n0", "n1", "n2", "t0", "t1", "t2")]


def test_malformed(pair):
    same_conversation(*pair, NODES + [
        transaction(), transaction(mode="individual"),
        transaction(mode="grouped"),
        transaction(ABORT), transaction(ABORT, mode="grouped"),
        transaction(action("abort", x=1)), transaction({"type": "abort"}),
        transaction(bitmap("add", node="n0")),
        transaction(ABORT, bitmap("add", node="n0", name="b", x=1)),
        ("transaction", {}), ("transaction", {"actions": {}}),
        ("transaction", {"actions": [], "properties": {"x": 1}}),
        ("transaction", {"actions": [], "x": 1}),
        bitmaps,
    ])


def test_a_wrong_value_is_named_with_its_place(varved):
    """QEMU 7.2 leaves the place out."""
    for step, desc in (
            (transaction(mode="nonsense"), "Parameter 'properties.completion-"
             "mode' does not accept value 'nonsense'"),
            (transaction(ABORT, {"type": "nosuch", "data": {}}),
             "Parameter 'actions[1].type' does not accept value 'nosuch'")):
        assert varved.call(*step)["error"]["desc"] == desc


ADDED = [transaction(bitmap("add", node="n0", name="b0"),
                     bitmap("add", node="n1", name="b0"),
                     bitmap("add", node="n0", name="b1", granularity=512),
                     bitmap("disable", node="n0", name="b1")), bitmaps]


def test_actions_see_what_those_before_them_did(pair):
    same_conversation(*pair, NODES + ADDED + [
        transaction(bitmap("add", node="n2", name="b"),
                    bitmap("clear", node="n2", name="b"),
                    bitmap("disable", node="n2", name="b"),
                    bitmap("enable", node="n2", name="b"),
                    bitmap("disable", node="n2", name="b"),
                    bitmap("merge", node="n2", target="b",
                           bitmaps=["b", {"node": "n1", "name": "b0"}])),
        bitmaps,
        transaction(bitmap("add", node="n2", name="b")), bitmaps,
        # A removal is not done before all of it is.
        transaction(bitmap("remove", node="n2", name="b"),
                    bitmap("add", node="n2", name="b")), bitmaps,
        transaction(bitmap("remove", node="n2", name="b"),
                    bitmap("clear", node="n2", name="b")), bitmaps,
        transaction(bitmap("remove", node="n2", name="b"),
                    bitmap("remove", node="n2", name="b")), bitmaps,
        transaction(bitmap("remove", node="n2", name="b"),
                    bitmap("remove", node="n0", name="b1")), bitmaps,
    ])


UNDONE = [
    bitmap("add", node="n0", name="new"),
    bitmap("remove", node="n0", name="b0"),
    bitmap("clear", node="n0", name="b0"),
    bitmap("enable", node="n0", name="b0"),
    bitmap("enable", node="n0", name="b1"),
    bitmap("disable", node="n0", name="b0"),
    bitmap("disable", node="n0", name="b1"),
    bitmap("merge", node="n0", target="b0", bitmaps=["b1"]),
]


@pytest.mark.parametrize("undone", UNDONE, ids=[
    f"{a['type'][19:]}-{i}" for i, a in enumerate(UNDONE)])
def test_each_bitmap_action_is_undone(pair, undone):
    same_conversation(*pair, NODES + ADDED + [
        transaction(undone, ABORT), bitmaps,
        transaction(undone, bitmap("clear", node="n0", name="nope")), bitmaps,
        transaction(undone, bitmap("add", node="n0", name="b0")), bitmaps,
        transaction(undone), bitmaps,
    ])


def test_all_bitmap_actions_are_undone_together(pair):
    same_conversation(*pair, NODES + ADDED + [
        transaction(bitmap("add", node="n0", name="new"),
                    bitmap("clear", node="n0", name="b0"),
                    bitmap("merge", node="n0", target="new",
                           bitmaps=["b0", "b1"]),
                    bitmap("disable", node="n0", name="b0"),
                    bitmap("enable", node="n0", name="b1"),
                    bitmap("remove", node="n1", name="b0"), ABORT),
        bitmaps])


def test_a_merge_with_one_bad_source_changes_nothing(pair):
    same_conversation(*pair, NODES + ADDED + [
        transaction(bitmap("merge", node="n0", target="b0", bitmaps=[
            {"node": "n1", "name": "b0"}, "nope"])), bitmaps])


@pytest.mark.parametrize("verb, data", [
    ("add", {"name": "new"}), ("remove", {"name": "b0"}),
    ("clear", {"name": "b0"}),
    ("merge", {"target": "b0", "bitmaps": ["b1"]})])
def test_bitmap_actions_do_not_complete_in_groups(pair, verb, data):
    same_conversation(*pair, NODES + ADDED + [
        transaction(bitmap(verb, node="n0", **data), mode="grouped"),
        transaction(backup(0), bitmap(verb, node="n0", **data),
                    mode="grouped"),
        Events(*JOB_EVENTS), "query-jobs", bitmaps])


@pytest.mark.parametrize("verb", ["enable", "disable"])
def test_switching_bitmaps_does_not_complete_in_groups(varved, verb):
    """QEMU 7.2 dies of it."""
    for step in NODES + ADDED[:1]:
        varved.command(*step)
    answer = varved.call(*transaction(bitmap(verb, node="n0", name="b0"),
                                      mode="grouped"))
    assert answer["error"]["desc"] == (
        f"Action 'block-dirty-bitmap-{verb}' does not support Transaction "
        "property completion-mode = grouped")


def test_jobs_of_a_failed_transaction_never_run(pair):
    same_conversation(*pair, NODES + ADDED + [
        transaction(backup(0), ABORT), Events(*JOB_EVENTS), "query-jobs",
        transaction(backup(0), backup(1, job_id="j0")),
        Events(*JOB_EVENTS), "query-jobs",
        transaction(backup(0), backup(1), ABORT), events_by_job,
        transaction(backup(0, sync="incremental", bitmap="b0"),
                    bitmap("clear", node="n0", name="b0")),
        Events(*JOB_EVENTS), bitmaps,
        transaction(backup(0, device="nope")),
        transaction(backup(0, target="nope")),
        transaction(backup(0, target="n0")),
        transaction(action("blockdev-backup", device="n0", target="t0",
                           sync="full")),
        transaction(backup(0, sync="incremental")),
        transaction(backup(0, sync="incremental", bitmap="nope")),
        transaction(backup(0, job_id="-bad")),
        transaction(backup(0, speed=-1)), "query-jobs", bitmaps,
    ])


@pytest.mark.parametrize("mode", [None, "individual", "grouped"])
def test_jobs_that_succeed(pair, mode):
    same_conversation(*pair, NODES + [
        transaction(backup(0), backup(1), mode=mode), events_by_job,
        "query-jobs"])


def test_grouped_jobs_are_finalized_together(pair):
    same_conversation(*pair, NODES + [
        transaction(backup(0, auto_finalize=False),
                    backup(1, auto_finalize=False, auto_dismiss=False),
                    backup(2, auto_finalize=False), mode="grouped"),
        events_by_job,
        ("job-finalize", {"id": "j1"}), events_by_job,
        ("job-finalize", {"id": "j0"}), "query-jobs",
        ("job-dismiss", {"id": "j1"}), events_by_job, "query-jobs"])


def jobs(daemon):
    return {j["id"]: j["status"] for j in daemon.command("query-jobs")}


@pytest.mark.parametrize("cancel", ["j0", "j1"])
def test_one_cancelled_job_of_a_group_cancels_all(pair, cancel):
    same_conversation(*pair, NODES + [
        transaction(backup(0, sync="none"), backup(1), backup(2, sync="none"),
                    mode="grouped"),
        events_by_job, jobs,
        ("job-cancel", {"id": cancel}), events_by_job, jobs])


def test_one_cancelled_job_leaves_the_others_alone_without_a_group(pair):
    same_conversation(*pair, NODES + [
        transaction(backup(0, sync="none"), backup(1), backup(2, sync="none")),
        events_by_job, jobs,
        ("job-cancel", {"id": "j0"}), events_by_job, jobs,
        ("job-cancel", {"id": "j2"}), events_by_job, jobs])


FULL_DISK = ("blockdev-add", {
    "driver": "blkdebug", "node-name": "bad", "image": {
        "driver": "null-co", "size": MIB},
    "inject-error": [{"event": "write_aio", "errno": 28}]})


@pytest.mark.parametrize("mode, after", [("grouped", {}),
                                         ("individual", {"j1": "running"})])
def test_a_failing_job_takes_the_group_with_it(pair, mode, after):
    same_conversation(*pair, NODES + ADDED + [
        FULL_DISK,
        transaction(backup(0, target="bad", auto_dismiss=False),
                    backup(1, sync="none"), mode=mode),
        events_by_job, jobs,
        ("job-dismiss", {"id": "j0"}),
        lambda d: d.call("job-cancel", id="j1"), events_by_job, jobs, bitmaps])


def test_bitmap_and_backup_start_at_one_instant(pair):
    """New anchor and full backup; then two incrementals in one transaction, of
    which one fails: only its bitmap stays as it was."""
    same_conversation(*pair, NODES + [
        FULL_DISK,
        transaction(bitmap("add", node="n0", name="b"), backup(0),
                    bitmap("add", node="n1", name="b"), backup(1)),
        events_by_job, bitmaps,
        transaction(
            bitmap("clear", node="n0", name="b"), backup(0),
            bitmap("disable", node="n1", name="b")), events_by_job, bitmaps,
        transaction(
            backup(0, sync="incremental", bitmap="b"),
            backup(1, sync="incremental", bitmap="b", target="bad")),
        events_by_job, bitmaps])

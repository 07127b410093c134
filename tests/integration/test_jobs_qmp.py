"""The public life of jobs over QMP, compared with qemu-storage-daemon's, and
with the emulator's where only that has the command."""
import os

import pytest

from lib import Events, same_conversation

MIB = 1 << 20
JOB_VERBS = ("pause", "resume", "cancel", "complete", "finalize", "dismiss")
EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED",
          "BLOCK_JOB_PENDING", "BLOCK_JOB_ERROR", "BLOCK_JOB_READY")


def null_node(name, **more):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": MIB, **more})


def backup(**data):
    return ("blockdev-backup", {
        "job-id": "j", "device": "n0", "target": "t0", "sync": "full",
        **{k.replace("_", "-"): v for k, v in data.items()}})


def status(name):
    def wait(daemon):
        return daemon.qmp.wait_job("j", name)["data"]
    wait.__name__ = f"until {name}"
    return wait


def everything(job="j"):
    """Every verb on one job, one after the other."""
    return ([(f"job-{v}", {"id": job}) for v in JOB_VERBS] +
            [(f"block-job-{v}", {"device": job})
             for v in ("pause", "resume", "cancel", "complete")] +
            [(f"block-job-{v}", {"id": job}) for v in ("finalize", "dismiss")] +
            [("block-job-set-speed", {"device": job, "speed": 0})])


NODES = [null_node("n0"), null_node("t0")]


def test_verbs_on_no_job(pair):
    same_conversation(*pair, everything("nope") + everything("") + [
        ("job-pause", {}), ("job-pause", {"id": 1}),
        ("job-pause", {"id": "j", "x": 1}), ("block-job-pause", {"id": "j"}),
        ("block-job-set-speed", {"device": "j"}),
        ("block-job-cancel", {"device": "j", "force": 1}),
        "query-jobs", "query-block-jobs"])


# What each state of a job refuses; verbs that it admits change the state, so
# they are played one by one on a fresh job.
STATES = {
    "running": [backup(sync="none")],
    "paused": [backup(sync="none"), ("job-pause", {"id": "j"}),
               Events("none")],
    "waiting": [("transaction", {
        "actions": [{"type": "blockdev-backup", "data": backup()[1]},
                    {"type": "blockdev-backup", "data": backup(
                        job_id="other", device="n1", target="t1",
                        sync="none")[1]}],
        "properties": {"completion-mode": "grouped"}}), status("waiting")],
    "pending": [backup(auto_finalize=False), status("pending")],
    "concluded": [backup(auto_dismiss=False), status("concluded")],
}
VERBS = everything()


@pytest.mark.parametrize("state", STATES)
def test_every_verb_in_every_state(pair, state):
    steps = [*NODES, null_node("n1"), null_node("t1")]
    for number, verb in enumerate(VERBS):
        end = "waiting" if state == "waiting" else state
        steps += STATES[state] + [Events(*EVENTS, settle=0.05)
                                  if end == "none" else clear_events]
        steps += [verb, jobs, after_settling, jobs, tidy_up]
    same_conversation(*pair, steps)


def clear_events(daemon):
    daemon.qmp.take_events(0.05)


def jobs(daemon):
    return {j["id"]: j["status"] for j in daemon.command("query-jobs")}


def after_settling(daemon):
    """The events of each job in their order."""
    seen = {}
    for e in daemon.qmp.take_events(0.1):
        data = e["data"]
        seen.setdefault(data.get("id") or data["device"], []).append(
            [e["event"], data])
    return seen


def tidy_up(daemon):
    for verb in ("cancel", "dismiss", "dismiss"):
        for job in daemon.command("query-jobs"):
            daemon.call(f"job-{verb}", id=job["id"])
        daemon.qmp.take_events(0.05)
    assert daemon.command("query-jobs") == []


def test_pauses_do_not_add_up(pair):
    pause, resume = ("job-pause", {"id": "j"}), ("job-resume", {"id": "j"})
    old = [(f"block-job-{v}", {"device": "j"}) for v in ("pause", "resume")]
    same_conversation(*pair, NODES + [
        backup(sync="none"), Events(*EVENTS),
        resume, pause, Events(*EVENTS), pause, old[0], jobs,
        ("block-job-cancel", {"device": "j"}), resume, Events(*EVENTS), resume,
        old[1], jobs, pause, Events(*EVENTS),
        ("block-job-cancel", {"device": "j", "force": True}), Events(*EVENTS),
        jobs])


def test_speed(pair):
    def speed(value):
        return ("block-job-set-speed", {"device": "j", "speed": value})
    same_conversation(*pair, NODES + [
        backup(sync="none", speed=65536), "query-block-jobs",
        speed(0), speed(1), speed(1 << 40), speed(-1), speed("1"),
        "query-block-jobs", ("job-cancel", {"id": "j"}), Events(*EVENTS)],
        ignore=("busy", "offset"))


def test_a_job_that_is_kept(pair):
    same_conversation(*pair, NODES + [
        backup(auto_finalize=False, auto_dismiss=False), Events(*EVENTS),
        "query-jobs", "query-block-jobs",
        backup(job_id="k"),
        ("block-job-finalize", {"id": "j"}), Events(*EVENTS),
        "query-jobs", "query-block-jobs", backup(),
        ("block-job-dismiss", {"id": "j"}), Events(*EVENTS),
        "query-jobs", "query-block-jobs"], ignore=("busy",))


def test_errors_of_a_backup_that_cannot_start(pair):
    same_conversation(*pair, NODES + [
        ("blockdev-add", {"driver": "null-co", "node-name": "small",
                          "size": MIB // 2}),
        null_node("ro", **{"read-only": True}),
        ("block-dirty-bitmap-add", {"node": "n0", "name": "b"}),
        ("blockdev-backup", {}), ("blockdev-backup", {"device": "n0"}),
        backup(device="nope"), backup(target="nope"), backup(target="n0"),
        backup(job_id=""), backup(job_id="1j"), backup(job_id="j j"),
        backup(sync="nope"), backup(sync="incremental"),
        backup(sync="bitmap"), backup(sync="bitmap", bitmap="b"),
        backup(sync="bitmap", bitmap="nope", bitmap_mode="never"),
        backup(sync="incremental", bitmap="nope"),
        backup(sync="incremental", bitmap="b", bitmap_mode="never"),
        backup(sync="incremental", bitmap="b", bitmap_mode="always"),
        backup(sync="full", bitmap="b"),
        backup(sync="none", bitmap="b", bitmap_mode="always"),
        backup(sync="full", bitmap_mode="always"),
        backup(target="small"), backup(target="ro"), backup(speed=-1),
        backup(compress=True), backup(filter_node_name="n0"),
        backup(filter_node_name="0"), backup(on_source_error="nope"),
        backup(**{"x-perf": {"max-workers": 0}}),
        backup(**{"x-perf": {"max-chunk": -1}}),
        backup(**{"x-perf": {"max-chunk": 1000}}),
        backup(x=1), "query-jobs"])


@pytest.mark.parametrize("policy", ["report", "ignore", "stop", "enospc"])
def test_errors_while_a_backup_runs(pair, policy):
    """One failing write, and what each policy makes of it."""
    same_conversation(*pair, NODES + [
        ("blockdev-add", {
            "driver": "blkdebug", "node-name": "bad",
            "image": {"driver": "null-co", "size": MIB},
            "inject-error": [{"event": "write_aio", "errno": 28,
                              "once": True}]}),
        backup(target="bad", on_target_error=policy, auto_dismiss=False,
               **{"x-perf": {"max-workers": 1}}),
        Events(*EVENTS, settle=0.6), "query-block-jobs",
        lambda d: d.call("job-resume", id="j"), Events(*EVENTS, settle=0.6),
        "query-jobs"], ignore=("busy", "offset", "current-progress"))


def test_errors_of_reading(pair):
    same_conversation(*pair, [null_node("t0"), (
        "blockdev-add", {
            "driver": "blkdebug", "node-name": "n0",
            "image": {"driver": "null-co", "size": MIB},
            "inject-error": [{"event": "read_aio", "errno": 5}]}),
        backup(auto_dismiss=False), Events(*EVENTS), "query-jobs",
        ("job-dismiss", {"id": "j"}), "query-jobs"],
        ignore=("offset", "current-progress"))


def test_nodes_of_a_job_are_in_use(pair):
    same_conversation(*pair, NODES + [
        backup(sync="none", filter_node_name="filter"), Events(*EVENTS),
        lambda d: "return" in d.call("blockdev-del", node_name="n0"),
        lambda d: "return" in d.call("blockdev-del", node_name="t0"),
        lambda d: "return" in d.call("blockdev-del", node_name="filter"),
        lambda d: sorted(n["node-name"] for n in
                         d.command("query-named-block-nodes", flat=True)),
        ("job-cancel", {"id": "j"}), Events(*EVENTS),
        ("blockdev-del", {"node-name": "n0"}),
        ("blockdev-del", {"node-name": "t0"}), "query-named-block-nodes"])


def test_a_node_of_a_job_keeps_its_length(pair):
    """What a shrunk source loses, no backup could save."""
    def refused(**which):
        def step(daemon):
            return [daemon.call("block_resize", which, size=size).get("error")
                    is None for size in (512, 4 << 20)]
        return step
    for daemon in pair:
        for name in ("n0", "t0"):
            with open(daemon.path(name), "wb") as f:
                f.truncate(MIB)
    same_conversation(*pair, [
        *(("blockdev-add", {"driver": "file", "filename": "{dir}/" + name,
                            "node-name": name}) for name in ("n0", "t0")),
        backup(sync="none", filter_node_name="filter"), Events(*EVENTS),
        refused(**{"node-name": "n0"}), refused(**{"node-name": "t0"}),
        refused(**{"node-name": "filter"}),
        ("job-cancel", {"id": "j"}), Events(*EVENTS),
        ("block_resize", {"node-name": "n0", "size": 512}),
        lambda d: os.path.getsize(d.path("n0")), "query-named-block-nodes"])


def test_quit_cancels_what_runs(varved):
    for step in NODES + [backup(sync="none")]:
        varved.command(*step)
    varved.qmp.take_events(0.1)
    varved.qmp.send({"execute": "quit"})
    assert varved.qmp.answer() == {"return": {}}
    varved.wait()
    varved.check_end(0)
    seen = [(e["event"], e["data"].get("status")) for e in
            varved.qmp.take_events()]
    assert ("BLOCK_JOB_CANCELLED", None) in seen
    assert ("JOB_STATUS_CHANGE", "null") in seen


def test_stop_and_cont(system_pair):
    """varved comes up stopped when it is told nothing else."""
    system_pair[0].command("cont")
    system_pair[0].qmp.take_events(0.1)
    same_conversation(*system_pair, [
        "query-status", "stop", "query-status", "stop", "query-status", "cont",
        "query-status", "cont", Events()])

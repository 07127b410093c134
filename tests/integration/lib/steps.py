"""Steps that conversations about backups share."""
import hashlib

from .qmp import Qmp

JOB_EVENTS = ("JOB_STATUS_CHANGE", "BLOCK_JOB_COMPLETED", "BLOCK_JOB_PENDING",
              "BLOCK_JOB_CANCELLED", "BLOCK_JOB_ERROR", "BLOCK_JOB_READY")


def dashes(members):
    return {k.replace("_", "-"): v for k, v in members.items()}


def raw_node(name, filename=None, **more):
    """A raw node on a file of the daemon's directory."""
    return ("blockdev-add", {
        "driver": "raw", "node-name": name,
        "file": {"driver": "file",
                 "filename": "{dir}/" + (filename or f"{name}.img")},
        **dashes(more)})


def null_node(name, size, **more):
    return ("blockdev-add", {"driver": "null-co", "node-name": name,
                             "size": size, **dashes(more)})


def failing_node(name, filename, rules, **more):
    """A raw node over blkdebug with inject-error rules."""
    return ("blockdev-add", {
        "driver": "raw", "node-name": name, "file": {
            "driver": "blkdebug", "inject-error": [dashes(r) for r in rules],
            "image": {"driver": "file", "filename": "{dir}/" + filename}},
        **dashes(more)})


def remove_node(name):
    return ("blockdev-del", {"node-name": name})


def new_file(name, size):
    """A sparse file in the daemon's directory."""
    def step(daemon):
        with open(daemon.path(name), "wb") as f:
            f.truncate(size)
    step.__name__ = f"new file {name}"
    return step


def backup(source, target, job="j", sync="full", **more):
    return ("blockdev-backup", {"job-id": job, "device": source,
                                "target": target, "sync": sync,
                                **dashes(more)})


def bitmap(verb, node="d0", name="b", **more):
    return (f"block-dirty-bitmap-{verb}",
            {"node": node, "name": name, **dashes(more)})


def job_events(events):
    """Without the pauses, which come and go with every drained section."""
    return [[e["event"], e["data"]] for e in events
            if e["event"] in JOB_EVENTS and
            e["data"].get("status") not in ("running", "paused")]


def until(status, job="j"):
    """The events of jobs up to the one that tells this status."""
    def step(daemon):
        seen = []
        while not (seen and Qmp.matches(seen[-1], "JOB_STATUS_CHANGE",
                                        {"id": job, "status": status})):
            seen.append(daemon.qmp.next_event())
        return job_events(seen)
    step.__name__ = f"until {job} is {status}"
    return step


def until_held(job="j"):
    """The events up to an error that the policy `stop` answers; the job is
    paused then."""
    def step(daemon):
        error = daemon.qmp.wait_event("BLOCK_JOB_ERROR", device=job,
                                      action="stop")
        daemon.qmp.wait_paused(job)
        return job_events([*daemon.qmp.take_events(), error])
    step.__name__ = f"until an error holds {job}"
    return step


def verb(name, job="j", **more):
    key = "device" if name.startswith("block-") and not name.endswith(
        ("finalize", "dismiss")) else "id"
    return (name, {key: job, **dashes(more)})


def bitmaps(daemon):
    """All named bitmaps with the checksum of their bits."""
    seen = {}
    for n in daemon.command("query-named-block-nodes", flat=True):
        # The filter of a backup shows its source's bitmaps as well.
        if n["drv"] == "copy-before-write":
            continue
        for b in n.get("dirty-bitmaps", []):
            if "name" not in b:
                continue
            b["sha256"] = daemon.command(
                "x-debug-block-dirty-bitmap-sha256", node=n["node-name"],
                name=b["name"])["sha256"]
            seen[n["node-name"] + "/" + b["name"]] = b
    return seen


def content(name):
    """The checksum of a file in the daemon's directory."""
    def step(daemon):
        with open(daemon.path(name), "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()
    step.__name__ = f"content of {name}"
    return step


def jobs(daemon):
    return {j["id"]: j["status"] for j in daemon.command("query-jobs")}

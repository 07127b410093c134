"""x-blockdev-amend, and blockdev-create with all its options."""
import json
import subprocess

import pytest

from lib import Varved, same_conversation
from lib.conversation import Events
from lib.random_operations import merged_map

MIB = 1 << 20


def qemu(tool, *args, check=0):
    done = subprocess.run([tool, *map(str, args)], capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == check, (args, done.stdout, done.stderr)
    return done.stdout


def info(path):
    said = json.loads(qemu("qemu-img", "info", "-U", "--output=json", path))
    del said["filename"], said["actual-size"]
    return said


def node(name, **file):
    return ("blockdev-add", {"driver": "qcow2", "node-name": name,
                             "file": file})


def amend(job="j", name="n", driver="qcow2", **options):
    return ("x-blockdev-amend", {"job-id": job, "node-name": name, "options": {
        "driver": driver, **{k.replace("_", "-"): v
                             for k, v in options.items()}}})


def conclude(daemon, job="j"):
    """What the job has become; it is dismissed."""
    daemon.qmp.wait_event("JOB_STATUS_CHANGE", id=job, status="concluded")
    found, = [j for j in daemon.command("query-jobs") if j["id"] == job]
    daemon.command("job-dismiss", id=job)
    return found


def test_what_the_peer_can_amend(pair):
    for daemon in pair:
        qemu("qemu-img", "create", "-q", "-f", "qcow2", daemon.path("a"), MIB)
    same_conversation(*pair, [
        node("n", driver="file", filename="{dir}/a"),
        ("blockdev-add", {"driver": "null-co", "node-name": "r"}),
        amend(), Events(settle=0.2), "query-jobs",
        amend(name="n", driver="raw"), amend(name="r"),
        amend(name="r", driver="null-co"), amend(name="nobody"), amend(job=""),
        amend(), ("job-dismiss", {"id": "j"}), Events(settle=0.2)])


OPTIONS = [
    {"version": "v2"}, {"version": "v2", "size": 2 * MIB},
    {"size": 3 * MIB, "refcount_bits": 64}, {"lazy_refcounts": True},
    {"refcount_bits": 1}, {"version": "v3"},
    {"refcount_bits": 3}, {"version": "v2", "refcount_bits": 8},
    {"data_file": "x"}, {"data_file_raw": True}, {"size": 1000},
    {"version": "v2", "lazy_refcounts": True},
]
WORDS = {"version": "compat", "v2": "0.10", "v3": "1.1", "True": "on"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_job_does_what_qemu_img_does(start, options):
    varved = start(Varved)
    paths = [varved.path(p) for p in ("ours", "theirs")]
    qemu("qemu-img", "create", "-q", "-f", "qcow2", varved.path("b"), MIB)
    qemu("qemu-io", "-c", "write -P 1 0 1M", varved.path("b"))
    for path in paths:
        qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", "b", "-F",
             "qcow2", path)
        qemu("qemu-io", "-c", "write -P 2 64k 64k", "-c", "write -z 256k 300k",
             path)
    words = ",".join(f"{WORDS.get(k, k)}={WORDS.get(str(v), v)}"
                     for k, v in options.items())
    theirs = subprocess.run(
        ["qemu-img", "amend", "-f", "qcow2", "-o", words, paths[1]],
        capture_output=True, text=True, timeout=120)
    varved.command(*node("n", driver="file", filename=paths[0]))
    varved.command(*amend(**options))
    job = conclude(varved)
    varved.command("blockdev-del", node_name="n")
    # A size that is no whole number of sectors, qemu-img rounds.
    if options != {"size": 1000}:
        assert ("error" in job) == (theirs.returncode != 0), (job, theirs)
        assert job.get("error", "") in theirs.stderr.replace("-", "_") or \
            job.get("error", "") in theirs.stderr, (job, theirs.stderr)
    assert job["type"] == "amend"
    assert job["current-progress"] == job["total-progress"] >= 1
    if options != {"size": 1000}:
        assert info(paths[0]) == info(paths[1])
        qemu("qemu-img", "compare", "-q", *paths)
    qemu("qemu-img", "check", "-q", paths[0])


def test_a_cancelled_amend_leaves_the_image_as_good_as_before(start):
    varved = start(Varved)
    path = varved.path("a")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", varved.path("b"), 8 * MIB)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", "b", "-F", "qcow2",
         path)
    qemu("qemu-io", "-c", "write -z 0 3M", "-c", "write -z 4M 3M", path)
    varved.command(*node("n", driver="blkdebug", image={
        "driver": "file", "filename": path}))

    def say(line):
        return varved.command("human-monitor-command",
                              command_line=f'qemu-io n "{line}"')
    assert say("break write_aio A") == ""
    varved.command(*amend(version="v2", size=16 * MIB))
    assert say("wait_break A") == ""
    running, = varved.command("query-jobs")
    assert running["total-progress"] > running["current-progress"]
    varved.command("job-cancel", id="j")
    assert say("resume A") == ""
    job = conclude(varved)
    assert job["error"] == "Operation canceled", job
    varved.command("blockdev-del", node_name="n")
    assert info(path)["format-specific"]["data"]["compat"] == "1.1"
    qemu("qemu-io", "-r", "-c", "read -P 0 0 8M", path)
    qemu("qemu-img", "check", "-q", path)


def test_an_old_image_that_had_lazy_refcounts_is_written_to(start):
    varved = start(Varved)
    path = varved.path("a")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on",
         path, MIB)
    varved.command(*node("n", driver="file", filename=path))
    varved.command(*amend(version="v2"))
    assert "error" not in conclude(varved)
    said = varved.command("human-monitor-command", {
        "command-line": 'qemu-io n "write -P 1 0 64k"'})
    assert "wrote 65536/65536" in said, said
    varved.command("blockdev-del", {"node-name": "n"})
    qemu("qemu-img", "check", "-q", path)


def test_amend_wants_no_other_writer(start):
    varved = start.prepare(Varved)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", varved.path("a"), MIB)
    varved.args += ["-drive", "file=a,if=none,id=d,node-name=n", "-device",
                    "virtio-blk,drive=d"]
    varved.start()
    said = varved.call(*amend()[:1], **amend()[1])
    assert "unshared by amend job 'j'" in said["error"]["desc"], said
    assert varved.command("query-jobs") == []


CREATE = [
    {}, {"version": "v2"}, {"cluster-size": 512}, {"cluster-size": 2 * MIB},
    {"refcount-bits": 1}, {"refcount-bits": 64, "cluster-size": 4096},
    {"lazy-refcounts": True}, {"extended-l2": True},
    {"extended-l2": True, "cluster-size": 8192},
    {"compression-type": "zstd"},
    {"preallocation": "metadata"}, {"preallocation": "falloc"},
    {"preallocation": "full", "extended-l2": True},
    {"backing-file": "{dir}/base", "backing-fmt": "raw"},
    {"backing-file": "{dir}/base", "backing-fmt": "raw", "extended-l2": True,
     "preallocation": "metadata"},
    {"backing-file": "{dir}/base", "backing-fmt": "raw",
     "preallocation": "metadata"},
    {"backing-fmt": "raw"}, {"backing-file": "{dir}/base"},
    {"data-file": "data"}, {"data-file": "data", "data-file-raw": True},
    {"data-file": "data", "preallocation": "full"},
    {"data-file-raw": True}, {"data-file": "nobody"},
    {"data-file": "data", "version": "v2"},
    {"data-file": "data", "data-file-raw": True, "backing-file": "{dir}/base",
     "backing-fmt": "raw"},
    {"version": "v2", "extended-l2": True},
    {"version": "v2", "compression-type": "zstd"},
    {"version": "v2", "lazy-refcounts": True}, {"size": 1000},
    {"refcount-bits": 128},
    {"refcount-bits": 0}, {"refcount-bits": -1},
]


def test_create_options(pair):
    """The layout of tables is free, what is in them is not."""
    def file(daemon, name):
        return ("blockdev-add", {"driver": "file", "node-name": name,
                                 "filename": daemon.path(name)})

    def ended(daemon):
        """How the job ended, if there is one, and what it made."""
        jobs = daemon.command("query-jobs")
        if not jobs:
            return None
        daemon.qmp.wait_event("JOB_STATUS_CHANGE", id="c", status="concluded")
        job, = daemon.command("query-jobs")
        daemon.command("job-dismiss", id="c")
        return job, None if "error" in job else shape(daemon)

    def shape(daemon):
        path = daemon.path("image")
        if isinstance(daemon, Varved):
            # The peer's ends too early with preallocation=metadata.
            qemu("qemu-img", "check", "-U", "-q", path)
        text = json.dumps(info(path)).replace(daemon.directory, "")
        return json.loads(text), merged_map(qemu(
            "qemu-img", "map", "-U", "--output=json", "--image-opts",
            f"driver=qcow2,backing=,file.filename={path}"))
    for daemon in pair:
        for name in ("image", "data", "base"):
            open(daemon.path(name), "wb").close()
            if name != "base":
                daemon.command(*file(daemon, name))
    steps = []
    for options in CREATE:
        steps += [
            lambda d: [open(d.path(n), "wb").close()
                       for n in ("image", "data")],
            ("blockdev-create", {"job-id": "c", "options": {
                "driver": "qcow2", "file": "image", "size": 3 * MIB,
                **options}}),
            ended]
    same_conversation(*pair, steps)

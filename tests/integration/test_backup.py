"""Backup jobs, compared with qemu-storage-daemon's: what they copy, what they
say, and what becomes of the bitmap."""
import json
import subprocess

import pytest

from lib import (Oracle, SystemOracle, Varved, guest, guest_pair, images,
                 program, same_conversation)
from lib.steps import (backup, bitmap, bitmaps, content, failing_node, jobs,
                       new_file, null_node, raw_node, remove_node, until,
                       until_held, verb)

KIB = 1 << 10
MIB = 1 << 20
SIZE = 2 * MIB
CLUSTER = 64 * KIB


@pytest.fixture
def disk(start):
    """A guest on d0 of both programs, with something on the disk."""
    pattern = bytes(1 + i // 4096 % 251 for i in range(0, SIZE, 512))
    data = b"".join(bytes([p]) * 512 for p in pattern[:SIZE // 1024])
    return guest_pair(start, (Varved, Oracle), {"d0": SIZE}, {"d0": data})


def target(name="t0", size=SIZE):
    return [new_file(f"{name}.img", size), raw_node(name)]


def bad_target(sector, once=False, errno=5, event="pwritev", name="t0"):
    return [new_file(f"{name}.img", SIZE), failing_node(
        name, f"{name}.img", [{"event": "none", "sector": sector,
                               "iotype": "write", "errno": errno,
                               "once": once}])]


WRITES = [guest("d0", "write", 5 * CLUSTER, 512, 0xd1),
          guest("d0", "write", 9 * CLUSTER - 512, 1024, 0xd2),
          guest("d0", "write-zeroes", 20 * CLUSTER, CLUSTER),
          guest("d0", "write", SIZE - 512, 512, 0xd3)]
MORE = [guest("d0", "write", 12 * CLUSTER, 4096, 0xe1),
        guest("d0", "write", 9 * CLUSTER, 4096, 0xe2)]
COMBINATIONS = [
    ("full", None), ("top", None),
    ("full", "on-success"), ("full", "always"),
    ("top", "on-success"), ("top", "always"),
    ("incremental", None), ("incremental", "on-success"),
    ("bitmap", "on-success"), ("bitmap", "never"), ("bitmap", "always")]


def with_bitmap(sync, mode):
    more = {"bitmap": "b"} if mode or sync in ("incremental", "bitmap") else {}
    return {"sync": sync, **more, **({"bitmap_mode": mode} if mode else {})}


@pytest.mark.parametrize("sync, mode", COMBINATIONS)
def test_success_failure_and_cancellation_of_each_sync_mode(disk, sync, mode):
    """A run that fails, one that is cancelled, one that succeeds; writes of the
    guest before, between and after. An error with the policy `stop` holds a job
    at a known place."""
    data = {**with_bitmap(sync, mode), "auto_dismiss": False,
            "x_perf": {"max-workers": 1, "max-chunk": CLUSTER}}
    same_conversation(*disk, [
        bitmap("add"), *WRITES, bitmaps,
        *bad_target(8 * 128 + 1), backup("d0", "t0", **data),
        until("concluded"), "query-jobs", "query-block-jobs", bitmaps,
        verb("job-dismiss"), remove_node("t0"),
        *bad_target(8 * 128 + 1),
        backup("d0", "t0", **data, on_target_error="stop"),
        until_held(), "query-jobs", "query-block-jobs", *MORE, bitmaps,
        verb("block-job-cancel", force=True), until("concluded"), bitmaps,
        verb("job-dismiss"), remove_node("t0"),
        *target(), backup("d0", "t0", **data),
        until("concluded"), "query-jobs", "query-block-jobs", bitmaps,
        content("t0.img"), verb("job-dismiss"), remove_node("t0"),
        *WRITES, bitmaps,
    ], ignore=("busy",))


def test_the_instant_of_a_backup_stays_while_the_guest_writes(disk):
    """The job is held at its first cluster; the guest writes where the job has
    been and where it has not; the target is the disk before."""
    answers = same_conversation(*disk, [
        content("disk-d0.img"), bitmap("add"),
        *bad_target(0, once=True),
        backup("d0", "t0", on_target_error="stop",
               x_perf={"max-workers": 1, "max-chunk": CLUSTER}),
        until_held(), *WRITES, *MORE, guest("d0", "discard", 0, CLUSTER),
        guest("d0", "write", 0, SIZE, 0xff), bitmaps,
        verb("job-resume"), until("null"), content("t0.img"),
        content("disk-d0.img"), bitmaps, jobs])
    assert answers[0] == answers[-4] != answers[-3]


def test_sync_none_copies_what_the_guest_overwrites(disk):
    same_conversation(*disk, [
        *target(), backup("d0", "t0", sync="none"), until("running"), *WRITES,
        content("t0.img"), "query-jobs", "query-block-jobs",
        *WRITES, *MORE, "query-jobs", verb("block-job-cancel"), until("null"),
        content("t0.img"), jobs,
        guest("d0", "write", 0, CLUSTER, 0xaa), content("t0.img")])


def test_life_of_a_manual_job(disk):
    job = ("job-pause", "job-resume", "job-complete", "job-finalize",
           "job-dismiss", "block-job-pause", "block-job-resume",
           "block-job-complete", "block-job-finalize", "block-job-dismiss")
    same_conversation(*disk, [
        bitmap("add"), *WRITES, *target(),
        backup("d0", "t0", sync="incremental", bitmap="b",
               auto_finalize=False, auto_dismiss=False),
        until("pending"), "query-jobs", "query-block-jobs", bitmaps,
        *[verb(v) for v in job if "finalize" not in v], *MORE, bitmaps,
        verb("job-finalize"), until("concluded"), "query-jobs",
        "query-block-jobs", bitmaps, *[verb(v) for v in job[:4]],
        verb("block-job-dismiss"), until("null"), "query-jobs", bitmaps])


@pytest.mark.parametrize("how", ["job-cancel", "block-job-cancel", "force"])
def test_a_pending_job_is_cancelled(disk, how):
    cancel = verb("block-job-cancel", force=True) if how == "force" else \
        verb(how)
    same_conversation(*disk, [
        bitmap("add"), *WRITES, *target(),
        backup("d0", "t0", sync="incremental", bitmap="b",
               auto_finalize=False), until("pending"), cancel,
        until("null"), bitmaps, jobs])


def test_a_busy_bitmap_is_refused_by_name(disk):
    verbs = [bitmap(v) for v in ("remove", "clear", "enable", "disable")]
    merges = [("block-dirty-bitmap-merge", {"node": "d0", "target": "b",
                                            "bitmaps": ["c"]}),
              ("block-dirty-bitmap-merge", {"node": "d0", "target": "c",
                                            "bitmaps": ["b"]})]
    actions = [("transaction", {"actions": [{"type": v, "data": a}]})
               for v, a in verbs + merges]
    same_conversation(*disk, [
        bitmap("add"), bitmap("add", name="c"), *WRITES, *target(),
        backup("d0", "t0", sync="incremental", bitmap="b",
               auto_finalize=False), until("pending"),
        *verbs, *merges, *actions, bitmaps, bitmap("add"),
        new_file("t1.img", SIZE), raw_node("t1"),
        backup("d0", "t1", job="k", sync="incremental", bitmap="b"),
        backup("d0", "t1", job="k", sync="bitmap", bitmap="b",
               bitmap_mode="never"),
        bitmap("disable", name="c"), bitmap("clear", name="c"),
        verb("job-finalize"), until("null"), bitmaps, *verbs[1:], bitmaps])


def test_nodes_and_job_names_that_are_taken(disk):
    same_conversation(*disk, [
        *target(), *target("t1"), null_node("other", SIZE),
        backup("d0", "t0", sync="none"), until("running"),
        backup("d0", "t1"), backup("d0", "t0", job="l"),
        backup("other", "t0", job="l"), backup("t0", "t1", job="l"),
        backup("other", "t1"), backup("d0", "d0", job="l"),
        backup("other", "other", job="l"), jobs,
        backup("d0", "t1", job="k", sync="none"), until("running", "k"),
        backup("d0", "t0", job="l"), *WRITES, jobs,
        content("t0.img"), content("t1.img"),
        remove_node("t0"), remove_node("d0"),
        verb("block-job-cancel"), until("null"), remove_node("t0"),
        *MORE, content("t1.img"), jobs,
        verb("block-job-cancel", "k"), until("null", "k")])


@pytest.mark.parametrize("first, second", ["jk", "kj"])
def test_two_backups_of_one_node_end_in_any_order(disk, first, second):
    same_conversation(*disk, [
        *target(), *target("t1"),
        backup("d0", "t0", sync="none"), until("running"), WRITES[0],
        backup("d0", "t1", job="k", sync="none"), until("running", "k"),
        *WRITES[:2], verb("block-job-cancel", first), until("null", first),
        *WRITES, *MORE, content("t0.img"), content("t1.img"), jobs,
        verb("block-job-cancel", second), until("null", second),
        guest("d0", "write", 0, 512, 1),
        content("t0.img"), content("t1.img"), remove_node("t0"),
        remove_node("t1")])


@pytest.mark.parametrize("size", [SIZE - 512, SIZE + 512, 2 * SIZE, 512])
def test_sizes_must_be_equal(disk, size):
    same_conversation(*disk, [
        bitmap("add"), *WRITES, *target(size=size),
        backup("d0", "t0"), backup("d0", "t0", sync="none"),
        backup("d0", "t0", sync="incremental", bitmap="b"), bitmaps, jobs])


def test_limits_of_x_perf(disk):
    perf = [{"max-workers": n} for n in (0, -1, 1 << 31, (1 << 31) - 1)]
    perf += [{"max-chunk": n} for n in (-1, 1, 512, CLUSTER - 1, CLUSTER, 0)]
    perf += [{"use-copy-range": True}, {"use-copy-range": 1}, {"x": 1}, {},
             {"max-workers": 1, "max-chunk": 1 << 62, "use-copy-range": True}]
    steps = [*target()]
    for p in perf:
        steps += [backup("d0", "t0", x_perf=p, auto_finalize=False), settle,
                  content("t0.img")]
    same_conversation(*disk, steps)


def settle(daemon):
    """Finishes the job if there is one; its events."""
    seen = []
    if jobs(daemon):
        seen += until("pending")(daemon)
        daemon.command("job-finalize", id="j")
        seen += until("null")(daemon)
    return seen


def test_filter_node_name(disk):
    def nodes(daemon):
        return sorted((n["node-name"], n["drv"]) for n in
                      daemon.command("query-named-block-nodes", flat=True)
                      if not n["node-name"].startswith("#"))
    same_conversation(*disk, [
        *target(), backup("d0", "t0", sync="none", filter_node_name="d0"),
        backup("d0", "t0", sync="none", filter_node_name=""),
        backup("d0", "t0", sync="none", filter_node_name="#x"),
        nodes, jobs, backup("d0", "t0", sync="none", filter_node_name="cbw"),
        nodes, bitmap("add", node="cbw", name="on filter"),
        remove_node("cbw"), *WRITES, bitmaps,
        verb("block-job-cancel"), until("null"), nodes, bitmaps])


def test_compression_is_refused_where_there_is_none(disk):
    same_conversation(*disk, [*target(), backup("d0", "t0", compress=True),
                              jobs])


def test_speed_is_changed_while_a_job_runs(disk):
    same_conversation(*disk, [
        *target(), backup("d0", "t0", speed=1), until("running"),
        "query-block-jobs", verb("block-job-set-speed", speed=2),
        "query-block-jobs", verb("block-job-set-speed", speed=-1),
        verb("block-job-set-speed", speed=0), until("null"),
        content("t0.img")], ignore=("busy", "offset"))


# ---- drive-backup and query-block: the emulator's --------------------------

@pytest.fixture
def system_disk(start):
    return guest_pair(start, (Varved, SystemOracle), {"d0": SIZE},
                      {"d0": b"\x17" * MIB})


def drive_backup(target_name="t0.img", sync="full", **more):
    return ("drive-backup", {"job-id": "j", "device": "d0", "sync": sync,
                             "target": "{dir}/" + target_name,
                             **{k.replace("_", "-"): v
                                for k, v in more.items()}})


def exists(name):
    def step(daemon):
        try:
            with open(daemon.path(name), "rb") as f:
                return [f.read(4).decode("latin1"), f.seek(0, 2)]
        except FileNotFoundError:
            return None
    return step


@pytest.mark.parametrize("sync", ["full", "top", "incremental"])
def test_drive_backup_makes_its_target(system_disk, sync):
    more = {"bitmap": "b"} if sync == "incremental" else {}
    same_conversation(*system_disk, [
        bitmap("add"), *WRITES,
        drive_backup(sync=sync, **more), until("null"), exists("t0.img"),
        content("t0.img"), bitmaps,
        drive_backup("t1.img", sync=sync, format="raw", **more),
        until("null"), content("t1.img"), bitmaps, jobs])


def test_drive_backup_into_what_is_there(system_disk):
    same_conversation(*system_disk, [
        drive_backup(mode="existing"), exists("t0.img"),
        new_file("t0.img", SIZE), drive_backup(mode="existing", format="raw"),
        until("null"), content("t0.img"),
        new_file("t1.img", SIZE - 512),
        drive_backup("t1.img", mode="existing", format="raw"), jobs,
        drive_backup("t2.img", mode="existing", format="qcow2"),
        drive_backup("nodir/t2.img"), drive_backup("t2.img", format="nope"),
        drive_backup("t2.img", format=""), exists("t2.img"),
        drive_backup("t2.img", mode="nope"), jobs])


def test_drive_backup_that_is_refused_makes_no_file(system_disk):
    """The messages are the emulator's; that some refusals leave a file behind
    is not taken over."""
    refused = [
        drive_backup(sync="incremental"),
        drive_backup(sync="incremental", bitmap="nope"),
        drive_backup(speed=-1), drive_backup(job_id="1"),
        drive_backup(device="nope"), drive_backup(sync="nope"),
        drive_backup(x_perf={"max-workers": 0}),
        drive_backup(compress=True),
        drive_backup("disk-d0.img")]
    same_conversation(*system_disk, refused[:6] + [jobs])
    for step in refused:
        step[1]["target"] = step[1]["target"].replace(
            "{dir}", system_disk[0].directory)
        assert "error" in system_disk[0].call(*step), step
        assert exists("t0.img")(system_disk[0]) is None, step
    assert exists("disk-d0.img")(system_disk[0])[1] == SIZE


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("sync", ["full", "top", "none"])
def test_drive_backup_into_qcow2(system_disk, sync, compress):
    """The files differ; what they hold does not."""
    def held(daemon):
        return daemon.image_content("t0.img")

    def chain(daemon):
        info = daemon.image_info("t0.img")
        return [info["format"], info["virtual-size"],
                info.get("full-backing-filename", "").rsplit("/", 1)[-1],
                info.get("backing-filename-format")]
    end = [verb("block-job-cancel"), until("null")] if sync == "none" else \
        [until("null")]
    same_conversation(*system_disk, [
        drive_backup(sync=sync, format="qcow2", compress=compress),
        until("running"), *WRITES, *MORE, *end, chain, held, jobs])


# ---- chains of images --------------------------------------------------------

def overlay(name, base, *commands):
    """An overlay with something written to it."""
    def step(daemon):
        path = daemon.path(name)
        images.create(path, backing=daemon.path(base))
        subprocess.run([program("qemu-io"), path] + [
            x for c in commands for x in ("-c", c)], check=True,
            stdout=subprocess.DEVNULL)
    step.__name__ = f"overlay {name}"
    return step


def base(name):
    def step(daemon):
        images.create(daemon.path(name), SIZE)
        subprocess.run([program("qemu-io"), "-c", "write -P 1 0 1M",
                        daemon.path(name)], check=True,
                       stdout=subprocess.DEVNULL)
    step.__name__ = f"base {name}"
    return step


def qcow2_node(name, filename, **more):
    return ("blockdev-add", {
        "driver": "qcow2", "node-name": name, "file": {
            "driver": "file", "filename": "{dir}/" + filename}, **more})


def held(name):
    def step(daemon):
        return daemon.image_content(name)
    step.__name__ = f"what {name} holds"
    return step


def allocated(name):
    """Which clusters an image has of its own."""
    def step(daemon):
        done = images.qemu_img("map", "-U", "--output=json", daemon.path(name))
        return [(m["start"], m["length"], m["zero"])
                for m in json.loads(done.stdout) if m["depth"] == 0]
    step.__name__ = f"clusters of {name}"
    return step


def compressed(name):
    """How many clusters are, where the image has no fault."""
    def step(daemon):
        done = images.qemu_img("check", "--output=json", daemon.path(name))
        n = json.loads(done.stdout).get("compressed-clusters", 0)
        assert n
        return n
    step.__name__ = f"compressed clusters of {name}"
    return step


@pytest.mark.parametrize("options", [
    "compression_type=zlib", "compression_type=zstd", "compat=0.10",
    "cluster_size=512", "cluster_size=2M"])
def test_compressed_backups(disk, options):
    """A full one, and an incremental one into an overlay, while the guest
    writes."""
    def target_image(name, *more):
        def step(daemon):
            images.qemu_img("create", "-q", "-f", "qcow2", "-o", options,
                            *(m.replace("{dir}", daemon.directory)
                              for m in more), daemon.path(name), str(SIZE))
        step.__name__ = f"image {name}"
        return step
    overlay_of = ["-b", "{dir}/full.qcow2", "-F", "qcow2"]
    same_conversation(*disk, [
        bitmap("add"), target_image("full.qcow2"),
        qcow2_node("t0", "full.qcow2"),
        backup("d0", "t0", compress=True), until("running"), *WRITES,
        until("null"), remove_node("t0"), compressed("full.qcow2"),
        held("full.qcow2"),
        target_image("inc.qcow2", *overlay_of), qcow2_node("t1", "inc.qcow2"),
        backup("d0", "t1", sync="incremental", bitmap="b", compress=True),
        until("null"), bitmaps, remove_node("t1"), compressed("inc.qcow2"),
        held("inc.qcow2")], ignore=("offset", "busy"))


@pytest.mark.parametrize("sync", ["top", "full"])
@pytest.mark.parametrize("target_backing", [None, "base.qcow2"])
def test_the_top_of_a_chain(pair, sync, target_backing):
    """Data, zeroes and holes of the overlay, and what lies below."""
    def new_target(daemon):
        images.create(daemon.path("t.qcow2"), SIZE, target_backing and
                      daemon.path(target_backing))
    same_conversation(*pair, [
        base("base.qcow2"),
        overlay("top.qcow2", "base.qcow2", "write -P 2 64k 4k",
                "write -z 256k 128k", "write -P 3 1088k 512",
                "write -z 1536k 64k"),
        qcow2_node("d0", "top.qcow2"), new_target,
        qcow2_node("t0", "t.qcow2"),
        backup("d0", "t0", sync=sync), until("null"),
        # The peer writes its tables when it closes the image.
        remove_node("t0"), remove_node("d0"), held("t.qcow2"),
        # A mixed cluster may be data or zeroes; what is there must be right.
        lambda d: [a[:2] for a in allocated("t.qcow2")(d)]
        if sync == "top" and target_backing else None,
        lambda d: images.check(d.path("t.qcow2"))])


def test_a_frozen_view_of_a_disk_in_use(start):
    """sync=none into an overlay whose backing file is the source: a second
    guest reads the disk as it was while the first one writes, also where it was
    all zeroes."""
    d = start.prepare(Varved)
    with open(d.path("d.img"), "wb") as f:
        f.write(b"\x21" * MIB)
        f.truncate(SIZE)
    images.create(d.path("t.qcow2"), SIZE)
    d.args += [
        "--blockdev", "driver=raw,node-name=d0,discard=unmap,"
        "file.driver=file,file.filename=d.img",
        "--blockdev", "driver=qcow2,node-name=t0,file.driver=file,"
        "file.filename=t.qcow2,backing=d0",
        "--device", "virtio-blk,drive=d0,id=vd-d0,share-rw=on",
        "--device", "virtio-blk,drive=t0,id=vd-t0,share-rw=on"]
    d.start()

    def expect(device, offset, length, pattern):
        assert d.command("x-guest-request", device=device, op="read",
                         offset=offset, length=length, pattern=pattern,
                         verify=True) == {"status": "ok"}
    d.command("blockdev-backup", job_id="j", device="d0", target="t0",
              sync="none")
    d.command("x-guest-workload-start", device="vd-d0", depth=16,
              block_size=4096, discard_percent=10, zeroes_percent=10,
              max_ops=3000, seed=3)
    for _ in range(20):
        expect("vd-t0", 0, MIB, 0x21)
        expect("vd-t0", MIB, MIB, 0)
    while d.command("x-guest-workload-query", device="vd-d0")["active"]:
        expect("vd-t0", 0, MIB, 0x21)
        expect("vd-t0", MIB, MIB, 0)
    d.command("job-cancel", id="j")
    d.qmp.wait_job("j", "null")

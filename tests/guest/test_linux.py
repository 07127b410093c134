"""Linux on disks of varved: file systems, backups, what the disk tells, and
errors that the guest does not notice."""
import os
import subprocess

from lib import program
from lib.steps import bitmaps

MIB = 1 << 20


def qemu_img(*args):
    subprocess.run([program("qemu-img"), *args], check=True,
                   stdout=subprocess.DEVNULL)


def add_image(daemon, node, name, **more):
    """A qcow2 node on a file of the daemon's directory."""
    daemon.command("blockdev-add", {
        "driver": "qcow2", "node-name": node,
        "file": {"driver": "file", "filename": daemon.path(name)}, **more})


def add_export(daemon, node, writable=True, **more):
    """The path of the new export's socket."""
    path = daemon.path(f"{node}.sock")
    daemon.command("block-export-add", {
        "type": "vhost-user-blk", "id": f"export-{node}", "node-name": node,
        "writable": writable, "addr": {"type": "unix", "path": path}, **more})
    return path


def backup(node, target, **more):
    return {"job-id": target, "device": node, "target": target, **more}


def end_of(daemon, job):
    event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=job, timeout=120)
    assert "error" not in event["data"], event


def new_overlay(daemon, name, backing):
    args = ["-b", daemon.path(backing), "-F", "qcow2"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *args, daemon.path(name),
             "64M")
    node = name.split(".")[0]
    # Without its backing file: what is copied is what has changed.
    add_image(daemon, node, name, **({"backing": None} if backing else {}))
    return node


SLOWLY = {"speed": 1}  # bytes a second: no job ends so by itself


def let_end(daemon, job):
    """A job that began slowly goes as quickly as it can, up to its end."""
    assert [j["status"] for j in daemon.command("query-jobs")
            if j["id"] == job] == ["running"]
    daemon.command("block-job-set-speed", device=job, speed=0)
    end_of(daemon, job)


# Writes seven files over and over until /stop is there; a line of /rounds for
# each. Eight rounds that end from now on hold seven that begin from now on.
WRITER = ("i=0; while [ ! -e /stop ]; do i=$((i+1)); dd if=/dev/urandom "
          "of=/mnt/b$((i%7)) bs=64k count=3 conv=fsync 2>/dev/null || break; "
          "echo $i >>/rounds; done")
ALL_WRITTEN = ("n=$(wc -l </rounds); while [ $(wc -l </rounds) -lt $((n+8)) ]; "
               "do sleep 0.05; done")

CHECKSUMS = "cd /mnt && find . -type f | sort | xargs md5sum; cd /"


def test_backups_of_a_file_system_in_use(daemon, boot):
    qemu_img("create", "-q", "-f", "qcow2", daemon.path("disk.qcow2"), "64M")
    add_image(daemon, "disk", "disk.qcow2")
    guest = boot(add_export(daemon, "disk"))
    guest.run("/bin/mke2fs -q -t ext4 /dev/vda && mount -t ext4 /dev/vda /mnt")
    guest.run("dd if=/dev/urandom of=/mnt/a bs=1M count=8 && sync")

    # The bitmap and the full backup begin at one instant, under writes.
    guest.run(f": >/rounds; ({WRITER}) &")
    guest.run(ALL_WRITTEN)
    full = new_overlay(daemon, "full.qcow2", None)
    daemon.command("transaction", actions=[
        {"type": "block-dirty-bitmap-add",
         "data": {"node": "disk", "name": "b"}},
        {"type": "blockdev-backup",
         "data": backup("disk", full, sync="full", **SLOWLY)}])
    guest.run(ALL_WRITTEN)
    let_end(daemon, full)
    # More than what the guest goes on writing, whose old data it saves itself.
    guest.run("dd if=/dev/urandom of=/mnt/a bs=1M count=8 conv=fsync")
    inc0 = new_overlay(daemon, "inc0.qcow2", "full.qcow2")
    daemon.command("blockdev-backup", backup("disk", inc0, sync="incremental",
                                             bitmap="b", **SLOWLY))
    guest.run(ALL_WRITTEN)
    let_end(daemon, inc0)
    guest.run("touch /stop; wait")
    guest.run("rm -f /mnt/b1; cp /mnt/a /mnt/c && sync")
    sums = guest.run(CHECKSUMS)
    assert [line.split()[1] for line in sums.splitlines()] == [
        f"./{name}" for name in ("a", "b0", "b2", "b3", "b4", "b5", "b6", "c")]
    guest.run("umount /mnt")
    inc1 = new_overlay(daemon, "inc1.qcow2", "inc0.qcow2")
    daemon.command("blockdev-backup", backup("disk", inc1, sync="incremental",
                                             bitmap="b"))
    end_of(daemon, inc1)
    guest.stop()
    daemon.command("block-export-del", id="export-disk")
    daemon.qmp.wait_event("BLOCK_EXPORT_DELETED", id="export-disk")
    for node in (inc1, inc0, full):
        daemon.command("blockdev-del", node_name=node)
    qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2",
             daemon.path("disk.qcow2"), daemon.path("inc1.qcow2"))

    # Another guest finds the files on a second disk, into which the chain was
    # restored, and nothing to repair.
    subprocess.run([program("varve-img"), "convert", "-f", "qcow2", "-O",
                    "qcow2", daemon.path("inc1.qcow2"),
                    daemon.path("restored.qcow2")], check=True)
    add_image(daemon, "restored", "restored.qcow2")
    guest = boot(add_export(daemon, "restored"))
    guest.run("/bin/e2fsck -f -n /dev/vda")
    guest.run("mount -t ext4 -o ro /dev/vda /mnt")
    assert guest.run(CHECKSUMS) == sums
    assert "EXT4-fs error" not in guest.run("dmesg")
    guest.stop()


def test_what_a_disk_tells_and_takes(daemon, boot):
    for name, size in (("a", 24 * MIB), ("b", 16 * MIB)):
        with open(daemon.path(f"{name}.img"), "wb") as f:
            f.truncate(size)
        daemon.command("blockdev-add", {
            "driver": "raw", "node-name": name, "discard": "unmap",
            "file": {"driver": "file", "discard": "unmap",
                     "filename": daemon.path(f"{name}.img")}})
    daemon.command("blockdev-add", {
        "driver": "raw", "node-name": "full", "file": {
            "driver": "blkdebug",
            "inject-error": [{"event": "write_aio", "errno": 28, "once": True}],
            "image": {"driver": "null-co", "size": MIB}}})
    guest = boot(add_export(daemon, "a", **{"num-queues": 2, "serial": "S-1"}),
                 add_export(daemon, "b", writable=False,
                            **{"logical-block-size": 4096}),
                 add_export(daemon, "full", werror="enospc"),
                 processors=2, queues=(2, 1, 1))
    # A bitmap is there all the while, and a backup at first.
    daemon.command("block-dirty-bitmap-add", node="a", name="b")
    daemon.command("blockdev-add", driver="null-co", node_name="nowhere",
                   size=24 * MIB)
    daemon.command("blockdev-backup", backup("a", "nowhere", sync="full",
                                             **SLOWLY))
    block = "/sys/block"
    assert guest.run(f"cat {block}/vda/serial") == "S-1"
    assert guest.run(f"ls {block}/vda/mq").split() == ["0", "1"]
    assert guest.run(f"cat {block}/vda/size") == "49152"
    assert guest.run(f"cat {block}/vdb/queue/logical_block_size") == "4096"
    assert guest.run(f"cat {block}/vda/ro {block}/vdb/ro").split() == ["0", "1"]

    # Both queues carry requests, and what they wrote is there.
    guest.run("dd if=/dev/urandom of=/r bs=1M count=8")
    for cpu in (0, 1):
        guest.run(f"taskset {cpu + 1} dd if=/r of=/dev/vda bs=64k "
                  f"seek={cpu * 128} conv=fsync")
    guest.run("echo 3 >/proc/sys/vm/drop_caches; cat /r /r | "
              "cmp -n 16777216 - /dev/vda")
    status, _ = guest.try_run("dd if=/r of=/dev/vdb bs=4k count=1 conv=fsync")
    assert status

    # A discard gives space back.
    before = os.stat(daemon.path("a.img")).st_blocks
    guest.run("blkdiscard -o 1048576 -l 8388608 /dev/vda")
    assert os.stat(daemon.path("a.img")).st_blocks * 512 <= \
        before * 512 - 7 * MIB

    # The guest sees that the disk has grown; not while a backup copies it.
    let_end(daemon, "nowhere")
    daemon.command("block_resize", node_name="a", size=32 * MIB)
    guest.run(f"while [ $(cat {block}/vda/size) != 65536 ]; do sleep 0.1; done")

    # A write that finds no space waits until somebody has helped.
    guest.send("dd if=/r of=/dev/vdc bs=4k count=16 conv=fsync")
    daemon.qmp.wait_event("STOP", timeout=120)
    error = daemon.qmp.wait_event("BLOCK_IO_ERROR")
    assert error["data"]["action"] == "stop"
    daemon.command("cont")
    assert guest.result()[0] == 0
    assert "error" not in guest.run("dmesg | grep vdc || true")
    guest.stop()


def test_one_export_serves_one_guest_after_the_other(daemon, boot):
    daemon.command("blockdev-add", driver="null-co", node_name="n", size=MIB,
                   read_zeroes=True)
    path = add_export(daemon, "n")
    for _ in range(2):
        guest = boot(path)
        guest.run("cmp -n 1048576 /dev/vda /dev/zero")
        guest.kill()  # it does not say goodbye
    assert daemon.command("query-block-exports")[0]["id"] == "export-n"


def test_packed_rings_and_small_ones(daemon, boot):
    for name in ("packed", "small"):
        with open(daemon.path(f"{name}.img"), "wb") as f:
            f.truncate(16 * MIB)
        daemon.command("blockdev-add", {
            "driver": "raw", "node-name": name, "file": {
                "driver": "file", "filename": daemon.path(f"{name}.img")}})
    daemon.command("block-dirty-bitmap-add", node="packed", name="b")
    guest = boot(add_export(daemon, "packed", **{"num-queues": 2}),
                 add_export(daemon, "small"), processors=2, queues=(2, 1),
                 devices=(",packed=on", ",queue-size=16"))
    features = guest.run("cat /sys/block/vda/device/features "
                         "/sys/block/vdb/device/features").split()
    size_max, ring_packed = 1, 34
    assert [f[ring_packed] for f in features] == ["1", "0"]
    assert [f[size_max] for f in features] == ["1", "1"]
    limit = guest.run("cat /sys/block/vda/queue/max_segment_size")
    assert limit == str(2**31 - 512)

    # Many at once on both queues; each request of up to 126 segments, which is
    # more than the small ring has entries.
    guest.run("dd if=/dev/urandom of=/r bs=1M count=8")
    guest.run("(taskset 1 dd if=/r of=/dev/vda bs=1M conv=fsync & "
              "taskset 2 dd if=/r of=/dev/vda bs=4k seek=2048 conv=fsync; "
              "wait)")
    guest.run("dd if=/r of=/dev/vdb bs=4M conv=fsync")
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    guest.run("cat /r /r | cmp - /dev/vda")
    guest.run("cmp -n 8388608 /r /dev/vdb")
    assert "error" not in guest.run("dmesg | grep vd || true")
    assert bitmaps(daemon)["packed/b"]["count"] == 16 * MIB
    guest.stop()
    with open(daemon.path("packed.img"), "rb") as f:
        first, second = f.read(8 * MIB), f.read(8 * MIB)
    with open(daemon.path("small.img"), "rb") as f:
        assert first == second == f.read(8 * MIB) != bytes(8 * MIB)

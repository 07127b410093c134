"""A daemon that is killed under a running guest, and started again: the guest
notices nothing, and nothing is lost."""
import subprocess
import time

from lib import Varved, program

SIZE = "48M"
BUSY = 60  # clusters that have to become dirty before a daemon is killed


def qemu_img(*args):
    subprocess.run([program("qemu-img"), *args], check=True,
                   stdout=subprocess.DEVNULL)


def options(directory):
    """Two disks, with their exports."""
    args = []
    for i in (0, 1):
        qemu_img("create", "-q", "-f", "qcow2", f"{directory}/disk{i}.qcow2",
                 SIZE)
        args += ["--blockdev", f"driver=qcow2,node-name=disk{i},"
                 f"file.driver=file,file.filename=disk{i}.qcow2",
                 "--export", f"vhost-user-blk,id=e{i},node-name=disk{i},"
                 f"writable=on,num-queues=2,addr.type=unix,addr.path=s{i}"]
    return args


def dirty(daemon, node, name):
    for info in daemon.command("query-named-block-nodes"):
        if info["node-name"] == node:
            return next(b["count"] for b in info["dirty-bitmaps"]
                        if b["name"] == name)
    raise AssertionError(f"no node {node}")


def wait_busy(daemon, name):
    """Both disks are being written to; each gets a bitmap to see it by."""
    for node in ("disk0", "disk1"):
        daemon.command("block-dirty-bitmap-add", node=node, name=name,
                       granularity=4096)
    deadline = time.monotonic() + 120
    while min(dirty(daemon, n, name) for n in ("disk0", "disk1")) < BUSY * 4096:
        assert time.monotonic() < deadline, "the guest writes nothing"
        time.sleep(0.02)


def start_backup(daemon):
    """A backup that is still busy when the daemon is killed."""
    daemon.command("blockdev-add", driver="null-co", node_name="nowhere",
                   size=48 << 20)
    daemon.command("blockdev-backup", job_id="j", device="disk0",
                   target="nowhere", sync="full", speed=65536)


def add_target(daemon, name, backing=None):
    args = ["-b", daemon.path(backing), "-F", "qcow2"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *args, daemon.path(name), SIZE)
    node = name.split(".")[0]
    daemon.command("blockdev-add", {
        "driver": "qcow2", "node-name": node, "backing": None,
        "file": {"driver": "file", "filename": daemon.path(name)}})
    return node


def grouped_backup(daemon, targets, **more):
    """One instant of both disks; returns when both are copied."""
    actions = [{"type": "blockdev-backup", "data": {
        "job-id": target, "device": f"disk{i}", "target": target, **more}}
        for i, target in enumerate(targets)]
    properties = {"completion-mode": "grouped"}
    if more["sync"] == "full":
        actions += [{"type": "block-dirty-bitmap-add", "data": {
            "node": f"disk{i}", "name": "b"}} for i in (0, 1)]
        properties = {}  # to add a bitmap cannot wait for another action
    daemon.command("transaction", actions=actions, properties=properties)
    for target in targets:
        event = daemon.qmp.wait_event("BLOCK_JOB_COMPLETED", device=target,
                                      timeout=120)
        assert "error" not in event["data"], event


def test_a_daemon_that_is_killed_under_load(tmp_path, boot):
    directory = tmp_path / "varved"
    directory.mkdir()
    with Varved(directory, *options(directory)) as daemon:
        # One disk with split rings, the other with packed ones.
        guest = boot(daemon.path("s0"), daemon.path("s1"), processors=2,
                     queues=(2, 1), devices=("", ",packed=on"))
        for disk, workers in (("vda", 3), ("vdb", 2)):
            guest.run(f"(load /dev/{disk} {workers} /stop; echo status $?) "
                      f">/{disk}.out 2>&1 &")
        for _ in range(3):
            wait_busy(daemon, "progress")
            start_backup(daemon)
            daemon.kill()
            daemon.qmp = None
            daemon.start()
        wait_busy(daemon, "progress")

        # Both disks at one instant, and what has changed since, under load.
        grouped_backup(daemon, [add_target(daemon, f"full{i}.qcow2")
                                for i in (0, 1)], sync="full")
        wait_busy(daemon, "more")
        guest.run("touch /stop; wait")
        for disk in ("vda", "vdb"):
            output = guest.run(f"cat /{disk}.out")
            assert output.splitlines()[-1] == "status 0", output
        assert "error" not in guest.run("dmesg | grep -e vda -e vdb || true")
        grouped_backup(daemon, [add_target(daemon, f"inc{i}.qcow2",
                                           f"full{i}.qcow2") for i in (0, 1)],
                       sync="incremental", bitmap="b")
        guest.kill()  # it does not say goodbye, and the next one is served
        guest = boot(daemon.path("s1"))
        guest.run("dd if=/dev/vda bs=1M count=1 >/dev/null")
        guest.stop()
    for i in (0, 1):
        check = subprocess.run([program("qemu-img"), "check", "-q", "-f", "qcow2",
                                f"{directory}/disk{i}.qcow2"], check=False,
                               capture_output=True)
        assert check.returncode in (0, 3), check.stdout  # 3: leaks, no errors
        qemu_img("compare", "-f", "qcow2", "-F", "qcow2",
                 f"{directory}/disk{i}.qcow2", f"{directory}/inc{i}.qcow2")

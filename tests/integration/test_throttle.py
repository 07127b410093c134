"""Throttle groups: as objects, under nodes and devices; beside QEMU's.

How fast things go is measured by unit tests, on a clock of their own. Here
limits are so tight that after one request nothing moves, until they change.
"""
import subprocess
import time

import pytest

from lib import SystemOracle, Varved, program, same_conversation
from lib.qmp import TIMEOUT
from test_varve_io import commands, play

PB = 10 ** 15


def group(name, **properties):
    return ("object-add", {"qom-type": "throttle-group", "id": name,
                           **properties})


def put(name, value, prop="limits"):
    return ("qom-set", {"path": name, "property": prop, "value": value})


def show(name, prop="limits"):
    return ("qom-get", {"path": name, "property": prop})


def delete(name):
    return ("object-del", {"id": name})


def node(name, of, **more):
    return {"driver": "throttle", "node-name": name, "throttle-group": of,
            "file": {"driver": "null-co", "size": 1 << 20}, **more}


def query(name):
    """A step: what is said of that node."""
    def step(daemon):
        return [n for n in daemon.command("query-named-block-nodes")
                if n["node-name"] == name]
    return step

REFUSED = [
    {"bps-total": 5, "bps-read": 5}, {"iops-total": 5, "iops-write": 5},
    {"bps-total": 5, "bps-total-max": 1}, {"bps-total-max": 5},
    {"iops-read-max": 1, "iops-total-max": 20}, {"bps-total": -1},
    {"bps-total": PB + 1}, {"iops-read": 5, "iops-read-max": PB + 1},
    {"iops-total-max-length": 5}, {"iops-total-max-length": 0},
    {"iops-total-max-length": 2 ** 32}, {"iops-total-max-length": -1},
    {"iops-total": 0, "iops-size": 5},
    {"iops-total": 10, "iops-total-max": 20, "iops-total-max-length": 0},
    {"iops-total": 10, "iops-total-max": PB, "iops-total-max-length": 2},
    5, {"zz": 5}, {"bps-total": "5"}]
KEPT = [
    {"bps-total": PB}, {"bps-total": 100}, {"iops-read": 7, "iops-size": -5},
    {"bps-total": 0, "bps-write": 4, "bps-write-max": 5}, {},
    {"iops-read-max": PB}, {"iops-read-max": 70, "iops-read-max-length": 9}]


def test_limits_are_kept_or_refused_as_by_qemu(pair):
    same_conversation(*pair, [
        group("g"), show("g"), show("/objects/g", "x-iops-total"),
        show("g", "type"), show("g", "zz"), show("nobody"),
        *(put("g", limits) for limits in REFUSED), show("g"),
        *(step for limits in KEPT for step in (put("g", limits), show("g"))),
        put("g", 5, "x-iops-total"), put("g", 5, "zz"),
        put("nobody", {}),
        # What is experimental goes before limits.
        group("h", limits={"bps-total": 5}, **{"x-bps-total": 6}), show("h"),
        group("i", limits={"iops-total": 5}, **{"x-iops-total-max": 6}),
        show("i"),
        group("j", **{"x-iops-total": -6}), group("j", **{"x-bps-read-max": 5}),
        group("j", **{"x-bps-read": PB + 1}),
        group("j", limits={"iops-total": 4}, **{"x-iops-read": 6}),
        group("g"), group("1x"), delete("j"), delete("i")])


def test_threads_have_properties_too(pair):
    same_conversation(*pair, [
        ("object-add", {"qom-type": "iothread", "id": "io"}),
        *(step for prop in ("poll-max-ns", "poll-grow", "poll-shrink",
                            "aio-max-batch", "thread-pool-min",
                            "thread-pool-max", "type", "zz")
          for step in (show("io", prop), put("io", 5, prop), put("io", -1, prop),
                       put("io", "x", prop), show("io", prop))
          if prop != "type" or step[0] == "qom-get"),
        put("io", 9, "thread-pool-min"), delete("io")])


def test_a_group_lives_as_long_as_it_is_used(pair):
    same_conversation(*pair, [
        group("a"), group("b"), ("blockdev-add", node("t", "a")), delete("a"),
        ("blockdev-add", node("u", "zz")), ("blockdev-add", node("u", "")),
        ("blockdev-reopen", {"options": [node("t", "zz")]}), delete("a"),
        query("t"), ("blockdev-reopen", {"options": [node("t", "b")]}),
        query("t"),
        delete("a"), delete("b"), ("blockdev-del", {"node-name": "t"}),
        delete("b"), delete("b"), ("blockdev-add", node("t", "b")),
        group("b"), ("blockdev-add", node("t", "b")),
        ("blockdev-add", {"driver": "throttle", "node-name": "x"}),
        ("blockdev-add", {"driver": "throttle", "node-name": "x",
                          "file": "t"})])


# ---- devices ----

def device(name, **limits):
    return ("block_set_io_throttle", {
        "device": name, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0,
        "iops_rd": 0, "iops_wr": 0, **limits})


def limits_of_devices(daemon):
    """What query-block says of limits, by device."""
    return {block["device"]: {
        key: value for key, value in block.get("inserted", {}).items()
        if key.startswith(("bps", "iops", "group"))}
        for block in daemon.command("query-block")}


def test_devices_have_limits_as_with_qemu(start):
    drives = ["driver=null-co", "driver=null-co,bps=100,iops_rd=5,"
              "iops_rd_max=10,throttling.iops-read-max-length=3",
              "driver=null-co,throttling.bps-total=0x20,throttling.group=gg",
              "driver=null-co,throttling.group=og,bps=7",
              "driver=null-co,throttling.group=unused", ""]
    args = [word for i, drive in enumerate(drives)
            for word in ("-drive", f"if=none,id=d{i},{drive}".rstrip(","))]
    daemons = [start(kind, "-object", '{"qom-type": "throttle-group", '
                     '"id": "og", "limits": {"iops-total": 3}}', *args)
               for kind in (Varved, SystemOracle)]
    same_conversation(*daemons, [
        limits_of_devices, show("og"), delete("og"),
        device("d0"), limits_of_devices,
        device("d0", bps=5, bps_max=10), limits_of_devices,
        device("nobody", bps=5), device("d5", bps=5),
        device("d0", bps=5, bps_rd=6), device("d0", bps=-5),
        device("d0", bps=5, bps_max=10, bps_max_length=0),
        device("d0", bps=5, bps_max=10, bps_max_length=-4),
        device("d0", bps=5, id="v"),
        {"execute": "block_set_io_throttle", "arguments": {
            k: v for k, v in device("d0")[1].items() if k != "device"}},
        # Into another group, whose limits these become.
        device("d0", iops=5, iops_size=4096, group="gg"), limits_of_devices,
        device("d0"), limits_of_devices,
        device("d0", bps=9, group="og"), limits_of_devices, show("og"),
        device("d3"), limits_of_devices,
        # Groups that were made on the way have no object.
        show("gg"), group("gg"), group("d1"),
        ("blockdev-add", node("t", "gg")), device("d2"), group("gg"),
        ("blockdev-del", {"node-name": "t"}), group("gg"),
        device("d1", bps=4, group=""), device("d1", bps=5, group="1x"),
        limits_of_devices])


@pytest.mark.parametrize("limits", [
    "throttling.bps-total=abc", "throttling.bps-total=1k",
    "throttling.bps-total=-1", "throttling.iops-total-max=5",
    "bps=5,bps_rd=5", "bps=5,throttling.bps-total=6",
    "bps=5,bps_max=10,throttling.bps-total-max-length=0",
    "throttling.bps-total-max-length=5", "iops_size=4",
    "throttling.iops-total=18446744073709551615"])
def test_a_drive_refuses_what_the_emulator_refuses(limits):
    said = []
    for name in ("varved", "qemu-system-x86_64"):
        done = subprocess.run(
            [program(name), "-machine", "none", "-display", "none", "-drive",
             f"if=none,id=d,driver=null-co,{limits}"], capture_output=True,
            text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL)
        said.append((done.returncode, done.stderr.replace(name, "")))
    assert said[0] == said[1]
    assert said[0][0] == 1


def test_tools_make_groups(tmp_path):
    """Of an image that is opened through one, and of wrong ones."""
    image = ["--image-opts", "driver=throttle,throttle-group=g,"
             "file.driver=null-co,file.size=1048576"]
    for objects in (["throttle-group,id=g,limits.iops-total=1000"],
                    ["throttle-group,id=g,x-iops-total=1000"], [],
                    ["throttle-group,id=g", "throttle-group,id=g"],
                    ["throttle-group,id=g,limits.iops-total=-5"],
                    ["throttle-group,id=g,limits.iops-total=5x"],
                    ["throttle-group,id=g,x-iops-total-max=5"],
                    ["iothread,id=g"]):
        args = [*commands("read 0 64k", "length"), *image]
        for text in objects:
            args += ["--object", text]
        ours, theirs = [play(tool, tmp_path, args)
                        for tool in ("varve-io", "qemu-io")]
        assert ours == theirs
    said = [subprocess.run(
        [program(tool), "info", "--object", "throttle-group,id=g", *image],
        capture_output=True, text=True, check=True).stdout.splitlines()[1:]
        for tool in ("varve-img", "qemu-img")]
    assert said[0] == said[1]


# ---- what waits ----

def two_disks(start, *more):
    daemon = start(
        Varved, "--object", "iothread,id=io0", "--object", "iothread,id=io1",
        "--object", '{"qom-type": "throttle-group", "id": "g", '
        '"limits": {"bps-total": 1}}', *more,
        *(word for i in range(2) for word in (
            "--blockdev", f"throttle,node-name=d{i},throttle-group=g,"
            "file.driver=null-co,file.size=1048576",
            "--device", f"virtio-blk,drive=d{i},id=vd{i},iothread=io{i}")))
    for i in range(2):
        daemon.command("x-guest-workload-start", device=f"vd{i}", depth=8,
                       max_ops=1000, read_percent=50)
    return daemon


def ended(daemon, i):
    info = daemon.command("x-guest-workload-query", device=f"vd{i}")
    return info["reads"] + info["writes"]


def wait_for_all(daemon):
    deadline = time.monotonic() + TIMEOUT
    while any(ended(daemon, i) < 1000 for i in range(2)):
        assert time.monotonic() < deadline, "requests wait for ever"
        time.sleep(0.01)


def test_disks_on_two_threads_share_what_their_group_has(start):
    daemon = two_disks(start)
    # One in each direction may go, whoever asked for it.
    assert ended(daemon, 0) + ended(daemon, 1) <= 2
    daemon.command("qom-set", path="g", property="limits",
                   value={"bps-total": 0})
    wait_for_all(daemon)


def test_a_drained_section_does_not_wait_for_the_rate(start):
    """A reopen drains: what waits goes, and into the other group with it."""
    daemon = two_disks(start, "--object", "throttle-group,id=free")
    for i in range(2):
        daemon.command("blockdev-reopen", options=[node(f"d{i}", "free")])
    wait_for_all(daemon)
    daemon.command("object-del", id="g")


def test_a_device_lets_go_what_waits_when_its_limits_go(start):
    daemon = start(Varved, *(word for i in range(2) for word in (
        "-drive", f"if=none,id=d{i},driver=null-co,size=1048576,bps=1,"
        "throttling.group=g", "-device", f"virtio-blk,drive=d{i},id=vd{i}")))
    for i in range(2):
        daemon.command("x-guest-workload-start", device=f"vd{i}", depth=8,
                       max_ops=1000, read_percent=50)
    assert ended(daemon, 0) + ended(daemon, 1) <= 2
    for i in range(2):
        daemon.command(*device(f"d{i}"))
    wait_for_all(daemon)


def test_the_program_ends_while_requests_wait(start):
    two_disks(start).stop()

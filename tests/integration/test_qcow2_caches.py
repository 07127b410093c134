"""The caches of qcow2: their options beside QEMU's, and the memory they take."""
import time

from lib import images, same_conversation
from lib.qmp import TIMEOUT


def node(image="a.qcow2", **more):
    return {"driver": "qcow2", "node-name": "n",
            **{k.replace("_", "-"): v for k, v in more.items()},
            "file": {"driver": "file", "filename": "{dir}/" + image}}


SIZES = [
    {}, {"cache_size": 0}, {"l2_cache_size": 0}, {"refcount_cache_size": 0},
    {"cache_size": 1 << 20, "l2_cache_size": 1 << 20},
    {"cache_size": 1 << 20, "refcount_cache_size": 1 << 20},
    {"cache_size": 1 << 20, "l2_cache_size": (1 << 20) + 1},
    {"cache_size": 1 << 20, "refcount_cache_size": 1 << 21},
    {"cache_size": 3, "refcount_cache_size": 2, "l2_cache_size": 1},
    {"cache_size": 1, "refcount_cache_size": 2, "l2_cache_size": 3},
    {"l2_cache_size": 1 << 52}, {"refcount_cache_size": 1 << 52},
    {"cache_size": 1 << 52},
    *({"l2_cache_entry_size": n} for n in (
        0, 1, 256, 512, 1000, 4096, 65536, 131072)),
    {"l2_cache_entry_size": 1000, "cache_size": 1, "l2_cache_size": 2},
    *({"cache_clean_interval": n} for n in (
        0, 1, 600, 0xffffffff, 0x100000000, -1)),
    {"cache_clean_interval": -1, "cache_size": 1, "l2_cache_size": 2},
    {"lazy_refcounts": True}, {"lazy_refcounts": False},
    {"pass_discard_request": True}, {"pass_discard_snapshot": False},
    {"pass_discard_other": True, "pass_discard_request": False},
    {"overlap_check": "none"}, {"overlap_check": {"template": "all"}},
    {"overlap_check": {"template": "none", "main-header": True}},
]


def test_options_are_taken_and_refused_as_by_qemu(pair):
    for daemon in pair:
        images.create(daemon.path("a.qcow2"), "10M")
        images.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10",
                        daemon.path("old.qcow2"), "10M")
    gone = ("blockdev-del", {"node-name": "n"})
    steps = []
    for more in SIZES:
        steps += [("blockdev-add", node(**more)), gone]
    steps += [("blockdev-add", node("old.qcow2", lazy_refcounts=on))
              for on in (True, False)] + [gone]
    same_conversation(*pair, steps)


def test_options_change_while_the_image_is_open(pair):
    for daemon in pair:
        images.create(daemon.path("a.qcow2"), "10M")
    steps = [("blockdev-add", node())]
    for more in SIZES:
        steps.append(("blockdev-reopen", {"options": [node(**more)]}))
    same_conversation(*pair, steps)


def resident(daemon):
    """KiB of memory that nothing else can be used for."""
    with open(f"/proc/{daemon.process.pid}/status") as f:
        return next(int(line.split()[1]) for line in f
                    if line.startswith("RssAnon"))


def test_memory_of_unused_entries_is_given_back(varved):
    images.qemu_img("create", "-q", "-f", "qcow2", "-o",
                    "preallocation=metadata,cluster_size=4k",
                    varved.path("a.qcow2"), "4G", tool="varve-img")
    varved.command("blockdev-add", **{
        **node(cache_clean_interval=1),
        "file": {"driver": "file", "filename": varved.path("a.qcow2")}})
    before = full = resident(varved)
    deadline = time.monotonic() + TIMEOUT
    # All L2 tables: 8 MiB. Some may go before the others have come.
    while full < before + (6 << 10):
        assert time.monotonic() < deadline, (before, full)
        varved.command("human-monitor-command", command_line='qemu-io n "map"')
        full = resident(varved)
    while resident(varved) > before + (2 << 10):
        assert time.monotonic() < deadline, (before, full, resident(varved))
        time.sleep(0.05)

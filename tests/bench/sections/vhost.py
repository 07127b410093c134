"""Requests over vhost-user: varved beside qemu-storage-daemon, with one client."""
import contextlib
import os
import subprocess
import time

from lib import Oracle, Varved

from . import report

FILE_BYTES = 256 << 20
FRESH_BYTES = 64 << 30
HEADER = ["", "varve req/s", "QEMU req/s", "ratio", "aim", "CPU us", "QEMU's",
          "ratio", "aim", "p50 us", "QEMU's", "p99 us", "QEMU's"]

PATTERNS = {
    "4k read, depth 1": {"rw": 100, "depth": 1},
    "4k read, depth 32": {"rw": 100, "depth": 32},
    "4k write, depth 1": {"rw": 0, "depth": 1},
    "4k write, depth 32": {"rw": 0, "depth": 32},
    "64k sequential read, depth 16": {"rw": 100, "depth": 16, "bs": 65536,
                                      "sequential": 1},
    "64k sequential write, depth 16": {"rw": 0, "depth": 16, "bs": 65536,
                                       "sequential": 1},
}


class Disk:
    """What a daemon serves: the nodes' options, and a new image if need be."""

    def __init__(self, context, name, image_format=None, direct=False,
                 fresh=False):
        self.name, self.format = name, image_format
        self.direct, self.fresh = direct, fresh
        self.path = context.path(name.replace(" ", "-"))

    def make(self):
        if self.format == "qcow2":
            prealloc = "off" if self.fresh else "metadata"
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-o",
                 f"preallocation={prealloc}", self.path,
                 str(FRESH_BYTES if self.fresh else FILE_BYTES)], check=True)
        if self.format and not self.fresh:
            self.fill()

    def fill(self):
        """Nothing is to be allocated or read from the disk later."""
        if self.format == "raw":
            with open(self.path, "wb") as f:
                for _ in range(FILE_BYTES >> 20):
                    f.write(os.urandom(1 << 20))
        else:
            subprocess.run(["qemu-io", "-c", f"write -q 0 {FILE_BYTES}",
                            self.path], check=True)
        os.sync()

    def args(self):
        if not self.format:
            return ["--blockdev", "driver=null-co,node-name=n,size=1073741824"]
        cache = ",cache.direct=on" if self.direct else ""
        return ["--blockdev", f"driver=file,filename={self.path},node-name=f"
                + cache, "--blockdev",
                f"driver={self.format},file=f,node-name=n" + cache]

    def remove(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def disks(context):
    return [Disk(context, "null-co"), Disk(context, "raw", "raw"),
            Disk(context, "raw O_DIRECT", "raw", direct=True),
            Disk(context, "qcow2", "qcow2"),
            Disk(context, "qcow2 fresh", "qcow2", fresh=True)]


class Server:
    """One of the daemons, with one export."""

    def __init__(self, context, kind, disk, queues=1, bitmaps=0,
                 iothread=False):
        export = ("vhost-user-blk,id=e,node-name=n,writable=on,addr.type=unix,"
                  f"addr.path=s,num-queues={queues}")
        args = disk.args()
        if iothread:
            args = ["--object", "iothread,id=io0", *args]
            export += ",iothread=io0"
        self.program = context.bench("bench_vhost")
        self.daemon = kind(context.path(f"{kind.name}-{time.monotonic_ns()}"),
                           *args, "--export", export)
        for i in range(bitmaps):
            self.daemon.command("block-dirty-bitmap-add", node="n",
                                name=f"b{i}")
        self.queues = queues

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.daemon.kill()

    def argv(self, ms, options):
        return [self.program, self.daemon.path("s"), f"ms={ms}",
                f"pid={self.daemon.process.pid}", f"queues={self.queues}",
                *(f"{k}={v}" for k, v in options.items())]

    def measure(self, context, options):
        result = report.json_lines(self.argv(300 if context.quick else 1000,
                                             options))[0]
        assert not result["errors"], result
        return result

    def system_calls(self, options):
        """Of the daemon, a request; in a run of its own, as counting takes
        time. None where the kernel does not let us."""
        client = subprocess.Popen(self.argv(600, options),
                                  stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)  # its warm-up
        done = subprocess.run(
            ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p",
             str(self.daemon.process.pid), "--", "sleep", "0.3"],
            capture_output=True, text=True, check=False)
        out, _ = client.communicate()
        fields = [line.split(",") for line in done.stderr.splitlines()
                  if "sys_enter" in line]
        if done.returncode or not fields or not fields[0][0].isdigit():
            return None
        return int(fields[0][0]) / 0.3 / report.json_objects(out)[0]["iops"]


def pair_of_results(context, disk, options, **more):
    """Lists of results of both daemons, in turn. One on a fresh image starts
    again each time."""
    ours, theirs = [], []
    rounds = 2 if context.quick else 5
    if disk.fresh:
        for _ in range(rounds):
            for kind, results in ((Varved, ours), (Oracle, theirs)):
                disk.make()
                with Server(context, kind, disk, **more) as server:
                    results.append(server.measure(context, options))
        return ours, theirs, None
    calls = []
    # One image: the other daemon looks at it only while nobody else writes.
    for i in range(rounds):
        for kind, results in ((Varved, ours), (Oracle, theirs)):
            with Server(context, kind, disk, **more) as server:
                results.append(server.measure(context, options))
                if not i:
                    calls.append(server.system_calls(options))
    return ours, theirs, calls


def ratio(a, b):
    """With its spread; above 1 is better for the first."""
    values = [x / y if y else 0 for x, y in zip(a, b)]
    return report.spread(values)


def shown(r):
    return "{:.2f} ({:.2f}..{:.2f})".format(*r)


def median(results, key):
    return report.spread([r[key] for r in results])[0]


def row(context, disk, name, options, calls, **more):
    ours, theirs, both = pair_of_results(context, disk, options, **more)
    rate = ratio([r["iops"] for r in ours], [r["iops"] for r in theirs])
    cpu = ratio([r["cpu_us"] for r in theirs], [r["cpu_us"] for r in ours])
    context.add("vhost", f"{disk.name}: {name}",
                varve={k: report.spread([r[k] for r in ours])
                       for k in ("iops", "cpu_us", "p50_us", "p99_us")},
                qemu={k: report.spread([r[k] for r in theirs])
                      for k in ("iops", "cpu_us", "p50_us", "p99_us")},
                ratio=rate, cpu_ratio=cpu, system_calls=both)
    if both and None not in both:
        calls.append([f"{disk.name}: {name}", f"{both[0]:.3f}",
                      f"{both[1]:.3f}"])
    return [name, report.si(median(ours, "iops")),
            report.si(median(theirs, "iops")), shown(rate),
            report.aim("vhost rate", f"{disk.name}: {name}"),
            f"{median(ours, 'cpu_us'):.2f}", f"{median(theirs, 'cpu_us'):.2f}",
            shown(cpu), report.aim("vhost cpu", f"{disk.name}: {name}"), *(f"{median(r, k):.1f}" for k in ("p50_us", "p99_us")
                          for r in (ours, theirs))]


VARIANTS = {
    ", 2 queues": ("null-co qcow2", "4k read, depth 32", {"queues": 2}),
    ", 1 bitmap": ("null-co raw qcow2", "4k write, depth 32", {"bitmaps": 1}),
    ", iothread": ("null-co raw", "4k read, depth 1", {"iothread": True}),
    ", iothread ": ("null-co", "4k read, depth 32", {"iothread": True}),
}


def run(context):
    calls = []
    for disk in disks(context):
        rows = []
        disk.make()
        for name, options in PATTERNS.items():
            if not disk.fresh or not options["rw"]:
                rows.append(row(context, disk, name, options, calls))
        for suffix, (where, pattern, more) in VARIANTS.items():
            if disk.name in where.split():
                rows.append(row(context, disk, pattern + suffix.rstrip(),
                                PATTERNS[pattern], calls, **more))
        disk.remove()
        context.table(f"vhost {disk.name}", f"vhost-user, {disk.name} (ratios: "
                      "above 1, varve is better)", HEADER, rows)
    if calls:
        context.table("vhost calls", "System calls of the daemon, a request",
                      ["", "varve", "QEMU"], calls)

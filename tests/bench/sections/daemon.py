"""Start to greeting, idle memory and QMP round trips of both daemons."""
import os
import time

from lib import Oracle, Varved

from . import report

ROUND_TRIPS = 2000


class Started:
    """One daemon, timed from its start to its greeting."""

    def __init__(self, context, kind, *args):
        directory = context.path(f"{kind.name}-{time.monotonic_ns()}")
        self.daemon = kind(directory, *args, start=False)
        began = time.monotonic()
        self.daemon.start()
        self.greeting_s = time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.daemon.stop()

    def status(self, field):
        with open(f"/proc/{self.daemon.process.pid}/status") as f:
            for line in f:
                if line.startswith(field + ":"):
                    return int(line.split()[1])  # KiB
        return 0

    def round_trip(self):
        began = time.monotonic()
        for _ in range(ROUND_TRIPS):
            self.daemon.command("query-block-jobs")
        return (time.monotonic() - began) / ROUND_TRIPS

    def cpu_s(self):
        with open(f"/proc/{self.daemon.process.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(context, kind):
    with Started(context, kind) as s:
        private = s.status("RssAnon") / 1024
        return {"start to greeting": 1e3 * s.greeting_s,
                "idle memory, private": private,
                "idle memory, resident": s.status("VmRSS") / 1024,
                "QMP round trip": 1e6 * s.round_trip()}


UNITS = {"start to greeting": " ms", "idle memory, private": " MiB",
         "idle memory, resident": " MiB", "QMP round trip": " us"}


def run(context):
    rounds = 3 if context.quick else 9
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(measure(context, Varved))
        theirs.append(measure(context, Oracle))
    rows = []
    for row, unit in UNITS.items():
        a, b = [m[row] for m in ours], [m[row] for m in theirs]
        ratio = report.spread([y / x for x, y in zip(a, b)])
        context.add("daemon", row, unit=unit, varve=report.spread(a),
                    qemu=report.spread(b), ratio=ratio)
        rows.append([row, report.with_spread(a, unit),
                     report.with_spread(b, unit),
                     "{:.2f} ({:.2f}..{:.2f})".format(*ratio),
                     report.aim("daemon", row)])
    context.table("daemon", "Daemon (less is better)",
                  ["", "varved", "qemu-storage-daemon", "ratio", "aim"], rows)

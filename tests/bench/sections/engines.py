"""Dirty bitmap and I/O engines, without a disk on top."""
import os

from . import report


def bitmap(context):
    rows = []
    for r in report.json_lines([context.bench("bench_hbitmap")]):
        context.add("bitmap", r["row"], ns=(r["ns"], r["min"], r["max"]))
        rows.append([r["row"], f"{r['ns']:,.1f}",
                     f"{r['min']:,.1f}..{r['max']:,.1f}"])
    context.table("bitmap", "Dirty bitmap: 16 TiB at 64 KiB (ns)",
                  ["operation", "median", "spread"], rows)


def engines(context):
    path = context.path("engines.raw")
    with open(path, "wb") as f:
        for _ in range(64):
            f.write(os.urandom(1 << 20))
    rows = []
    for r in report.json_lines([context.bench("bench_aio"), path]):
        context.add("engines", r["row"],
                    per_s=(r["per_s"], r["min"], r["max"]), cpu_ns=r["cpu_ns"])
        rows.append([r["row"], report.si(r["per_s"]),
                     f"{report.si(r['min'])}..{report.si(r['max'])}",
                     f"{r['cpu_ns']:,.0f}"])
    context.table("engines", "Coroutines, mail and engines (4 KiB, depth 32)",
                  ["what", "a second", "spread", "CPU ns each"], rows)
    os.unlink(path)

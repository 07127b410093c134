"""What a guest's 4 KiB requests cost through the virtqueue, next to the bare
engine on the same file."""
import os
import subprocess

from . import report

FILE_BYTES = 256 << 20
HEADER = ["", "requests/s", "spread", "CPU us each", "p50 us", "p99 us"]


def measure(context, row, node, **options):
    argv = [context.bench("bench_virtio"), node]
    argv += [f"{k}={v}" for k, v in options.items()]
    argv += ["seconds=1", "runs=3" if context.quick else "runs=5"]
    r = report.json_lines(argv)[0]
    assert not r["errors"] and not r["mismatches"], r
    context.add("guest", row, per_s=(r["iops"], r["iops_min"], r["iops_max"]),
                cpu_us=r["cpu_us"], p50_us=r["p50_us"], p99_us=r["p99_us"])
    return [row, report.si(r["iops"]),
            f"{report.si(r['iops_min'])}..{report.si(r['iops_max'])}",
            f"{r['cpu_us']:.2f}", f"{r['p50_us']:.1f}", f"{r['p99_us']:.1f}"]


def null_rows(context):
    node = "driver=null-co,size=1073741824"
    rows = []
    for rw, what in ((100, "read"), (0, "write")):
        for depth in (1, 32):
            rows.append(measure(context, f"{what}, depth {depth}", node, rw=rw,
                                depth=depth))
    for bitmaps in (1, 8):
        rows.append(measure(context, f"write, depth 32, {bitmaps} bitmap(s)",
                            node, rw=0, bitmaps=bitmaps))
    rows.append(measure(context, "read, depth 32, guest on its own thread",
                        node, thread=1))
    context.table("guest null-co", "Guest requests, 4 KiB, null-co", HEADER,
                  rows)


def raw_rows(context):
    path = context.path("guest.raw")
    with open(path, "wb") as f:
        for _ in range(FILE_BYTES >> 20):
            f.write(os.urandom(1 << 20))
    os.sync()
    rows = []
    for cache, what in (("", "buffered"), (",cache.direct=on", "O_DIRECT")):
        node = f"driver=raw,file.driver=file,file.filename={path}{cache}"
        for rw, op in ((100, "read"), (0, "write")):
            for depth in (1, 32):
                rows.append(measure(context, f"{what} {op}, depth {depth}",
                                    node, rw=rw, depth=depth))
        for bitmaps in (1, 8):
            rows.append(measure(
                context, f"{what} write, depth 32, {bitmaps} bitmap(s)", node,
                rw=0, bitmaps=bitmaps))
    context.table("guest raw", "Guest requests, 4 KiB, raw file (bare loops: "
                  "see engines)", HEADER, rows)
    os.unlink(path)


def qcow2_rows(context):
    path = context.path("guest.qcow2")
    node = f"driver=qcow2,file.driver=file,file.filename={path}"
    rows = []
    for prealloc in ("metadata", "off"):
        what = "preallocated" if prealloc == "metadata" else "fresh"
        for rw, op in ((0, "write"), (100, "read")):
            for depth in (1, 32):
                if prealloc == "off" or rw == 0 and depth == 1:
                    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2",
                                    "-o", f"preallocation={prealloc}", path,
                                    str(FILE_BYTES if prealloc == "metadata"
                                        else 64 << 30)], check=True)
                if prealloc == "off" and rw == 100:
                    continue
                rows.append(measure(context, f"{what} {op}, depth {depth}",
                                    node, rw=rw, depth=depth))
        if prealloc == "metadata":
            rows.append(measure(context, f"{what} write, depth 32, 1 bitmap",
                                node, rw=0, bitmaps=1))
    context.table("guest qcow2", "Guest requests, 4 KiB, qcow2 on a buffered "
                  "file", HEADER, rows)
    os.unlink(path)


def run(context):
    null_rows(context)
    raw_rows(context)
    qcow2_rows(context)

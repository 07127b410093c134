"""What a ratio to QEMU should reach, by section and row; above 1 is better."""

META = {"create": 3, "check": 3, "map": 10, "compare": 10, "measure": 10}

AIMS = {
    "convert": {
        "raw to qcow2": 2, "qcow2 to raw": 2, "qcow2 to qcow2": 2,
        "raw to qcow2, 1 TiB sparse": 2, "qcow2 to raw, 1 TiB sparse": 2,
        "qcow2 to qcow2, 1 TiB sparse": 2,
    },
    "images": {
        **{row: 1 for row in ("check", "compare", "map", "measure", "rebase",
                              "commit")},
        "convert -c zlib": 10, "convert -c zstd": 10,
        "convert -c zlib, text": 10, "convert -c zstd, text": 10,
        **{f"{row}, {what}": aim for row, aim in META.items() for what in
           ("metadata preallocated", "8 KiB clusters, empty")},
        "create, 8 KiB clusters, empty": 1,
        "depth 1": 1, "depth 32": 4,
    },
    "vhost rate": {
        "raw: 4k read, depth 32": 2, "raw: 4k write, depth 32": 2,
        "raw: 4k read, depth 1": 2, "raw: 4k write, depth 1": 2,
        "qcow2 fresh: 4k write, depth 1": 1,
        "qcow2 fresh: 4k write, depth 32": 1,
    },
    "vhost cpu": {
        f"{disk}: {pattern}": 2 for disk in ("null-co", "qcow2") for pattern in
        ("4k read, depth 1", "4k read, depth 32", "4k write, depth 1",
         "4k write, depth 32", "4k read, depth 32, 2 queues")
    },
    "backup": {"full, half-filled": 1, "incremental, 5 %": 1},
    "daemon": {"start to greeting": 1, "idle memory, private": 1,
               "idle memory, resident": 1, "QMP round trip": 1},
}

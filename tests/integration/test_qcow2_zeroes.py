"""Zero writes and discards in qcow2 images: what varve-io and qemu-io leave."""
import itertools
import re
import subprocess

import pytest

from lib.daemon import program
from lib.twin import run

COMMANDS = {
    "off": ["write -P 1 64k 192k", "write -z 0 64k", "write -z 64k 64k",
            "write -zu 128k 64k", "write -zu 320k 64k", "write -z 640k 64k",
            "write -zu 768k 64k", "write -z 900k 3k", "discard 192k 64k",
            "discard 384k 64k", "write -z 1M 1M", "write -c -P 7 512k 64k",
            "write -z 514k 2k", "write -z 20M 1M", "discard 40M 1M"],
    "on": ["write -P 1 64k 192k", "write -P 0 0 64k", "write -P 0 64k 64k",
           "write -P 0 320k 64k", "write -P 0 640k 64k", "write -P 0 900k 3k",
           "write -z 768k 64k", "write -P 0 70k 1k"],
}
CASES = [(o, b, d, z) for o, b, d, z in itertools.product(
    ("compat=1.1", "compat=0.10", "extended_l2=on", "data_file={}.data",
     "cluster_size=4k"),
    (False, True), ("ignore", "unmap"), ("off", "on", "unmap"))
    if (d, z) != ("ignore", "unmap") and
    # Behind the backing file QEMU's writes zeroes there that read so anyway.
    (o, b) != ("compat=0.10", True)]


@pytest.mark.parametrize("options, backing, discard, detect", CASES)
def test_both_leave_the_same_map(twin, options, backing, discard, detect):
    if backing:
        twin.create("base", "512k", fmt="raw")
        twin.io("base", "write -P 5 0 512k", fmt="raw")
    behind = ["-b", "base", "-F", "raw"] if backing else []
    commands = [a for c in COMMANDS["off" if detect == "off" else "on"]
                if not (" -c " in c and "data_file" in options)
                for a in ("-c", c)]
    said = []
    for name, directory in twin.dirs.items():
        run("qemu-img", directory, "create", "-q", "-f", "qcow2", "-o",
            options.format("a"), *behind, "a", "64M", check=0)
        r = subprocess.run(
            [program(name.replace("img", "io")), "--image-opts", *commands,
             f"driver=qcow2,discard={discard},detect-zeroes={detect},"
             "file.filename=a"], cwd=directory, capture_output=True, text=True,
            timeout=120)
        assert r.returncode == 0, r.stderr
        said.append(re.sub(r"\d+ ops; .*", "", r.stdout))
    assert said[0] == said[1]
    twin.same_map("a")
    twin.same_image("a")

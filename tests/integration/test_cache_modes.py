"""-t, -T and reopen -c: how the files are really open."""
import os
import re
import subprocess

import pytest

from lib import program

MODES = {"none": True, "directsync": True, "off": True, "writeback": False,
         "writethrough": False, "unsafe": False}


def direct(pid, path):
    """Whether the process has the file open past the page cache, perhaps beside
    another way; None if it has not opened it."""
    found = None
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") != str(path):
                continue
            with open(f"/proc/{pid}/fdinfo/{fd}") as f:
                flags = [line for line in f if line.startswith("flags:")]
        except FileNotFoundError:
            continue
        found = found or bool(int(flags[0].split()[1], 8) & os.O_DIRECT)
    return found


@pytest.fixture
def raw(tmp_path):
    path = tmp_path / "a.raw"
    with open(path, "wb") as f:
        f.write(b"x" * (16 << 20))
    return path


def test_varve_io_and_reopen(raw):
    with subprocess.Popen([program("varve-io"), "-f", "raw", "-t", "none", raw],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as p:
        for mode, expected in [(None, True), *MODES.items()]:
            reopen = f"reopen -c {mode}\n" if mode else ""
            p.stdin.write(f"{reopen}write 0 4k\n")
            p.stdin.flush()
            while "wrote" not in p.stdout.readline():
                pass
            assert direct(p.pid, raw) is expected, mode
        p.stdin.close()


@pytest.mark.parametrize("mode", MODES)
def test_varve_img_convert(raw, tmp_path, mode):
    """As slow as it must be to be looked at."""
    other = {"none": "writeback"}.get(mode, "none")
    target = tmp_path / "o.raw"
    with subprocess.Popen([program("varve-img"), "convert", "-p", "-f", "raw",
                           "-r", "1M", "-T", mode, "-t", other, raw, target],
                          stdout=subprocess.PIPE) as p:
        try:
            # Once it is farther than nothing, both are open.
            said = b""
            while not re.search(rb"\((?!0\.00)[0-9]", said):
                more = p.stdout.read1()
                assert more, said
                said += more
            assert direct(p.pid, raw) is MODES[mode]
            assert direct(p.pid, target) is MODES[other]
        finally:
            p.kill()

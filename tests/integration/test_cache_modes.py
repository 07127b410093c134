"""-t, -T and reopen -c: how the files are really open."""
import os
import subprocess
import time

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


def wait_open(process, path):
    deadline = time.monotonic() + 30
    while direct(process.pid, path) is None:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return direct(process.pid, path)


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
        assert wait_open(p, raw) is True
        for mode, expected in MODES.items():
            p.stdin.write(f"reopen -c {mode}\nwrite 0 4k\n")
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
    with subprocess.Popen([program("varve-img"), "convert", "-f", "raw", "-r",
                           "1M", "-T", mode, "-t", other, raw, target]) as p:
        try:
            assert wait_open(p, raw) is MODES[mode]
            # It is made first, in any way, and then opened.
            deadline = time.monotonic() + 30
            while direct(p.pid, target) is not MODES[other]:
                assert p.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
        finally:
            p.kill()

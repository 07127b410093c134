"""Images whose format nobody named, and that look like nothing: raw."""
import re
import subprocess

import pytest

from lib.daemon import program


def io(twin, *args):
    """What both programs say, which is the same."""
    said = []
    for name, directory in twin.dirs.items():
        r = subprocess.run([program(name.replace("img", "io")), *args],
                           cwd=directory, capture_output=True, text=True,
                           timeout=120)
        said.append([r.returncode, re.sub(r"\d+ ops; .*", "", r.stdout),
                     r.stderr])
    assert said[0] == said[1]
    return said[0]


@pytest.fixture
def raw(twin):
    """r, and q: what would make it a qcow2 image."""
    for directory in twin.dirs.values():
        (directory / "r").write_bytes(b"\x55" * 65536)
        (directory / "q").write_bytes(b"QFI\xfb\0\0\0\3" + bytes(1016))
    return twin


def test_a_guess_is_told_to_who_may_write(raw):
    assert "WARNING" in io(raw, "-c", "read 0 512", "r")[2]
    assert io(raw, "-r", "-c", "read 0 512", "r")[2] == ""
    assert io(raw, "-f", "raw", "-c", "read 0 512", "r")[2] == ""
    assert "WARNING" in raw.same("resize", "r", "128k")[2]
    for args in (["amend", "-o", "size=1M", "r"], ["bitmap", "--add", "r", "b"],
                 ["commit", "r"], ["snapshot", "-c", "s", "r"],
                 ["rebase", "-u", "-b", "", "r"]):
        said = raw.same(*args, but=lambda text: re.sub(r"#block\d+", "N", text))
        assert "WARNING" in said[2]
    raw.same("info", "r")


@pytest.mark.parametrize("at, bytes_, refused", [
    ("0", "512", True), ("0", "1k", True), ("0", "8", True),
    ("512", "512", False), ("1k", "512", False)])
def test_block_0_does_not_become_a_format(raw, at, bytes_, refused):
    said = io(raw, "-c", f"write -s q {at} {bytes_}", "r")
    assert said[0] == refused
    for directory in raw.dirs.values():
        assert ((directory / "r").read_bytes()[:4] == b"\x55" * 4)
    assert io(raw, "-c", "write -P 7 0 1k", "-c", "write -z 0 512",
              "-c", "discard 0 64k", "r")[0] == 0
    assert io(raw, "-f", "raw", "-c", f"write -s q {at} {bytes_}",
              "r")[0] == 0


def test_info_looks_at_no_data_file(twin):
    twin.create("a", "-o", "data_file=d,data_file_raw=on", "1M")
    for directory in twin.dirs.values():
        (directory / "d").unlink()
    twin.same("info", "a")
    twin.same("info", "--output=json", "a")
    twin.same("map", "a")

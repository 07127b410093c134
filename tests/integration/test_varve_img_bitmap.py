"""varve-img bitmap, and --bitmaps of info and convert, beside qemu-img."""
import json
import re
import struct

import pytest

from lib.twin import run

STEPS = ["--add a b0", "--add -g 64k a b1", "--add --disable -g 512 a b2",
         "--disable a b0", "--enable a b0", "--merge b1 --merge b0 a b2",
         "--clear --merge b1 --disable a b0", "--remove --add -g 4k a b1",
         "--add -g 2G a coarse", "--merge b2 a coarse", "--remove a b2",
         "--merge b0 -b other -F qcow2 a b1", "--clear a b1",
         "--image-opts --add driver=qcow2,file.filename=a viaopts"]


def directory_of(data):
    """The offset of an image's bitmap directory."""
    at = struct.unpack_from(">I", data, 100)[0]
    while True:
        kind, length = struct.unpack_from(">II", data, at)
        assert kind, "no bitmaps"
        if kind == 0x23852875:
            return struct.unpack_from(">Q", data, at + 24)[0]
        at += 8 + (length + 7) // 8 * 8


def patch(path, offset, value):
    """Bytes in the bitmap directory of an image."""
    data = bytearray(path.read_bytes())
    at = directory_of(data) + offset
    data[at:at + len(value)] = value
    path.write_bytes(data)


def same_bitmaps(twin, image):
    """Each side's image, as either side sees it."""
    for directory in twin.dirs.values():
        run("qemu-img", directory, "check", image, check=0)
        run("varve-img", directory, "check", image, check=0)
    lists = [json.loads(run("varve-img", d, "bitmap", "--list", "--output=json",
                            image, check=0).stdout) for d in twin.dirs.values()]
    assert lists[0] == lists[1]
    twin.same("info", "--output=json", image)
    twin.same("info", image)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512",
                                     "cluster_size=2M"])
def test_actions_in_a_row(twin, options):
    twin.create("a", "-o", options, "30M")
    twin.create("other", "30M")
    twin.prepare("bitmap", "--add", "other", "b0")
    twin.io("other", "write 3M 1M")
    for n, step in enumerate(STEPS):
        said = twin.same("bitmap", *step.split())
        assert said[0] == 0, (step, said)
        twin.io("a", f"write {n}M {n * 50 + 1}k")
        same_bitmaps(twin, "a")


def test_wrong_arguments(twin):
    twin.create("a", "10M")
    twin.create("v2", "-o", "compat=0.10", "10M")
    twin.create("big", "32T", "-o", "cluster_size=2M")
    twin.create("raw", "10M", fmt="raw")
    twin.prepare("bitmap", "--add", "a", "b0")
    nameless = "#block"

    def but(text):
        return re.sub(r"#block\d+", nameless, text)

    long = "n" * 1024
    for args in (
            "", "a", "a b0", "--add a", "--add a b0", "--remove a nope",
            "--clear missing x", "--merge nope a b0", "--merge b0 a nope",
            "--add -g 3 a h", "--add -g zz a h", "--add -g 256 a h",
            "--add -g 4G a h", "-g 4k --clear a b0", "-b a --clear a b0",
            "--add -F qcow2 a x", "--add -f raw raw x", "--add v2 x",
            "--add -g 512 big x", f"--add a {long}", "--add --object x a q",
            "--bogus a b", "--merge", "--merge b0 -b missing a b0",
            "--merge b0 -b raw -F raw a b0", "--add -f qcow2 --image-opts "
            "driver=qcow2,file.filename=a x", "--clear a b0 c"):
        said = twin.same("bitmap", *args.split(), but=but)
        assert said[0] == 1, args
    assert twin.same("bitmap", "--add", "a", "", but=but)[0] == 1
    same_bitmaps(twin, "a")


def test_bitmaps_in_use(twin):
    twin.create("a", "10M")
    twin.prepare("bitmap", "--add", "a", "b0")
    twin.prepare("bitmap", "--add", "a", "b1")
    for directory in twin.dirs.values():
        patch(directory / "a", 12, struct.pack(">I", 3))
    same_bitmaps(twin, "a")
    for args in ("--clear a b0", "--enable a b0", "--disable a b0",
                 "--merge b0 a b1", "--merge b1 a b0", "--add a b0"):
        assert twin.same("bitmap", *args.split())[0] == 1
    same_bitmaps(twin, "a")
    assert twin.same("bitmap", "--remove", "a", "b0")[0] == 0
    same_bitmaps(twin, "a")


def test_convert_copies_bitmaps(twin):
    twin.create("s", "30M")
    twin.create("v2", "-o", "compat=0.10", "30M")
    twin.prepare("bitmap", "--add", "s", "b0")
    twin.prepare("bitmap", "--add", "--disable", "-g", "512", "s", "b1")
    twin.io("s", "write 1M 3M")
    for args in ("-O qcow2 s d", "-O raw s r", "-O qcow2 -f raw r d2",
                 "-O qcow2 -o compat=0.10 s d3", "-O qcow2 v2 d4",
                 "-n -O qcow2 s d"):
        twin.same("convert", "--bitmaps", *args.split())
    same_bitmaps(twin, "d")
    twin.same("convert", "--skip-broken-bitmaps", "-O", "qcow2", "s", "d")
    for directory in twin.dirs.values():
        patch(directory / "s", 12, struct.pack(">I", 3))
    assert twin.same("convert", "--bitmaps", "-O", "qcow2", "s", "d5")[0] == 1
    assert twin.same("convert", "--bitmaps", "--skip-broken-bitmaps", "-O",
                     "qcow2", "s", "d6")[0] == 0
    same_bitmaps(twin, "d6")


@pytest.fixture
def damaged(tmp_path):
    """An image with the bitmaps good (1 MiB dirty), bad, which has no table, and
    one in use; qemu-img cannot open it."""
    run("qemu-img", tmp_path, "create", "-q", "-f", "qcow2", "d", "10M", check=0)
    for name in ("bad", "good", "used"):
        run("varve-img", tmp_path, "bitmap", "--add", "d", name, check=0)
    run("qemu-io", tmp_path, "-c", "write 0 1M", "d", check=0)
    patch(tmp_path / "d", 8, b"\0\0\0\0")
    patch(tmp_path / "d", 64 + 12, struct.pack(">I", 3))
    run("qemu-img", tmp_path, "info", "d", check=1)
    return tmp_path


def test_damaged_bitmaps_are_listed_with_the_reason(damaged):
    table = run("varve-img", damaged, "bitmap", "--list", "d", check=0)
    assert table.stdout.splitlines() == [
        "NAME  STATE      GRANULARITY   DIRTY BYTES",
        "bad   unusable         65536             -  its table has 0 "
        "entries",
        "good  recording        65536       1048576",
        "used  unusable         65536             -  in use: not saved, or "
        "open elsewhere"]
    info = json.loads(run("varve-img", damaged, "info", "--bitmaps",
                          "--output=json", "d", check=0).stdout)
    assert info["bitmaps"][1] == {"name": "good", "state": "recording",
                                  "granularity": 65536, "dirty-bytes": 1 << 20}
    assert info["bitmaps"][0]["reason"].startswith("its table has 0")
    assert "good  recording" in run("varve-img", damaged, "info", "--bitmaps",
                                    "d", check=0).stdout
    check = run("varve-img", damaged, "check", "d", check=2)
    assert "ERROR bitmap 'bad' cannot be used: its table has 0" in check.stderr


def test_repair_keeps_what_can_be_used(damaged):
    out = run("varve-img", damaged, "bitmap", "--repair", "d", check=0).stdout
    assert "Removed bitmap 'bad': its table has 0" in out
    assert "Removed bitmap 'used': in use" in out
    listed = json.loads(run("varve-img", damaged, "bitmap", "--list",
                            "--output=json", "d", check=0).stdout)
    assert [b["name"] for b in listed] == ["good"]
    assert listed[0]["dirty-bytes"] == 1 << 20
    run("qemu-img", damaged, "bitmap", "--merge", "good", "d", "good", check=0)
    assert run("qemu-img", damaged, "check", "d").returncode in (0, 3)
    assert run("varve-img", damaged, "bitmap", "--repair", "d",
               check=0).stdout == ""

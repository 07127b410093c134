"""Filter drivers beside QEMU's: the same nodes, requests and answers."""
import json
import subprocess

import pytest

from lib import Oracle, Varved, program, same_conversation
from test_varve_io import commands, play

KIB, MIB = 1 << 10, 1 << 20


def options(**tree):
    """Nested options as --image-opts takes them."""
    def flat(prefix, value):
        if isinstance(value, dict):
            for key, member in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else key, member)
        else:
            yield f"{prefix.replace('_', '-')}={value}"
    return ",".join(flat("", tree))


def on_file(name, driver="qcow2", **more):
    return {"driver": driver, **more,
            "file": {"driver": "file", "filename": name}}


def image_map(directory, name):
    done = subprocess.run([program("qemu-img"), "map", "--output=json", name],
                          cwd=directory, capture_output=True, check=True)
    return [{k: v for k, v in e.items() if k != "offset"}
            for e in json.loads(done.stdout)]


def check(directory, name):
    subprocess.run([program("qemu-img"), "check", "-q", name], cwd=directory,
                   check=True)


@pytest.fixture
def sides(tmp_path):
    """Two directories with the same files: d.qcow2, over it o.qcow2, raw."""
    made = []
    for name in ("ours", "theirs"):
        directory = tmp_path / name
        directory.mkdir()
        for argv in (["create", "-q", "-f", "qcow2", "d.qcow2", "4M"],
                     ["create", "-q", "-f", "raw", "r.raw", "4M"],
                     ["create", "-q", "-f", "qcow2", "-b", "d.qcow2", "-F",
                      "qcow2", "o.qcow2"]):
            subprocess.run([program("qemu-img"), *argv], cwd=directory,
                           check=True)
        subprocess.run([program("qemu-io"), "-c", "write -q -P 3 1M 256k",
                        "d.qcow2"], cwd=directory, check=True)
        made.append(directory)
    return made


def compare(sides, args, *lines):
    """One run of both; the answers must be the same."""
    ours, theirs = [
        play(name, directory, [*commands(*lines), "--image-opts", *args])
        for name, directory in zip(("varve-io", "qemu-io"), sides)]
    assert ours == theirs
    return ours


def same_maps(sides, *names):
    for name in names:
        assert image_map(sides[0], name) == image_map(sides[1], name)
        check(sides[0], name)


def test_null_aio_swallows_and_gives_zeroes(sides):
    compare(sides, [options(driver="null-aio", size=MIB, read_zeroes="on")],
            "write -P 7 0 64k", "read -P 0 0 64k", "length", "write 1M 1k",
            "aio_write 0 4k", "aio_flush", "discard 0 64k", "write -z 0 1M")


def test_compress_stores_compressed(sides):
    tree = options(driver="compress", file=on_file("d.qcow2"))
    compare(sides, [tree], "write -P 3 0 128k", "read -P 3 4k 8k",
            "write -z 64k 64k", "read -P 0 64k 64k")
    same_maps(sides, "d.qcow2")


def test_compress_takes_requests_of_any_size(sides):
    """QEMU refuses to write twice to a compressed cluster; we do not."""
    done = play("varve-io", sides[0], [
        *commands("write -P 3 0 64k", "write -P 4 1k 3k", "write -P 5 100k 9k",
                  "read -P 3 0 1k", "read -P 4 1k 3k", "read -P 3 4k 60k",
                  "read -P 5 100k 9k", "read -P 0 109k 4k"),
        "--image-opts", options(driver="compress", file=on_file("d.qcow2"))])
    assert done["status"] == 0 and "failed" not in done["stdout"], done
    check(sides[0], "d.qcow2")
    assert all(not e["data"] or "offset" not in e
               for e in image_map(sides[0], "d.qcow2"))


def test_compress_needs_a_format_that_can(sides):
    compare(sides, [options(driver="compress", file=on_file("r.raw", "raw"))],
            "write 0 64k")


@pytest.mark.parametrize("request_", [
    "read -P 3 1M 64k", "read -P 3 1100k 4k", "read 960k 192k", "read 3M 4k",
    "write -P 9 1100k 1k"])
def test_copy_on_read_keeps_what_it_reads(sides, request_):
    tree = options(driver="copy-on-read", file=on_file("o.qcow2"))
    compare(sides, [tree], request_, "read -v 1M 32")
    same_maps(sides, "o.qcow2")


def test_copy_on_read_copies_down_to_the_bottom_only(sides):
    for directory in sides:
        subprocess.run([program("qemu-img"), "create", "-q", "-f", "qcow2",
                        "-b", "o.qcow2", "-F", "qcow2", "p.qcow2"],
                       cwd=directory, check=True)
        subprocess.run([program("qemu-io"), "-c", "write -q -P 5 0 64k",
                        "o.qcow2"], cwd=directory, check=True)
    for bottom in ("low", "mid", "nobody"):
        compare(sides, [options(
            driver="copy-on-read", bottom=bottom, file=on_file(
                "p.qcow2", backing=on_file(
                    "o.qcow2", node_name="mid",
                    backing=on_file("d.qcow2", node_name="low"))))],
                "read -P 5 0 4k", "read -P 3 1M 4k")
        same_maps(sides, "p.qcow2")


def test_copy_on_read_needs_a_writable_child(sides):
    compare(sides, ["-r", options(driver="copy-on-read",
                                  file=on_file("o.qcow2"))], "read 0 64k")


def test_snapshot_access_shows_the_point_in_time(start):
    """As a backup tool fetches it while the guest writes."""
    daemons = []
    for kind in (Varved, Oracle):
        daemon = start.prepare(kind)
        for name in ("d.img", "t.img"):
            with open(daemon.path(name), "wb") as f:
                f.write(b"\x01" * MIB)
        daemons.append(daemon.start())

    def node(name, image):
        return ("blockdev-add", {"node-name": name,
                                 **on_file("{dir}/" + image, "raw")})
    same_conversation(*daemons, [
        node("disk", "d.img"), node("temp", "t.img"),
        ("blockdev-add", {"driver": "snapshot-access", "node-name": "early",
                          "file": "disk"}),
        ("blockdev-add", {"driver": "copy-before-write", "node-name": "cbw",
                          "file": "disk", "target": "temp",
                          "on-cbw-error": "break-snapshot"}),
        ("blockdev-add", {"driver": "snapshot-access", "node-name": "snap",
                          "file": "cbw"}),
        ("blockdev-del", {"node-name": "cbw"}),
        ("blockdev-del", {"node-name": "disk"})])
    varved = daemons[0]

    def io(node, line):
        return varved.command("human-monitor-command",
                              command_line=f'qemu-io {node} "{line}"')
    assert "failed" not in io("cbw", "write -P 9 64k 64k")
    for line in ("read -P 1 0 64k", "read -P 1 64k 64k", "read -P 1 0 1M"):
        said = io("snap", line)
        assert said.startswith("read ") and "failed" not in said, said
    assert "failed" not in io("disk", "read -P 9 64k 64k")
    assert "not supported" in io("early", "read 0 512")

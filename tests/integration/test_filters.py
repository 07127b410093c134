"""Filter drivers beside QEMU's: the same nodes, requests and answers."""
import json
import subprocess

import pytest

from lib import Oracle, Varved, program, same_conversation, writelog
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


def test_blkverify_lets_equal_images_be(sides):
    tree = options(driver="blkverify", test=on_file("d.qcow2"),
                   raw=on_file("r.raw", "raw"))
    compare(sides, [tree], "write -P 9 0 1M", "write -P 4 512k 3k",
            "read -P 9 0 512k", "read -P 0 2M 1M", "length", "flush",
            "discard 0 64k", "read -P 9 0 64k", "map")


def test_blkverify_stops_at_a_difference(sides):
    """QEMU ends its program there; we end the request."""
    tree = options(driver="blkverify", test=on_file("d.qcow2"),
                   raw=on_file("r.raw", "raw"))
    done = play("varve-io", sides[0], [
        *commands("read 0 1M", "read 1023k 4k"), "--image-opts", tree])
    assert done["status"] == 1
    assert "read failed: Input/output error" in \
        done["stdout"] + done["stderr"]
    assert "read offset=1047552 bytes=4096 contents mismatch at offset " \
        "1048576" in done["stderr"]


def logging(**more):
    return options(driver="blklogwrites", discard="unmap",
                   file={**on_file("r.raw", "raw"), "discard": "unmap"},
                   log=on_file("log", "raw"), **more)


def logged(directory):
    """What a log holds, but for how QEMU cuts a write and how often it
    flushes."""
    image = bytearray(4 * MIB)
    for entry in writelog.read(directory / "log"):
        entry.apply(image)
    return bytes(image)


@pytest.mark.parametrize("more", [{}, {"log_sector_size": 4096},
                                  {"log_super_update_interval": 2}])
def test_blklogwrites_logs_what_qemu_logs(sides, more):
    for directory in sides:
        (directory / "log").write_bytes(b"")
    compare(sides, [logging(**more)], "write -P 1 0 4k", "write -P 2 512 700",
            "flush", "write -f -P 3 64k 1k", "write -z 8k 4k",
            "write -z -u 12k 4k", "discard 32k 8k", "aio_write -P 7 1M 64k",
            "aio_flush")
    assert logged(sides[0]) == logged(sides[1]) == \
        (sides[0] / "r.raw").read_bytes()
    if not more:
        ours, theirs = [[(e.offset, e.length) for e in writelog.read(d / "log")
                         if e.flags & writelog.DISCARD] for d in sides]
        assert ours == theirs == [(32 * KIB, 8 * KIB)]
    # Each goes on with the log of the other.
    for directory, other in zip(sides, reversed(sides)):
        (directory / "other").write_bytes((other / "log").read_bytes())
        (directory / "other").rename(directory / "log")
    compare(sides, [logging(log_append="on")], "write -P 8 2M 4k")
    assert logged(sides[0]) == logged(sides[1])


@pytest.mark.parametrize("more, log", [
    ({"log_sector_size": 100}, b""), ({"log_super_update_interval": 0}, b""),
    ({"log_append": "on"}, bytes(512)), ({"log_append": "on"}, b"x" * 512),
    ({"log_append": "on", "log_sector_size": 512}, b"")])
def test_blklogwrites_refuses(sides, more, log):
    for directory in sides:
        (directory / "log").write_bytes(log)
    compare(sides, [logging(**more)], "write 0 4k")


def test_blklogwrites_flush_stands_after_what_it_made_stable(sides):
    directory = sides[0]
    (directory / "log").write_bytes(b"")
    play("varve-io", directory, [
        *commands("write -P 1 0 4k", "flush", "write -P 2 4k 4k", "flush"),
        "--image-opts", logging()])
    kinds = [(e.offset, e.flush) for e in writelog.read(directory / "log")]
    assert kinds[:4] == [(0, False), (0, True), (4096, False), (0, True)]


def on_disk(driver, child="file", **more):
    return {"driver": driver, child: on_file("d.qcow2"), **more}


@pytest.mark.parametrize("options", [
    on_file("o.qcow2"), on_file("r.raw", "raw", offset=512),
    on_disk("copy-on-read"), on_disk("compress"), on_disk("preallocate"),
    on_disk("blkdebug", "image", align=512),
    {"driver": "blkverify", "raw": {"driver": "file", "filename": "r.raw"},
     "test": on_file("d.qcow2")},
    on_disk("blklogwrites", **{"log": {"driver": "file", "filename": "r.raw"},
                               "log-super-update-interval": 5}),
    {"driver": "quorum", "vote-threshold": 1, "children": [on_file("d.qcow2")]},
], ids=lambda options: options["driver"])
def test_queries_show_the_nodes_in_order(sides, start, options):
    daemons = []
    for directory, kind in zip(sides, (Varved, Oracle)):
        daemons.append(start.prepare(kind))
        for name in ("d.qcow2", "o.qcow2", "r.raw"):
            (directory / name).rename(daemons[-1].path(name))
        daemons[-1].start()
    same_conversation(*daemons, [
        ("blockdev-add", {**options, "node-name": "n", "read-only": False}),
        ("query-named-block-nodes", {"flat": True}), "query-named-block-nodes",
        ("query-blockstats", {"query-nodes": True})],
        ignore={"actual-size", "wr_highest_offset"})


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

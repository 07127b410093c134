"""Snapshots within images: both tool sets on one image in turn, and the QMP
commands beside QEMU's."""
import json
import shutil
import struct
import subprocess

import pytest

from lib import SystemOracle, Varved, program, same_conversation
from test_qcow2 import SIDES, check, content, io, qemu, varve

TIMES = {"date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec"}


def snapshot(side, image, *args, ok=True):
    return SIDES[side]("img", "snapshot", *args, image, ok=ok)


def names(side, image):
    d = json.loads(SIDES[side]("img", "info", "--output=json", image).stdout)
    return [{k: v for k, v in s.items() if k not in TIMES}
            for s in d.get("snapshots", [])]


def of_snapshot(side, image, name, path):
    out = path / "snapshot.raw"
    SIDES[side]("img", "convert", "-f", "qcow2", "-O", "raw", "-l",
                f"snapshot.name={name}", image, out)
    return out.read_bytes()


@pytest.mark.parametrize("create, commands", [
    ("", ["write -P {} 0 300k", "write -P {} 2M 64k", "write -z 64k 128k"]),
    ("compat=0.10", ["write -P {} 0 300k", "write -P {} 3M 64k"]),
    ("cluster_size=512,refcount_bits=64", ["write -P {} 0 100k"]),
    ("cluster_size=4k,refcount_bits=8", ["write -P {} 4k 1M",
                                         "discard 512k 64k"]),
    ("extended_l2=on", ["write -P {} 2k 30k", "write -z 8k 4k"]),
    # QEMU compresses nothing over what is there.
    ("", ["write -c -P {0} 0x{0}0000 64k", "write -P {0} 0x1{0}0000 4k"]),
    ("compression_type=zstd,cluster_size=16k", ["write -c -P {0} 0x{0}0000 64k"]),
    ("backing", ["write -P {} 100k 300k", "write -z 3M 64k"]),
])
def test_both_tool_sets_work_on_one_image(tmp_path, create, commands):
    image = tmp_path / "image"
    if create == "backing":
        base = tmp_path / "base"
        qemu("img", "create", "-q", "-f", "qcow2", base, "4M")
        io("qemu", base, ["write -P 77 0 4M"])
        qemu("img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2",
             image)
    else:
        qemu("img", "create", "-q", "-f", "qcow2",
             *(["-o", create] if create else []), image, "4M")
    shots = {}
    for i, side in enumerate(["varve", "qemu", "varve", "qemu"]):
        io("qemu" if i & 1 else "varve", image,
           [c.format(i + 1) for c in commands])
        name = f"{side}-{i}"
        shots[name] = content("qemu", image, tmp_path)
        snapshot(side, image, "-c", name)
        check(image)
    assert names("varve", image) == names("qemu", image)
    assert snapshot("varve", image, "-l").stdout == \
        snapshot("qemu", image, "-l").stdout
    for name, data in shots.items():
        assert of_snapshot("varve", image, name, tmp_path) == data
    # Each goes back to, and deletes, what the other has taken.
    for user, name in [("qemu", "varve-0"), ("varve", "qemu-1"),
                       ("qemu", "varve-2"), ("varve", "qemu-3")]:
        snapshot(user, image, "-a", name)
        check(image)
        assert content("varve", image, tmp_path) == shots[name]
        io("varve" if user == "qemu" else "qemu", image, ["write -P 99 0 64k"])
        check(image)
        snapshot(user, image, "-d", name)
        check(image)
        del shots[name]
        for other, data in shots.items():
            assert of_snapshot("qemu", image, other, tmp_path) == data
    assert names("varve", image) == names("qemu", image) == []


def test_a_snapshot_keeps_the_size_of_its_disk(tmp_path):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k",
         image, "4M")
    io("varve", image, ["write -P 1 3M 1M"])
    snapshot("varve", image, "-c", "small")
    small = content("qemu", image, tmp_path)
    varve("img", "resize", "-q", image, "60M")
    io("varve", image, ["write -P 2 59M 1M"])
    snapshot("varve", image, "-c", "large")
    for side in SIDES:
        snapshot(side, image, "-a", "small")
        check(image)
        assert content("qemu", image, tmp_path) == small
        assert of_snapshot("varve", image, "large", tmp_path)[59 << 20:] == \
            bytes([2]) * (1 << 20)
        snapshot(side, image, "-a", "large")
        check(image)
        io("qemu", image, ["read -P 2 59M 1M"])


@pytest.mark.parametrize("args", [
    ["-a", "nope"], ["-d", "nope"], ["-d", "1"], ["-a", "1"], ["-d", "s"],
    ["-c", ""], ["-c", "x" * 300], ["-c", "s"], ["-l"], [], ["-l", "-c", "x"],
    ["-q", "-l"], ["-U", "-l"], ["-a", "s", "-d", "s"]])
@pytest.mark.parametrize("kind", ["qcow2", "raw", "bitmap", "data-file"])
def test_the_tool_answers_as_qemu_img(tmp_path, kind, args):
    image = tmp_path / "image"
    create = ["-o", f"data_file={tmp_path / 'data'}"] \
        if kind == "data-file" else []
    qemu("img", "create", "-q", "-f", "raw" if kind == "raw" else "qcow2",
         *create, image, "1M")
    if kind in ("qcow2", "bitmap"):
        snapshot("qemu", image, "-c", "s")
    if kind == "bitmap":
        qemu("img", "bitmap", "--add", image, "b")
    said = {}
    for side in SIDES:
        copy = tmp_path / side
        shutil.copy(image, copy)
        options = f"driver={'raw' if kind == 'raw' else 'qcow2'}," \
            f"file.filename={copy}"
        r = SIDES[side]("img", "snapshot", *args, "--image-opts", options,
                        ok=False)
        said[side] = (r.returncode, r.stdout, r.stderr.replace(
            "varve-img", "qemu-img").replace(str(copy), "IMAGE"),
                      names(side, copy))
    assert said["varve"] == said["qemu"]


@pytest.mark.parametrize("args", [["map", "--output=json"], ["commit", "-q"],
                                  ["rebase", "-b", ""]])
def test_other_tools_leave_snapshots_as_they_are(tmp_path, args):
    said = {}
    for side in SIDES:
        base, image = tmp_path / f"{side}.base", tmp_path / side
        for path, more in (base, ()), (image, ("-b", base, "-F", "qcow2")):
            qemu("img", "create", "-q", "-f", "qcow2", *more, path, "4M")
            io("qemu", path, ["write -P 1 1M 300k", "write -z 2M 64k"])
            snapshot("qemu", path, "-c", "s")
            io("qemu", path, ["write -P 2 1100k 1M"])
        out = SIDES[side]("img", *args, image).stdout
        shots = [of_snapshot("qemu", path, "s", tmp_path)
                 for path in (base, image)]
        said[side] = out.replace(str(base), "BASE").replace(
            str(image), "IMAGE"), shots, content("qemu", image, tmp_path)
        check(base)
        check(image)
    assert said["varve"] == said["qemu"]


@pytest.mark.parametrize("shot", [
    "a", "2", "nope", "snapshot.name=a", "snapshot.id=1", "", "foo=1",
    "snapshot.id=2,snapshot.name=a", "snapshot.foo=1"])
def test_one_is_picked_as_by_qemu_img(tmp_path, shot):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "1M")
    for i, name in enumerate(["a", "1"]):
        io("qemu", image, [f"write -P {i + 1} 0 64k"])
        snapshot("qemu", image, "-c", name)
    io("qemu", image, ["write -P 9 0 512k"])
    said = {}
    for side in SIDES:
        out = tmp_path / f"{side}.raw"
        r = [SIDES[side]("img", "convert", "-l", shot, "-O", "raw", image, out,
                         ok=False),
             SIDES[side]("img", "measure", "-l", shot, "-O", "qcow2", image,
                         ok=False)]
        said[side] = [(x.returncode, x.stdout,
                       x.stderr.replace("varve-img", "qemu-img")) for x in r]
        said[side].append(out.read_bytes() if out.exists() else None)
    assert said["varve"] == said["qemu"]


# ---- QMP ---------------------------------------------------------------------

def take(device, name):
    return ("blockdev-snapshot-internal-sync",
            {"device": device, "name": name})


def drop(device, **which):
    return ("blockdev-snapshot-delete-internal-sync",
            {"device": device, **which})


def both(*actions, **more):
    return ("transaction", {"actions": [
        {"type": "blockdev-snapshot-internal-sync" if data else "abort",
         "data": data} for data in actions], **more})


def snapshots(name):
    """A step: those of the node."""
    def step(daemon):
        for node in daemon.command("query-named-block-nodes"):
            if node["node-name"] == name:
                return node["image"].get("snapshots")
        return None
    return step


def test_commands_answer_as_qemu(tmp_path):
    daemons = []
    for kind in Varved, SystemOracle:
        path = tmp_path / kind.__name__
        path.mkdir()
        for name in "a", "b", "ro":
            qemu("img", "create", "-q", "-f", "qcow2", path / name, "4M")
        qemu("img", "create", "-q", "-f", "qcow2", "-o",
             f"data_file={path / 'data'}", path / "d", "4M")
        daemons.append(kind(path))
    a = {"device": "a", "name": "t"}
    with daemons[0] as ours, daemons[1] as theirs:
        same_conversation(ours, theirs, [
            *(("blockdev-add", {
                "driver": driver, "node-name": name, "read-only": name == "ro",
                "file": {"driver": "file", "filename": f"{{dir}}/{file}"}})
              for name, driver, file in [
                  ("a", "qcow2", "a"), ("ro", "qcow2", "ro"),
                  ("d", "qcow2", "d"), ("raw", "raw", "data")][:3]),
            ("blockdev-add", {
                "driver": "raw", "node-name": "over", "file": {
                    "driver": "qcow2", "node-name": "b",
                    "file": {"driver": "file", "filename": "{dir}/b"}}}),
            ("blockdev-add", {"driver": "null-co", "node-name": "null"}),
            take("a", ""), take("a", "s"), take("a", "s"), take("a", "1"),
            take("ro", "s"), take("d", "s"), take("null", "s"),
            take("nope", "s"), take("b", "s"), take("over", "s"),
            take("a", "x" * 300), snapshots("a"), snapshots("b"),
            snapshots("over"),
            ("blockdev-snapshot-internal-sync", {"device": "a"}),
            drop("a"), drop("a", name="nope"), drop("a", id="7"),
            drop("a", id="1", name="zz"), drop("a", id="1", name="s"),
            drop("a", name="1"), drop("null", name="s"), drop("d", name="s"),
            drop("ro", name="s"), drop("nope", name="s"), drop("b", name="s"),
            drop("over", name="s"), snapshots("b"),
            both(a, a), snapshots("a"), both(a, None), snapshots("a"),
            both(a, {"device": "over", "name": "t"}), snapshots("over"),
            both({**a, "name": "u"}, {"device": "over", "name": "t"}),
            snapshots("a"),
            both(a, properties={"completion-mode": "grouped"})],
            ignore=TIMES | {"actual-size"})
    for path in tmp_path / "Varved", tmp_path / "SystemOracle":
        check(path / "a")
        check(path / "b")


SLOT, SLOTS, WRITES, ROUNDS = 4096, 61, 300, 25


class Writer:
    """Numbered writes, one after the other, round the slots of a half."""

    def __init__(self, socket, half):
        self.half, self.written = half, 0
        self.process = subprocess.Popen(
            [program("varve-io"), "--image-opts",
             f"driver=virtio-blk-vhost-user,path={socket}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self):
        """The writes of a round, which go on meanwhile."""
        for _ in range(WRITES // ROUNDS):
            at = (self.half * SLOTS + self.written % SLOTS) * SLOT
            self.process.stdin.write(
                f"write -q -P {self.written % 251 + 1} {at} {SLOT}\n")
            self.written += 1
        self.process.stdin.write("length\n")
        self.process.stdin.flush()

    def wait(self):
        """Until they have been written."""
        while "MiB" not in (line := self.process.stdout.readline()):
            assert line, "it has ended"

    def end(self):
        self.process.communicate("quit\n")
        assert self.process.returncode == 0


def writes_in(data):
    """How many of each half's writes the data hold, all before them too."""
    slots, states = bytearray(SLOTS), {}
    for w in range(WRITES):
        states[bytes(slots)] = w
        slots[w % SLOTS] = w % 251 + 1
    states[bytes(slots)] = WRITES
    values = bytearray()
    for i in range(2 * SLOTS):
        slot = data[i * SLOT:(i + 1) * SLOT]
        assert slot == slot[:1] * SLOT
        values.append(slot[0])
    return [states[bytes(values[:SLOTS])], states[bytes(values[SLOTS:])]]


def test_one_is_a_point_in_time_while_guests_write(start, tmp_path):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "4M")
    daemon = start(
        Varved, "--blockdev", f"driver=file,filename={image},node-name=f",
        "--blockdev", "driver=qcow2,file=f,node-name=n",
        *(f"--export=vhost-user-blk,id=e{half},node-name=n,writable=on,"
          f"addr.type=unix,addr.path=s{half}" for half in range(2)))
    writers = [Writer(daemon.path(f"s{half}"), half) for half in range(2)]
    for i in range(ROUNDS):
        for w in writers:
            w.begin()
        for name in (f"s{i}", f"gone{i}"):
            daemon.command("blockdev-snapshot-internal-sync", device="n",
                           name=name)
        daemon.command("blockdev-snapshot-delete-internal-sync", device="n",
                       name=f"gone{i}")
        for w in writers:
            w.wait()
    for w in writers:
        w.end()
    daemon.stop()
    check(image)
    shots = {s["name"]: of_snapshot("qemu", image, s["name"], tmp_path)
             for s in names("varve", image)[::2]}
    history = [writes_in(data) for data in shots.values()]
    for half in zip(*history):
        assert list(half) == sorted(half)
    for number, counts in zip(range(0, ROUNDS, 2), history):
        for count in counts:
            assert 0 <= count - number * WRITES // ROUNDS <= WRITES // ROUNDS
    assert writes_in(content("qemu", image, tmp_path)) == [WRITES, WRITES]
    name = list(shots)[len(shots) // 2]
    snapshot("varve", image, "-a", name)
    assert content("qemu", image, tmp_path) == shots[name]
    check(image)


# ---- damaged tables ----------------------------------------------------------

def damaged(path, at, fmt, value):
    """An image with two snapshots, and a field of the table's first entry, or
    below zero of the header."""
    image = path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "4M")
    io("qemu", image, ["write -P 1 0 128k"])
    for name in "a", "b":
        snapshot("qemu", image, "-c", name)
    with open(image, "r+b") as f:
        f.seek(64)
        table = int.from_bytes(f.read(8), "big")
        f.seek(-at if at < 0 else table + at)
        f.write(struct.pack(fmt, value))
    return image


@pytest.mark.parametrize("at, fmt, value", [
    (-60, ">I", 5), (-64, ">Q", 0x12345), (-64, ">Q", 1 << 63),
    (-64, ">Q", (1 << 63) - 65536), (-64, ">Q", (1 << 64) - 65536), (0, ">Q", 0x12345), (0, ">Q", 1 << 40), (8, ">I", 1 << 28),
    (8, ">I", 0), (12, ">H", 65535), (14, ">H", 65535), (36, ">I", 1 << 28),
    (36, ">I", 1025), (36, ">I", 16), (48, ">Q", 12345), (48, ">Q", 1 << 62),
    (40, ">Q", 1 << 50), (56, ">q", -1)])
def test_damage_is_told_and_repaired(tmp_path, at, fmt, value):
    image = damaged(tmp_path, at, fmt, value)
    said = {}
    for side in SIDES:
        copy = tmp_path / side
        shutil.copy(image, copy)
        said[side] = [SIDES[side]("img", "info", copy, ok=False).returncode,
                      snapshot(side, copy, "-l", ok=False).stdout,
                      SIDES[side]("img", "check", copy, ok=False).returncode]
        SIDES[side]("img", "check", "-q", "-r", "all", copy, ok=False)
    # A table that goes on behind the file's end is counted as far as it is.
    assert said["varve"][:2] == said["qemu"][:2]
    assert said["varve"][2] == said["qemu"][2]
    ours, theirs = tmp_path / "varve", tmp_path / "qemu"
    assert qemu("img", "check", ours, ok=False).returncode == \
        qemu("img", "check", theirs, ok=False).returncode
    if at == -64:  # nothing makes that good
        return
    assert names("varve", ours) == names("qemu", theirs)
    for verb in "-a", "-d":
        r = snapshot("varve", ours, verb, "a", ok=False)
        assert r.returncode in (0, 1), r.stderr
        assert qemu("img", "check", ours, ok=False).returncode != 1


def crowded(image, count, text):
    """An image with that many snapshots, each with texts of so many bytes."""
    qemu("img", "create", "-q", "-f", "qcow2", image, "4M")
    entry = struct.pack(">QIHHIIQIIQQQ", 0, 0, text, text, 0, 0, 0, 0, 24, 0,
                        4 << 20, (1 << 64) - 1)
    whole = (len(entry) + 2 * text + 7) // 8 * 8
    with open(image, "r+b") as f:
        f.seek(60)
        f.write(struct.pack(">IQ", count, 1 << 20))
        for i in range(count):
            f.seek((1 << 20) + i * whole)
            f.write(entry)
        f.truncate((1 << 20) + count * whole)


@pytest.mark.parametrize("count, text, kept", [(65537, 1, 65536),
                                               (600, 65535, 511)])
def test_what_is_too_many_is_dropped(tmp_path, count, text, kept):
    """Too many entries, and too many bytes of them."""
    said = {}
    for side in SIDES:
        image = tmp_path / side
        crowded(image, count, text)
        r = [SIDES[side]("img", *args, image, ok=False) for args in [
            ["info"], ["check"], ["check", "-r", "leaks"]]]
        said[side] = [*(x.returncode for x in r), r[1].stderr.split(
            "\n")[1].replace("qemu-img", "varve-img")]
        # QEMU takes ten seconds for each look at the many.
        if side == "varve" or count < 1000:
            SIDES[side]("img", "check", "-q", "-r", "all", image)
            SIDES[side]("img", "check", image)
            assert image.read_bytes()[60:64] == struct.pack(">I", kept)
    assert said["varve"] == said["qemu"]

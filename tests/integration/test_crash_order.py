"""What a power cut may leave of an image at any moment.

Everything that is written to the file below a qcow2 node goes into a log. Any
prefix of the log, with any part of what came after its last flush left out, is
a state that a crash may leave: the image must then be free of corruption (leaks
are allowed), and hold all that was flushed."""
import random
import subprocess

import pytest

from lib import program, writelog

SIZE = 4 << 20
UNIT = 4096
UNITS = SIZE // UNIT
MARK = UNITS - 1  # the unit that says how far the workload has come
REQUESTS = 60
CRASHES = 16

SHAPES = {
    "plain": "",
    "small clusters": "cluster_size=4k",
    "one-bit refcounts": "cluster_size=16k,refcount_bits=1",
    "version 2": "compat=0.10,cluster_size=16k",
    "lazy refcounts": "cluster_size=16k,lazy_refcounts=on",
    "extended L2": "cluster_size=32k,extended_l2=on",
}


class Workload:
    """Requests of whole units, each of one value, several at a time. After
    every flush a mark is written: once the log holds it, the flush had ended.
    """

    def __init__(self, rng):
        self.lines = []
        self.writes = [(0, unit, None) for unit in range(UNITS)]
        self.in_flight = set()
        self.flushes = 0
        for _ in range(REQUESTS):
            self.request(rng)

    def settle(self):
        self.lines.append("aio_flush")
        self.in_flight = set()

    def write(self, command, units, value):
        if command != "aio_write" or self.in_flight & set(units):
            self.settle()  # two that meet would come in any order
        if command == "aio_write":
            self.in_flight |= set(units)
        self.writes += [(self.flushes, unit, value) for unit in units]
        pattern = f"-P {value} " if value else ""
        self.lines.append(f"{command} -q {pattern}"
                          f"{units.start * UNIT} {len(units) * UNIT}")

    def request(self, rng):
        first = rng.randrange(MARK)
        count = min(MARK - first, rng.choice((1, 1, 2, 5, 16, 64)))
        kind = rng.choice(("write", "aio_write", "aio_write", "aio_write",
                           "write -z", "write -z -u", "flush"))
        if kind == "flush":
            self.settle()
            self.lines.append("flush")
            self.flushes += 1
            self.write("write", range(MARK, MARK + 1), self.flushes)
        else:
            value = 0 if "-z" in kind else rng.randrange(100, 255)
            self.write(kind, range(first, first + count), value)

    def allowed(self, flush):
        """By unit, what it may hold if the flush of that number has ended."""
        values = [set() for _ in range(UNITS)]
        for when, unit, value in self.writes:
            if when < flush:
                values[unit] = {value}
            else:
                values[unit].add(value)
        return values


def play(directory, shape, workload, base):
    """Runs it; returns the image from before, and the log."""
    disk = directory / "disk.qcow2"
    options = ["-o", shape] if shape else []
    if base:
        (directory / "base.raw").write_bytes(base)
        options += ["-b", "base.raw", "-F", "raw"]
    subprocess.run([program("varve-img"), "create", "-q", "-f", "qcow2",
                    *options, disk, str(SIZE)], check=True, cwd=directory)
    before = disk.read_bytes()
    (directory / "log").write_bytes(b"")
    done = subprocess.run(
        [program("varve-io"), "--image-opts",
         "driver=qcow2,discard=unmap,"
         "file.driver=blklogwrites,file.discard=unmap,"
         "file.file.driver=file,file.file.filename=disk.qcow2,"
         "file.file.discard=unmap,"
         "file.log.driver=file,file.log.filename=log"],
        cwd=directory, input="\n".join(workload.lines) + "\naio_flush\nquit\n",
        capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "failed" not in said, said
    return before, writelog.read(directory / "log")


def crash(before, entries, at, rng):
    """The file after a crash before entry `at`."""
    image = bytearray(before)
    flushed = max((i for i in range(at) if entries[i].flush), default=0)
    zero = rng.random() < 0.5
    for i in range(at):
        if i < flushed or rng.random() < 0.6:
            entries[i].apply(image, discards_zero=zero)
    return image


def flushes_ended(entries, at):
    """How many, by the marks among the first `at` entries."""
    for number in range(1, REQUESTS + 2):
        mark = bytes([number]) * UNIT
        if not any(mark in e.data for e in entries[:at]):
            return number - 1
    return REQUESTS


def assert_sound(path, how):
    done = subprocess.run([program("qemu-img"), "check", path],
                          capture_output=True, text=True)
    assert done.returncode in (0, 3), (how, done.stdout[-2000:], done.stderr)


def assert_promises_kept(path, values, base, how):
    out = path.with_suffix(".raw")
    subprocess.run([program("qemu-img"), "convert", "-O", "raw", path, out],
                   check=True)
    content = out.read_bytes()
    for unit in range(UNITS):
        data = content[unit * UNIT:(unit + 1) * UNIT]
        expected = [(base or bytes(SIZE))[unit * UNIT:(unit + 1) * UNIT]
                    if value is None else bytes([value]) * UNIT
                    for value in values[unit]]
        assert data in expected, (how, unit, values[unit], data[:16])


@pytest.mark.parametrize("backed", [False, True], ids=["alone", "overlay"])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_crash_leaves_a_sound_image_with_all_flushed_data(
        tmp_path, seed, shape, backed):
    rng = random.Random(seed)
    base = rng.randbytes(512) * (SIZE // 512) if backed else None
    workload = Workload(rng)
    before, entries = play(tmp_path, SHAPES[shape], workload, base)
    assert flushes_ended(entries, len(entries)) == workload.flushes
    path = tmp_path / "crashed.qcow2"
    for _ in range(CRASHES):
        at = rng.randrange(len(entries) + 1)
        path.write_bytes(crash(before, entries, at, rng))
        ended = flushes_ended(entries, at)
        how = f"{at} of {len(entries)} entries, {ended} flushes ended"
        if "lazy" in shape:
            # What they promise is that opening makes the refcounts good.
            subprocess.run([program("varve-io"), "-c", "flush", path],
                           check=True)
        assert_sound(path, how)
        assert_promises_kept(path, workload.allowed(ended), base, how)

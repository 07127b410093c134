"""Random operations on one image, played by both tool sets, and the shortest
script that still shows a difference.

An operation is a list of commands; a command is a list of words, of which the
first is "img" (varve-img or qemu-img), "io" (varve-io or qemu-io) or a plain
program. Every side is a directory with copies of the same images; a player says
whose tools do the step there.
"""
import json
import os
import random
import shlex
import shutil
import subprocess

from .daemon import SANITIZER, program

KIB = 1 << 10
MIB = 1 << 20
ENV = dict(os.environ, LC_ALL="C.UTF-8")
TOOLS = {"varve": {"img": "varve-img", "io": "varve-io"},
         "qemu": {"img": "qemu-img", "io": "qemu-io"}}
OPTIONS = ["", "", "", "cluster_size=4k", "cluster_size=512",
           "cluster_size=2M", "extended_l2=on", "extended_l2=on,cluster_size=16k",
           "compat=0.10", "refcount_bits=1", "refcount_bits=64",
           "lazy_refcounts=on", "compression_type=zstd",
           "cluster_size=1k,refcount_bits=8", "data_file=top.data",
           "data_file=top.data,data_file_raw=on"]


# ---- what is done ----------------------------------------------------------

class Generator:
    """Operations from a seed, which know as much of the image as they need to
    make sense most of the time."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.size = self.random.choice([1 * MIB, 2 * MIB + 512 * 3,
                                        3 * MIB + 64 * KIB])
        self.options = self.random.choice(OPTIONS)
        self.external = "data_file" in self.options
        # The peer forgets zeroes of such an image, and cannot grow it, when it
        # has a backing file.
        self.old = "0.10" in self.options
        self.large = "2M" in self.options
        # No room for a second reference: the peer leaks when it finds out.
        self.narrow = self.options == "refcount_bits=1"
        self.backing = None
        if not self.external and not self.old:
            self.backing = self.random.choice(["base.qcow2", "base.qcow2",
                                               None])
        self.snapshots = []
        self.pattern = 0

    def start(self):
        """Commands of qemu-img and qemu-io that make the images."""
        r = self.random
        made = []
        for name in ("base.qcow2", "other.qcow2"):
            size = r.choice([self.size, self.size, self.size // 2 // 512 * 512,
                             self.size + 128 * KIB])
            made.append(["img", "create", "-q", "-f", "qcow2", name, str(size)])
            made.append(["io", "-f", "qcow2"] + [w for _ in range(4) for w in (
                "-c", self.write(size)[0])] + [name])
        behind = ["-b", self.backing, "-F", "qcow2"] if self.backing else []
        options = ["-o", self.options] if self.options else []
        made.append(["img", "create", "-q", "-f", "qcow2", *options, *behind,
                     "top.qcow2", str(self.size)])
        return made

    def extent(self, size=None):
        r = self.random
        size = size or self.size
        offset = r.randrange(size)
        bytes_ = r.choice([1, 511, 512, 4 * KIB, 64 * KIB, 200 * KIB,
                           r.randrange(1, 300 * KIB)])
        align = r.choice([1, 1, 512, 4 * KIB, 64 * KIB])
        offset = offset // align * align
        bytes_ = (bytes_ + align - 1) // align * align
        return offset, max(1, min(bytes_, size - offset))

    def write(self, size=None):
        self.pattern = self.pattern % 250 + 1
        offset, bytes_ = self.extent(size)
        return [f"write -P {self.pattern} {offset} {bytes_}"]

    def write_zeroes(self):
        offset, bytes_ = self.extent()
        return [f"write -z{self.random.choice(['', 'u', 'f'])} "
                f"{offset} {bytes_}"]

    def discard(self):
        offset, bytes_ = self.extent()
        return [f"discard {offset} {bytes_}"]

    def read(self):
        offset, bytes_ = self.extent()
        return [f"read -vC {offset} {min(bytes_, 64)}"]

    def reopen(self):
        return [self.random.choice(["reopen -r", "reopen -c none", "flush"]),
                "reopen -w"]

    def requests(self):
        r = self.random
        kinds = [self.write] * 6 + [self.write_zeroes] * 3 + \
            [self.discard] * 3 + [self.read, self.reopen]
        lines = [line for _ in range(r.randrange(1, 6))
                 for line in r.choice(kinds)()]
        return [["io", "-f", "qcow2", *[w for line in lines
                                        for w in ("-c", line)], "top.qcow2"]]

    def resize(self):
        """A smaller disk ends with a cluster: a larger one that the peer makes
        of it later shows what was behind the end in the same cluster."""
        r = self.random
        old = self.size
        size = r.choice([old + r.randrange(-512, 512) * 512, old - 256 * KIB,
                         old + 256 * KIB, r.randrange(1, 8 * KIB) * 512])
        unit = 2 * MIB if self.large else 64 * KIB
        if size < old:
            size = size // unit * unit
        if size <= 0:
            return self.requests()
        self.size = size
        shrink = ["--shrink"] if size < old else []
        return [["img", "resize", "-q", "-f", "qcow2", *shrink, "top.qcow2",
                 str(self.size)]]

    def snapshot(self):
        r = self.random
        if self.narrow:
            return self.requests()
        kinds = ["-c", "-c", "-a", "-a", "-d"]
        kind = r.choice(kinds)
        if kind == "-c" or not self.snapshots:
            name = f"s{r.randrange(100)}"
            self.snapshots.append((name, self.size))
            return [["img", "snapshot", "-c", name, "top.qcow2"]]
        i = r.randrange(len(self.snapshots))
        name, size = self.snapshots[i]
        if kind == "-a":
            self.size = size
        else:
            del self.snapshots[i]
        return [["img", "snapshot", kind, name, "top.qcow2"]]

    def commit(self):
        keep = self.random.choice([[], ["-d"]])
        return [["img", "commit", "-q", "-f", "qcow2", *keep, "top.qcow2"]]

    def rebase(self):
        r = self.random
        if self.old:
            return self.requests()
        unsafe = r.choice([[], [], [], ["-u"]])
        self.backing = r.choice(["base.qcow2", "other.qcow2", ""])
        form = ["-F", "qcow2"] if self.backing else []
        return [["img", "rebase", "-q", *unsafe, "-f", "qcow2", "-b",
                 self.backing, *form, "top.qcow2"]]

    def convert(self):
        r = self.random
        if self.external:
            return self.requests()
        self.snapshots = []
        options = r.choice(OPTIONS[:-2])
        words = ["img", "convert", "-q", "-f", "qcow2", "-O", "qcow2"]
        words += r.choice([[], [], ["-c"], ["-S", "0"], ["-S", "64k"],
                           ["-m", "1"], ["-W"]])
        words += ["-o", options] if options else []
        self.old = "0.10" in options
        self.large = "2M" in options
        self.narrow = options == "refcount_bits=1"
        if self.backing and not self.old and r.randrange(2):
            words += ["-B", self.backing, "-F", "qcow2"]
        else:
            self.backing = ""
        return [[*words, "top.qcow2", "new.qcow2"],
                ["mv", "new.qcow2", "top.qcow2"]]

    def amend(self):
        option = self.random.choice([
            "lazy_refcounts=on", "lazy_refcounts=off", "compat=0.10",
            "compat=1.1", "refcount_bits=16", "refcount_bits=8",
            "refcount_bits=64", "refcount_bits=1"])
        if option == "compat=0.10" and (self.backing or self.snapshots):
            return self.requests()
        if option.startswith("refcount_bits"):
            narrow = option == "refcount_bits=1"
            # With the largest clusters the peer never ends.
            if self.snapshots or (narrow and self.large):
                return self.requests()
            self.narrow = narrow
        if option.startswith("compat"):
            self.old = option == "compat=0.10"
        return [["img", "amend", "-q", "-f", "qcow2", "-o", option,
                 "top.qcow2"]]

    def bitmap(self):
        r = self.random
        name = r.choice("ab")
        return [["img", "bitmap", *r.choice([
            ["--add"], ["--add", "-g", "4k"], ["--remove"], ["--clear"],
            ["--disable"], ["--enable"]]), "top.qcow2", name]]

    def operation(self):
        kinds = [self.requests] * 10 + [self.resize] * 2 + [self.rebase] * 2 + \
            [self.commit, self.convert, self.amend, self.bitmap] + \
            [self.snapshot] * 3
        return self.random.choice(kinds)()


def places_are_free(words):
    """True for what copies or hides data as it likes: each side may allocate
    more or less than the other, and then one goes on with a copy of the other.
    """
    return words[0] == "img" and words[1] in ("commit", "convert", "rebase",
                                              "resize")


# ---- doing it --------------------------------------------------------------

class Difference(Exception):
    """What two sides do not agree in, or what one got wrong."""


def always(tools):
    return lambda step: tools


def in_turn(step):
    return ("varve", "qemu")[step % 2]


def _start(tools, directory, words):
    name = TOOLS[tools].get(words[0], words[0])
    return subprocess.Popen([program(name), *words[1:]], cwd=directory,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env=ENV)


def _finish(process, words):
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired as e:
        process.kill()
        raise Difference(f"{shlex.join(words)} does not end") from e
    if SANITIZER.search(err) or process.returncode < 0:
        raise Difference(f"{shlex.join(words)} dies: {process.returncode} "
                         f"{out}{err}")
    return process.returncode, out, err


def _together(*calls):
    """Runs (tools, directory, words) side by side."""
    processes = [_start(*c) for c in calls]
    results, first = [], None
    for p, c in zip(processes, calls):
        try:
            results.append(_finish(p, c[2]))
        except Difference as e:
            first = first or e
    if first:
        raise first
    return results


def _said(words, result):
    """What has to be equal: status, and what a read shows."""
    status, out, _ = result
    dumps = [line for line in out.splitlines() if ":  " in line]
    return [status, dumps if words[0] == "io" else out]


def merged_map(text):
    """Without places in the file, where they are apart, and which of them the
    file system has not filled."""
    merged = []
    for part in json.loads(text):
        part.pop("offset", None)
        part["zero"] = part["zero"] and not part["data"]
        start, length = part.pop("start"), part.pop("length")
        if merged and merged[-1][2] == part and \
                merged[-1][0] + merged[-1][1] == start:
            merged[-1][1] += length
        else:
            merged.append([start, length, part])
    return merged


class Play:
    """Two sides: players of a step to directories."""

    def __init__(self, directory, start, players):
        self.players = players
        self.dirs = [os.path.join(directory, str(i)) for i in range(2)]
        self.steps = 0
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(self.dirs[0])
        for words in start:
            done = _finish(_start("qemu", self.dirs[0], words), words)
            assert done[0] == 0, (words, done)
        shutil.copytree(self.dirs[0], self.dirs[1])

    def step(self, commands):
        tools = [p(self.steps) for p in self.players]
        self.steps += 1
        free = any(places_are_free(words) for words in commands)
        for words in commands:
            results = _together(*[(t, d, words)
                                  for t, d in zip(tools, self.dirs)])
            said = [_said(words, r) for r in results]
            if said[0] != said[1]:
                raise Difference(f"{shlex.join(words)}: {tools[0]}: "
                                 f"{results[0]}, {tools[1]}: {results[1]}")
            if said[0][0]:
                break
        self.compare(free)
        if free:
            a, b = self.dirs if self.steps % 2 else reversed(self.dirs)
            shutil.rmtree(b)
            shutil.copytree(a, b)

    def compare(self, free):
        other = os.path.join(self.dirs[1], "top.qcow2")
        words = ["img", "map", "-f", "qcow2", "--output=json", "top.qcow2"]
        check = ["img", "check", "-q", "top.qcow2"]
        data, ours, theirs, first, second = _together(
            ("qemu", self.dirs[0], ["img", "compare", "-f", "qcow2", "-F",
                                    "qcow2", "top.qcow2", other]),
            ("varve", self.dirs[0], words), ("qemu", self.dirs[1], words),
            ("qemu", self.dirs[0], check), ("varve", self.dirs[1], check))
        if data[0]:
            raise Difference(f"the guest's data differ: {data}")
        self.judge(first, self.dirs[0])
        self.judge(second, self.dirs[1])
        if free:
            return
        for a, b in zip(merged_map(ours[1]), merged_map(theirs[1])):
            if a != b:
                raise Difference(f"the maps differ: {a}, {b}")

    @staticmethod
    def judge(result, directory):
        if result[0]:
            raise Difference(f"{directory}/top.qcow2 is not clean: {result}")

    def end(self):
        """All that a step has not looked at."""
        calls = [(t, d, ["img", "check", "-q", i])
                 for t in TOOLS for d in self.dirs
                 for i in ("base.qcow2", "other.qcow2", "top.qcow2")]
        for call, result in zip(calls, _together(*calls)):
            self.judge(result, f"{call[0]}: {call[1]}: {call[2][-1]}")


def difference(directory, start, operations, players):
    """What the operations bring to light, or None."""
    play = Play(directory, start, players)
    try:
        for commands in operations:
            play.step(commands)
        play.end()
    except Difference as e:
        return str(e)
    return None


# ---- making it short -------------------------------------------------------

def shrink(items, fails):
    """The items without what fails() does not need to stay true (ddmin)."""
    pieces = 2
    while len(items) > 1:
        size = max(1, len(items) // pieces)
        for at in range(0, len(items), size):
            less = items[:at] + items[at + size:]
            if less and fails(less):
                items = less
                pieces = max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(items), pieces * 2)
    return items


def split_requests(operations):
    """Each request of a command of io in an operation of its own."""
    split = []
    for op in operations:
        words = op[0]
        if words[0] != "io":
            split.append(op)
            continue
        lines = [words[i + 1] for i in range(len(words)) if words[i] == "-c"]
        split += [[["io", "-f", "qcow2", "-c", line, words[-1]]]
                  for line in lines]
    return split


def script(start, operations, why, players):
    """As a person would type it, beside what went wrong."""
    lines = ["# each line in two directories that begin equal"]
    lines += [shlex.join([TOOLS["qemu"].get(w[0], w[0]), *w[1:]])
              for w in start]
    for i, op in enumerate(operations):
        sides = [p(i) for p in players]
        for words in op:
            lines.append(" | ".join(dict.fromkeys(
                shlex.join([TOOLS[t].get(words[0], words[0]), *words[1:]])
                for t in sides)))
        if any(places_are_free(words) for words in op):
            lines.append("# from here on, one directory is a copy of the " +
                         ("second" if i % 2 else "first"))
    return "\n".join(lines + [f"# {why}"])


def run(directory, seed, steps, players):
    """None, or a short script that shows what is wrong."""
    generator = Generator(seed)
    start = generator.start()
    operations = [generator.operation() for _ in range(steps)]

    why = None

    def fails(some):
        nonlocal why
        found = difference(directory, start, some, players)
        why = found or why
        return found
    if not fails(operations):
        return None
    split = split_requests(operations)
    operations = shrink(split if fails(split) else operations, fails)
    return f"seed {seed}:\n" + script(start, operations, why, players)

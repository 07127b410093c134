"""Random operations on one image, played by both tool sets, and the shortest
script that still shows a difference.

An operation is a list of commands; a command is a list of words, of which the
first is "img" (varve-img or qemu-img), "io" (varve-io or qemu-io) or a plain
program. Every side is a directory with copies of the same images; a player says
whose tools do the step there.
"""
import json
import os
import shlex
import shutil
import signal
import subprocess

from .daemon import SANITIZER, program
from .random_generator import Generator

ENV = dict(os.environ, LC_ALL="C.UTF-8")
TOOLS = {"varve": {"img": "varve-img", "io": "varve-io"},
         "qemu": {"img": "qemu-img", "io": "qemu-io"}}
IMAGES = ("top.qcow2", "mid.qcow2", "base.qcow2", "other.qcow2")
# What copies or hides data as it likes: what the images then take may be less
# than after the peer, never more.
LESS = {
    "resize": "Where all that lies in a cluster is zero, behind the old end "
              "too, the cluster becomes one of zeroes; the peer writes data.",
    "commit": "Only what the top has is copied; the peer copies all that lies "
              "within 64 KiB of it, zeroes behind as data.",
    "rebase": "What differs and is zero becomes zero cluster by cluster, and "
              "nothing but what differs is written; the peer decides for a "
              "whole run, and rounds it.",
    "convert": "A run of zeroes that begins before the end of a new backing "
               "file is not written behind that end; the peer writes it all.",
}


def copies(words):
    """What each side does on a copy of the same files: they may have places
    apart afterwards, and then both go on with a copy of one."""
    return words[0] == "img" and words[1] in LESS


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


def _finish(process, words, killed=False):
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired as e:
        process.kill()
        raise Difference(f"{shlex.join(words)} does not end") from e
    if SANITIZER.search(err) or \
            (process.returncode < 0 and
             not (killed and process.returncode == -signal.SIGKILL)):
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


def own_costs(text):
    """[(start, end, cost)] of what an image has itself, of which nothing costs
    0, zeroes 1 and data 2."""
    runs = []
    for part in json.loads(text):
        cost = 0
        if part["depth"] == 0 and part["present"]:
            cost = 2 if part["data"] else 1
        end = part["start"] + part["length"]
        if runs and runs[-1][2] == cost:
            runs[-1] = (runs[-1][0], end, cost)
        else:
            runs.append((part["start"], end, cost))
    return runs


def dearer(ours, theirs):
    """The first place where ours cost more."""
    for start, end, cost in ours:
        for a, b, other in theirs:
            if a < end and b > start and cost > other:
                return (max(a, start), min(b, end)), cost, other
    return None


def copy_tree(source, target):
    """With all the holes that there can be, so that copies are equal."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-r", "--sparse=always", source, target], check=True)


def extent(line):
    """(first, end) of a request of io."""
    offset, bytes_ = map(int, line.split()[-2:])
    return offset, offset + bytes_


def io_words(lines, *more):
    return ["io", *more, *[w for line in lines for w in ("-c", line)]]


class Play:
    """Two sides: players of a step to directories."""

    def __init__(self, directory, start, players):
        self.players = players
        self.dirs = [os.path.join(directory, str(i)) for i in range(2)]
        self.scratch = os.path.join(directory, "scratch")
        self.steps = 0
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(self.dirs[0])
        for words in start:
            done = _finish(_start("qemu", self.dirs[0], words), words)
            assert done[0] == 0, (words, done)
        self.make_equal(self.dirs[0])

    def step(self, commands):
        first = commands[0]
        tools = [p(self.steps) for p in self.players]
        self.steps += 1
        if first[0] in ("fault", "kill"):
            getattr(self, first[0])(*first[1:])
            return
        apart = copies(first)
        if apart:
            self.make_equal(self.dirs[0])
        for words in commands:
            results = _together(*[(t, d, words)
                                  for t, d in zip(tools, self.dirs)])
            said = [_said(words, r) for r in results]
            if said[0] != said[1]:
                raise Difference(f"{shlex.join(words)}: {tools[0]}: "
                                 f"{results[0]}, {tools[1]}: {results[1]}")
            if said[0][0]:
                break
        self.compare_data(IMAGES[:3] if first[1] == "commit" else IMAGES[:1])
        if apart:
            self.compare_costs()
            self.make_equal(self.dirs[self.steps % 2])
        else:
            self.compare_maps()
            self.compare_bitmaps()

    def make_equal(self, source):
        copy_tree(source, self.scratch)
        for d in self.dirs:
            copy_tree(self.scratch, d)

    # ---- what is compared ----

    def compare_data(self, images):
        """And both are free of errors, each as the other one sees it."""
        compare = ["img", "compare", "-f", "qcow2", "-F", "qcow2"]
        check = ["img", "check", "-q", "top.qcow2"]
        first, second, *same = _together(
            ("qemu", self.dirs[0], check), ("varve", self.dirs[1], check),
            *[("qemu", self.dirs[0],
               [*compare, i, os.path.join(self.dirs[1], i)]) for i in images])
        for image, result in zip(images, same):
            if result[0]:
                raise Difference(f"the data of {image} differ: {result}")
        self.judge(first, self.dirs[0])
        self.judge(second, self.dirs[1])

    def maps(self, image):
        words = ["img", "map", "-f", "qcow2", "--output=json", image]
        return [result[1] for result in _together(
            ("varve", self.dirs[0], words), ("qemu", self.dirs[1], words))]

    def compare_maps(self):
        for a, b in zip(*map(merged_map, self.maps("top.qcow2"))):
            if a != b:
                raise Difference(f"the maps differ: {a}, {b}")

    def compare_costs(self):
        for image in IMAGES[:3]:
            found = dearer(*map(own_costs, self.maps(image)))
            if found:
                raise Difference(f"{image} takes more: {found}")

    def compare_bitmaps(self):
        words = ["img", "info", "--bitmaps", "--output=json", "top.qcow2"]
        said = [json.loads(result[1]).get("bitmaps") for result in _together(
            *[("varve", d, words) for d in self.dirs])]
        if said[0] != said[1]:
            raise Difference(f"the bitmaps differ: {said}")

    @staticmethod
    def judge(result, directory, leaks_allowed=False):
        if result[0] and not (leaks_allowed and result[0] == 3):
            raise Difference(f"{directory}/top.qcow2 is not clean: {result}")

    def end(self):
        """All that a step has not looked at."""
        calls = [(t, d, ["img", "check", "-q", i])
                 for t in TOOLS for d in self.dirs for i in IMAGES]
        for call, result in zip(calls, _together(*calls)):
            self.judge(result, f"{call[0]}: {call[1]}: {call[2][-1]}")

    # ---- when things go wrong ----

    def fault(self, event, errno, line):
        """One request during which one step fails: nothing else changes."""
        copy_tree(self.dirs[0], self.scratch)
        words = io_words(
            [line], "--image-opts")
        words.append("driver=qcow2,file.driver=blkdebug,"
                     "file.image.driver=file,file.image.filename=top.qcow2,"
                     f"file.inject-error.0.event={event},"
                     f"file.inject-error.0.errno={errno},"
                     "file.inject-error.0.once=on")
        self.spoil(words)
        self.check_scratch(self.contents(self.dirs[0]), [line])

    def kill(self, flushed, *lines):
        """The process is killed after the requests, of which the first ones
        were flushed."""
        n = int(flushed)
        copy_tree(self.dirs[0], self.scratch)
        self.spoil(io_words([*lines[:n], "flush"], "-f", "qcow2") +
                   ["top.qcow2"])
        expected = self.contents(self.scratch)
        copy_tree(self.dirs[0], self.scratch)
        self.spoil(io_words([*lines[:n], "flush", *lines[n:], "sigraise 9"],
                            "-f", "qcow2") + ["top.qcow2"])
        # Opening it makes lazy refcounts good.
        self.spoil(io_words(["flush"], "-f", "qcow2") + ["top.qcow2"])
        self.check_scratch(expected, lines[n:])

    def spoil(self, words):
        _finish(_start("varve", self.scratch, words), words, killed=True)

    def contents(self, directory):
        words = ["img", "convert", "-f", "qcow2", "-O", "raw", "top.qcow2",
                 "seen.raw"]
        status, _, err = _finish(_start("qemu", directory, words), words)
        if status:
            raise Difference(f"{directory}/top.qcow2 cannot be read: {err}")
        path = os.path.join(directory, "seen.raw")
        with open(path, "rb") as f:
            data = f.read()
        os.remove(path)
        return data

    def check_scratch(self, expected, lines):
        check = ["img", "check", "top.qcow2"]
        for result in _together(*[(t, self.scratch, check) for t in TOOLS]):
            self.judge(result, self.scratch, leaks_allowed=True)
        seen = bytearray(self.contents(self.scratch))
        for first, end in map(extent, lines):
            seen[first:end] = expected[first:end]
        if seen != expected:
            at = next(i for i, (a, b) in enumerate(zip(seen, expected))
                      if a != b)
            raise Difference(f"byte {at} was {expected[at]}, is {seen[at]}")


def difference(directory, start, operations, players):
    """(what the operations bring to light, after how many), or None."""
    play = Play(directory, start, players)
    try:
        for commands in operations:
            play.step(commands)
        play.end()
    except Difference as e:
        return str(e), play.steps
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
    """Each request of a command of io in an operation of its own; a compressed
    write needs the one before it."""
    split = []
    for op in operations:
        words = op[0]
        if words[0] != "io":  # what is broken stays as it is
            split.append(op)
            continue
        first = words.index("-c")
        pieces = []
        for line in words[first + 1:-1:2]:
            if line.startswith("write -c") and pieces:
                pieces[-1] += ["-c", line]
            else:
                pieces.append(["-c", line])
        split += [[[*words[:first], *piece, words[-1]]] for piece in pieces]
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
        if copies(op[0]):
            lines.append("# from here on, one directory is a copy of the " +
                         ("second" if i % 2 else "first"))
    return "\n".join(lines + [f"# {why}"])


def run(directory, seed, steps, players):
    """None, or a short script that shows what is wrong."""
    generator = Generator(seed)
    start = generator.start()
    operations = [generator.operation() for _ in range(steps)]

    found = difference(directory, start, operations, players)
    if not found:
        return None
    operations = operations[:found[1]]

    def fails(some):
        nonlocal found
        again = difference(directory, start, some, players)
        found = again or found
        return again
    split = split_requests(operations)
    operations = shrink(split if fails(split) else operations, fails)
    return f"seed {seed}:\n" + script(start, operations, found[0], players)

"""varve-img beside qemu-img: the same command in two directories that hold the
same images, and what came of it compared."""
import json
import os
import re
import resource
import signal
import subprocess

from .daemon import SANITIZER, program
from .images import joined_runs

ENV = dict(os.environ, LC_ALL="C.UTF-8")
NAMES = ("varve-img", "qemu-img")
FILE_LIMIT = None  # bytes; files cannot grow beyond, like on a full disk


def limit_files():
    # What is ignored stays ignored in the program: it gets EFBIG.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))


def run(name, directory, *args, check=None):
    r = subprocess.run([program(name), *map(str, args)], cwd=directory,
                       capture_output=True, text=True, timeout=120, env=ENV,
                       preexec_fn=limit_files if FILE_LIMIT else None)
    if check is not None:
        assert r.returncode == check, (args, r.stdout, r.stderr)
    return r


def normalise(text, directory):
    # What a file takes on disk is the file system's business.
    text = re.sub(r"(?m)^disk size: .*", "disk size: SIZE", text)
    return text.replace(str(directory), "{dir}") \
        .replace("varve-img", "{img}").replace("qemu-img", "{img}")


def without_sizes(value):
    """JSON without what a file takes on disk."""
    if isinstance(value, list):
        return [without_sizes(v) for v in value]
    if isinstance(value, dict):
        return {k: without_sizes(v) for k, v in value.items()
                if k != "actual-size"}
    return value


class Twin:
    """A directory for each program."""

    def __init__(self, tmp_path):
        self.dirs = {name: tmp_path / name for name in NAMES}
        for directory in self.dirs.values():
            directory.mkdir()
        self.ours, self.theirs = (self.dirs[n] for n in NAMES)

    def prepare(self, *args):
        """qemu-img in both."""
        for directory in self.dirs.values():
            run("qemu-img", directory, *args, check=0)

    def io(self, image, *commands, fmt="qcow2"):
        args = [a for c in commands for a in ("-c", c)]
        for directory in self.dirs.values():
            r = subprocess.run(["qemu-io", "-f", fmt, *args, image],
                               cwd=directory, capture_output=True, text=True,
                               timeout=120)
            assert r.returncode == 0, (r.stdout, r.stderr)

    def create(self, image, *args, fmt="qcow2", backing=None):
        behind = ["-b", backing, "-F", "qcow2"] if backing else []
        self.prepare("create", "-q", "-f", fmt, *behind, image, *args)

    def answers(self, *args):
        """What both say: [status, output, errors] of each."""
        said = []
        for name, directory in self.dirs.items():
            r = run(name, directory, *args)
            assert not SANITIZER.search(r.stderr), r.stderr
            out = r.stdout
            if r.returncode == 0 and out and "--output=json" in args:
                out = without_sizes(json.loads(out))
            else:
                out = normalise(out, directory)
            said.append([r.returncode, out, normalise(r.stderr, directory)])
        return said

    def same(self, *args, but=None):
        """Both say the same, which is returned. but(text): what to compare of
        the errors."""
        ours, theirs = self.answers(*args)
        if but:
            ours[2], theirs[2] = but(ours[2]), but(theirs[2])
        assert ours == theirs, args
        return ours

    def same_map(self, image):
        """The layers and kinds of all data in what the two made, not their
        places."""
        ours, theirs = (
            joined_runs(run("qemu-img", d, "map", "--output=json", image,
                            check=0).stdout, places=False)
            for d in self.dirs.values())
        assert ours == theirs

    def same_image(self, image, fmt="qcow2"):
        """What the two made holds the same data and is clean, by both checks.
        """
        for name in NAMES:
            run(name, self.ours, "compare", "-f", fmt, "-F", fmt, image,
                self.theirs / image, check=0)
            if fmt == "qcow2":
                for directory in self.dirs.values():
                    run(name, directory, "check", "-q", image, check=0)

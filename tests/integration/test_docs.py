"""The examples of README and docs/ run as they stand.

A fenced block says what it is: `sh` is run by a shell, `daemon` is the command line
of a program that stays, and `qmp` is a conversation: "->" is sent, "<-" must be
answered (or be an event) with at least these members, "<=" are events in any order.
"""
import json
import os
import re
import subprocess

import pytest

from lib import ROOT, Varved, build_dir
from lib.daemon import program

PAGES = ["docs/bitmaps.md", "docs/nbd.md"]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def contains(actual, expected):
    """Every member of expected is in actual, at any depth."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(
            k in actual and contains(actual[k], v)
            for k, v in expected.items())
    if isinstance(expected, list):
        return isinstance(actual, list) and len(actual) == len(expected) and \
            all(map(contains, actual, expected))
    return actual == expected


def messages(text):
    """[(arrow, message)]; a message may go over several lines."""
    parts = re.split(r"^(->|<-|<=) ", text, flags=re.M)[1:]
    return [(arrow, json.loads(body))
            for arrow, body in zip(parts[::2], parts[1::2])]


class Page(Varved):
    """The daemon of a page, with the page's own command line."""

    def __init__(self, directory, command):
        super().__init__(directory, *command.split()[1:], sockets=0,
                         start=False)
        self.sockets = [os.path.join(self.directory, "qmp.sock")]

    def monitor_args(self):
        return []

    def connect(self, socket=0, **kw):
        # The page negotiates itself.
        session = super().connect(socket, negotiate=False)
        session.greet()
        return session


def converse(qmp, text):
    for arrow, message in messages(text):
        if arrow == "->":
            qmp.send(message)
            continue
        if "event" in message:
            # Waiting leaves other events where they are: any order will do.
            got = qmp.wait_event(message["event"],
                                 device=message["data"]["device"])
        else:
            got = qmp.answer()
        assert contains(got, message), got


@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_the_page_runs(page, tmp_path):
    with open(os.path.join(ROOT, page)) as f:
        blocks = BLOCK.findall(f.read())
    env = dict(os.environ, PATH=build_dir() + ":" + os.environ["PATH"])
    daemon = None
    try:
        for kind, text in blocks:
            if kind == "sh":
                subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=env,
                               check=True)
            elif kind == "daemon":
                daemon = Page(tmp_path, text)
                daemon.start()
            elif kind == "qmp":
                converse(daemon.qmp, text)
        if daemon:
            daemon.stop()
    finally:
        if daemon:
            daemon.kill()


def test_the_tour_of_the_readme_runs(tmp_path):
    with open(os.path.join(ROOT, "README"), encoding="utf-8") as f:
        section = f.read().split("\nA tour in ten lines\n")[1]
    tour = re.findall(r"^    (.*)$", section.split("\ndocs/")[0], re.M)
    # The programs are built already, perhaps as another variant.
    assert tour[:2] == ["make", "PATH=$PWD/build/gcc:$PATH"]
    env = dict(os.environ, PATH=build_dir() + ":" + os.environ["PATH"])
    done = subprocess.run(["bash", "-euo", "pipefail", "-c",
                           "\n".join(tour[2:])], cwd=tmp_path, env=env,
                          check=True, capture_output=True, text=True,
                          timeout=120)
    answers = [json.loads(line) for line in done.stdout.splitlines()
               if line.startswith("{")]
    assert not [a for a in answers if "error" in a]
    drives = [a["return"] for a in answers
              if isinstance(a.get("return"), list)][0]
    bitmap = drives[0]["inserted"]["dirty-bitmaps"][0]
    assert (bitmap["name"], bitmap["count"]) == ("b0", 65536)


# ---- programs explain themselves ----------------------------------------------

COMMANDS = ["amend", "bench", "bitmap", "check", "commit", "compare", "convert",
            "create", "dd", "info", "map", "measure", "rebase", "resize",
            "snapshot"]


def help_of(*argv):
    return subprocess.run([program(argv[0]), *argv[1:], "--help"], check=True,
                          capture_output=True, text=True).stdout


def manual_of(name):
    with open(os.path.join(ROOT, "docs", "man", f"{name}.1")) as f:
        return f.read().replace("\\-", "-").replace("\\fR", "")


def options_in(text):
    """Those that begin a line of a help text."""
    return {option for line in re.findall(r"^ +(-.*)", text, re.M)
            for option in re.findall(r"(?:^|, )(--?[A-Za-z][\w-]*)", line)}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_manual_has_every_option_of_a_subcommand(command):
    pages = re.split(r"^\.SH COMMON OPTIONS$", manual_of("varve-img"), flags=re.M)
    sections = [s for s in pages[0].split("\n.TP\n")
                if re.match(r'\.BR "?' + command + r"\b", s)]
    known = set(re.findall(r"--?[A-Za-z][\w-]*", " ".join(sections) + pages[1]))
    assert options_in(help_of("varve-img", command)) - known == set()


@pytest.mark.parametrize("name", ["varved", "varve-io"])
def test_the_manual_has_every_option_of_a_program(name):
    known = set(re.findall(r"--?[A-Za-z][\w-]*", manual_of(name)))
    known |= {"-" + option for option in known}
    assert options_in(help_of(name)) - known == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_subcommand_run(command, tmp_path):
    env = dict(os.environ, PATH=build_dir() + ":" + os.environ["PATH"])

    def shell(text):
        subprocess.run(["bash", "-euc", text], cwd=tmp_path, env=env,
                       check=True, capture_output=True)

    shell("mkdir moved; qemu-img create -f raw disk.raw 8G;"
          "qemu-img create -f qcow2 disk.qcow2 8G;"
          "qemu-img create -f qcow2 scratch.qcow2 1G;"
          "cp disk.raw restored.raw;"
          "qemu-img create -f qcow2 base.qcow2 8G; cp base.qcow2 moved;"
          "qemu-img create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2")
    if command == "bitmap":
        shell("qemu-img bitmap --add disk.qcow2 tuesday;"
              "qemu-img bitmap --add disk.qcow2 week")
    examples = re.findall(r"^  (varve-img .*)$",
                          re.split(r"^examples?:$", help_of("varve-img", command),
                                   flags=re.M)[1], re.M)
    assert examples
    for example in examples:
        shell(example)

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

PAGES = ["docs/bitmaps.md"]
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
        daemon.stop()
    finally:
        if daemon:
            daemon.kill()


def test_the_tour_of_the_readme_names_real_programs():
    with open(os.path.join(ROOT, "README")) as f:
        tour = f.read()
    for name in re.findall(r"^    (varve\S*) ", tour, re.M):
        path = os.path.join(build_dir(), name)
        assert subprocess.run([path, "--help"], stdout=subprocess.DEVNULL,
                              check=False).returncode == 0

"""Tests with a real Linux guest; the rest is that of the integration tests."""
import os
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "integration")]

from lib import Varved  # noqa: E402
from linux_guest import LinuxGuest  # noqa: E402


@pytest.fixture
def daemon(tmp_path):
    with Varved(tmp_path / "varved") as running:
        yield running


@pytest.fixture
def boot(tmp_path):
    """boot(sockets...): a running guest; ended with the test."""
    guests = []

    def start(*sockets, **kw):
        guests.append(LinuxGuest(tmp_path / f"guest{len(guests)}", sockets,
                                 **kw))
        return guests[-1]

    yield start
    for guest in guests:
        guest.kill()

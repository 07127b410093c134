"""Fixtures of all integration tests."""
import os
import socket
import sys
import zlib

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import Oracle, SystemOracle, Varved  # noqa: E402
from lib.twin import Twin  # noqa: E402


class Starter:
    """Starts daemons below one directory and ends them after the test. Those
    that still run when the test has passed must end well."""

    def __init__(self, directory):
        self.directory = directory
        self.daemons = []

    def prepare(self, kind, *args, **kw):
        """One that is not started yet."""
        # Short: the path of a socket has 107 bytes.
        directory = self.directory / f"{kind.__name__}-{len(self.daemons)}"
        daemon = kind(directory, *args, start=False, **kw)
        self.daemons.append(daemon)
        return daemon

    def __call__(self, kind, *args, **kw):
        return self.prepare(kind, *args, **kw).start()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.passed = outcome.get_result().passed


@pytest.fixture
def start(tmp_path, request):
    """start(Varved, "--blockdev", ...): a running daemon."""
    starter = Starter(tmp_path)
    yield starter
    try:
        if getattr(request.node, "passed", False):
            for daemon in starter.daemons:
                if daemon.process and daemon.process.poll() is None:
                    daemon.stop()
    finally:
        for daemon in starter.daemons:
            daemon.kill()


@pytest.fixture
def varved(start):
    """A varved without any node."""
    return start(Varved)


@pytest.fixture
def pair(start):
    """(varved, qemu-storage-daemon), both without any node."""
    return start(Varved), start(Oracle)


@pytest.fixture
def system_pair(start):
    """(varved, qemu-system without a machine)."""
    return start(Varved), start(SystemOracle)


@pytest.fixture
def seed(request):
    """$VARVE_TEST_SEED, or always the same one of each test."""
    value = int(os.environ.get("VARVE_TEST_SEED") or
                zlib.crc32(request.node.name.encode()))
    print(f"VARVE_TEST_SEED={value}")
    return value


@pytest.fixture
def port():
    """A TCP port of this test alone: it is bound here as well, which keeps
    everybody off but who listens at it with SO_REUSEADDR."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


@pytest.fixture
def twin(tmp_path):
    """varve-img and qemu-img, each in a directory."""
    return Twin(tmp_path)

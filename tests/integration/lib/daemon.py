"""Programs that speak QMP, each in a directory of its own."""
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

from .qmp import TIMEOUT, Qmp, QmpTimeout

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.dirname(os.path.abspath(__file__)))))
START_TIMEOUT = TIMEOUT
# Nothing of this may stand in what a program says.
SANITIZER = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|"
                       r"runtime error:|Assertion|CRITICAL|(?<!-)core dumped")


def build_dir():
    """Where our programs are: $VARVE_BUILD, by default build/gcc."""
    path = os.environ.get("VARVE_BUILD") or "build/gcc"
    return os.path.normpath(os.path.join(ROOT, path))


def program(name):
    """The path of one of our programs, or of an installed one."""
    if name.startswith("varve"):
        return os.path.join(build_dir(), name)
    path = shutil.which(name)
    assert path, f"{name} is not installed"
    return path


class Daemon:
    """A running program with a QMP socket. `directory` is its working
    directory; .qmp is a negotiated session; connect() makes more of them (there
    are two sockets, as each serves one client at a time). `path` is another
    program to run than the one of that name."""

    name = None

    def __init__(self, directory, *args, sockets=2, start=True, env=None,
                 path=None):
        self.directory = str(directory)
        os.makedirs(self.directory, exist_ok=True)
        self.args = [str(a) for a in args]
        self.sockets = [os.path.join(self.directory, f"qmp{i}.sock")
                        for i in range(sockets)]
        self.program = path or program(self.name)
        self.env = dict(os.environ, LC_ALL="C.UTF-8", **(env or {}))
        self.process = self.qmp = None
        self.stderr_path = os.path.join(self.directory, "stderr")
        self.sessions = []
        if start:
            self.start()

    def monitor_args(self):
        args = []
        for i, path in enumerate(self.sockets):
            args += ["--chardev",
                     f"socket,id=qmp{i},path={path},server=on,wait=off",
                     "--monitor", f"chardev=qmp{i}"]
        return args

    def start(self):
        for path in self.sockets:
            if os.path.exists(path):
                os.unlink(path)
        argv = [self.program, *self.monitor_args(), *self.args]
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                argv, cwd=self.directory, stdin=subprocess.DEVNULL,
                stdout=stderr, stderr=stderr, env=self.env)
        deadline = time.monotonic() + START_TIMEOUT
        while self.qmp is None:
            try:
                self.qmp = self.connect()
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise AssertionError(
                        f"{self.name} exited with {self.process.returncode}: "
                        f"{self.stderr()}") from None
                assert time.monotonic() < deadline, f"{self.name} hangs"
                time.sleep(0.005)
        return self

    def restart(self):
        """After kill()."""
        self.qmp = None
        return self.start()

    def connect(self, socket=0, **kw):
        session = Qmp(self.sockets[socket], **kw)
        self.sessions.append(session)
        return session

    def stderr(self):
        with open(self.stderr_path, errors="replace") as f:
            return f.read()

    def path(self, name):
        return os.path.join(self.directory, name)

    def image_info(self, name):
        """What qemu-img says of an image, which may be in use."""
        done = subprocess.run(
            [program("qemu-img"), "info", "-U", "--output=json",
             self.path(name)], capture_output=True, check=True)
        return json.loads(done.stdout)

    def image_content(self, name, image_format=None):
        """The checksum of what a guest would read from an image, by
        qemu-img."""
        args = ["-f", image_format] if image_format else []
        out = self.path(name) + ".content"
        subprocess.run([program("qemu-img"), "convert", "-U", *args, "-O",
                        "raw", self.path(name), out], check=True,
                       stderr=subprocess.PIPE)
        with open(out, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
        os.unlink(out)
        return digest

    def command(self, *args, **kw):
        return self.qmp.command(*args, **kw)

    def call(self, *args, **kw):
        return self.qmp.call(*args, **kw)

    def stop(self, timeout=TIMEOUT):
        """Ends it by `quit` and checks that it ended well."""
        if self.process.poll() is None:
            try:
                self.qmp.send({"execute": "quit"})
            except (BrokenPipeError, OSError):
                pass
        self.wait(timeout)
        self.check_end(0)

    def terminate(self, timeout=TIMEOUT):
        """The same by SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.wait(timeout)
        self.check_end(0)

    def wait(self, timeout=TIMEOUT):
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(TIMEOUT)
            raise AssertionError(
                f"{self.name} does not end: {self.stderr()}") from None

    def check_end(self, status):
        stderr = self.stderr()
        assert not SANITIZER.search(stderr), stderr
        assert self.process.returncode == status, (self.process.returncode,
                                                   stderr)

    def kill(self):
        """SIGKILL, as at the end of a test that failed."""
        for session in self.sessions:
            session.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        try:
            if kind is None and self.process.poll() is None:
                self.stop()
            elif kind is None:
                self.check_end(0)
        finally:
            self.kill()


class Varved(Daemon):
    name = "varved"


class Qemu(Daemon):
    """QEMU's programs lose, once in some hundred times under load, all or part of
    what comes right after the greeting, or hang up then: asks until it is
    understood."""

    def connect(self, socket=0, negotiate=True, oob=False, **kw):
        for _ in range(8):
            session = super().connect(socket, negotiate=False, **kw)
            if self.understands(session) and (
                    not negotiate or self.negotiates(session, oob)):
                return session
            self.sessions.remove(session)
            session.close()
        raise AssertionError(f"{self.name} does not understand")

    @staticmethod
    def negotiates(session, oob):
        """False if it hangs up."""
        try:
            session.command("qmp_capabilities",
                            **({"enable": ["oob"]} if oob else {}))
        except ConnectionError:
            return False
        return True

    @staticmethod
    def understands(session):
        """Greets, and asks what changes nothing. After the first answer nothing
        is lost any more."""
        session.greet()
        session.send({"execute": "query-version", "id": "heard"})
        try:
            answer = session.answer(timeout=5)
        except QmpTimeout:
            return False
        return answer is not None and answer.get("id") == "heard" and \
            answer["error"]["class"] == "CommandNotFound"


class Oracle(Qemu):
    name = "qemu-storage-daemon"


class SystemOracle(Qemu):
    """For the commands that only the emulator has: drive-backup, query-block,
    stop and cont."""
    name = "qemu-system-x86_64"

    def monitor_args(self):
        args = ["-machine", "none", "-nodefaults", "-display", "none"]
        for path in self.sockets:
            args += ["-qmp", f"unix:{path},server=on,wait=off"]
        return args

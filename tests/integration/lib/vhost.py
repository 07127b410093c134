"""The load generator tests/bench/bench_vhost: a guest on a vhost-user socket
that knows what it wrote."""
import json
import os
import subprocess

from .daemon import ROOT, build_dir
from .qmp import TIMEOUT


def client_program():
    """Its path; built if need be, as the programs were."""
    path = os.path.join(build_dir(), "tests", "bench", "bench_vhost")
    compiler, *sanitizers = os.path.basename(build_dir()).split("-")
    subprocess.run(["make", "--no-print-directory", f"CC={compiler}",
                    "SAN=" + ",".join(sanitizers),
                    os.path.relpath(path, ROOT)],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return path


class Client:
    """A guest that works until finish(). Options are those of the program."""

    def __init__(self, socket, **options):
        argv = [client_program(), socket, "ms=0", "warmup=0"]
        argv += [f"{k}={v}" for k, v in options.items()]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def stats(self):
        """How it is doing."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def finish(self, timeout=TIMEOUT):
        """Ends its work; what it has to say in the end: of the load and, if it
        verifies, of reading all of it once more."""
        out, _ = self.process.communicate(timeout=timeout)
        lines = [json.loads(line) for line in out.splitlines()]
        assert self.process.returncode == 0, lines
        return lines

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.kill()

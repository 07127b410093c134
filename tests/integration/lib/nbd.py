"""qemu-nbd as the server of an image, on a socket that is there before it."""
import os
import socket
import subprocess

from .daemon import program


class NbdServer:
    """Serves an image until close(); at a path, or at a TCP port that the
    system chooses. `options` are those of qemu-nbd."""

    def __init__(self, image, *options, path=None, image_format="raw"):
        self.image, self.options, self.path = str(image), options, path
        self.image_format = image_format
        self.port = 0
        self.process = None
        self.start()

    def listen(self):
        if self.path:
            if os.path.exists(self.path):
                os.unlink(self.path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.path)
        else:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            self.port = listener.getsockname()[1]
        listener.listen(16)
        return listener

    def start(self):
        """Also again, at the same address, after kill()."""
        with self.listen() as listener:
            fd = listener.fileno()
            # As systemd starts it: the listening socket is descriptor 3.
            script = f'exec 3<&{fd} && LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
            self.process = subprocess.Popen(
                ["bash", "-c", script, "bash", program("qemu-nbd"), "-t",
                 "-e", "16", "-f", self.image_format, *self.options,
                 self.image], pass_fds=[fd], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        """Lets it write everything and end."""
        self.process.terminate()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def uri(self, export=""):
        if self.path:
            return f"nbd+unix:///{export}?socket={self.path}"
        return f"nbd://127.0.0.1:{self.port}/{export}"

    def options_of_server(self):
        """As members of a node of the driver nbd."""
        if self.path:
            return {"server": {"type": "unix", "path": self.path}}
        return {"server": {"type": "inet", "host": "127.0.0.1",
                           "port": str(self.port)}}

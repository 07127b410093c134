"""NBD servers: qemu-nbd, on a socket that is there before it, and one in Python
whose behaviour a test can change."""
import collections
import os
import socket
import struct
import subprocess
import threading

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


Request = collections.namedtuple("Request", "flags type cookie offset length")


class NbdScript:
    """A server of bytes in memory at a path, one thread a connection. `shown`
    is the size that it claims, `blocks` are its block sizes. A test overrides
    what is to go another way. NBD protocol, "Fixed newstyle negotiation",
    "Transmission"."""

    READ, WRITE, DISC, FLUSH, TRIM, ZERO, STATUS = 0, 1, 2, 3, 4, 6, 7
    # HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES
    FLAGS = 1 | 4 | 8 | 32 | 64

    def __init__(self, path, size, shown=None, blocks=(1, 4096, 1 << 25)):
        self.path, self.data = path, bytearray(size)
        self.shown, self.blocks = shown, blocks
        self.listener, self.connections = None, []
        self.open()

    def open(self):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self.accept, args=(self.listener,),
                         daemon=True).start()

    def close(self):
        """No connection any more, and no new one."""
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.hang_up()

    def hang_up(self):
        for conn in self.connections:
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass # it has gone
        self.connections = []

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def options_of_server(self):
        return {"server": {"type": "unix", "path": self.path}}

    def accept(self, listener):
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            self.connections.append(conn)
            threading.Thread(target=self.serve, args=(conn,),
                             daemon=True).start()

    def serve(self, conn):
        with conn:
            try:
                if self.negotiate(conn):
                    while self.take(conn):
                        pass
            except OSError:
                pass

    @staticmethod
    def receive(conn, n):
        data = b""
        while len(data) < n:
            piece = conn.recv(n - len(data))
            if not piece:
                raise OSError("the client hung up")
            data += piece
        return data

    def negotiate(self, conn):
        conn.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.receive(conn, 4)
        while True:
            _, option, n = struct.unpack(">8sII", self.receive(conn, 16))
            data = self.receive(conn, n)

            def reply(kind, payload=b""):
                conn.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind,
                                         len(payload)) + payload)
            if option == 10: # SET_META_CONTEXT
                name, = struct.unpack_from(">I", data)
                m, = struct.unpack_from(">I", data, 8 + name)
                reply(4, struct.pack(">I", 1) + data[12 + name:12 + name + m])
            elif option == 7: # GO
                size = len(self.data) if self.shown is None else self.shown
                reply(3, struct.pack(">HQH", 0, size, self.FLAGS))
                reply(3, struct.pack(">HIII", 3, *self.blocks))
            elif option != 8: # STRUCTURED_REPLY
                reply(0x80000001)
                continue
            reply(1)
            if option == 7:
                return True

    def take(self, conn):
        header = struct.unpack(">IHHQQI", self.receive(conn, 28))
        request = Request(*header[1:])
        if request.type == self.DISC:
            return False
        if request.type == self.WRITE:
            data = self.receive(conn, request.length)
            request = request._replace(length=data)
        self.answer(conn, request)
        return True

    def perform(self, request):
        """0 or an error number."""
        if request.type == self.WRITE:
            end = request.offset + len(request.length)
            self.data[request.offset:end] = request.length
        elif request.type == self.ZERO:
            end = request.offset + request.length
            self.data[request.offset:end] = bytes(request.length)
        return 0

    def status(self, request):
        return [request.length, 0]

    def answer(self, conn, request):
        kind, payload, err = 0, b"", self.perform(request)
        if err:
            kind, payload = 32769, struct.pack(">IH", err, 0)
        elif request.type == self.READ:
            end = request.offset + request.length
            kind, payload = 1, struct.pack(">Q", request.offset) + \
                bytes(self.data[request.offset:end])
        elif request.type == self.STATUS:
            numbers = self.status(request)
            kind, payload = 5, struct.pack(f">{1 + len(numbers)}I", 1, *numbers)
        conn.sendall(struct.pack(">IHHQI", 0x668e33ef, 1, kind, request.cookie,
                                 len(payload)) + payload)

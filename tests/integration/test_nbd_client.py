"""The driver nbd: disks that an NBD server exports."""
import json
import queue
import signal
import socket
import subprocess
import threading
import time

import pytest

from lib import Oracle, Varved, images, program
from lib.nbd import NbdScript, NbdServer
from lib.qmp import TIMEOUT
from lib.twin import NAMES, run

MIB = 1 << 20
SIZE = 16 * MIB


@pytest.fixture
def serve(tmp_path):
    """serve(image, ...): a server; a path of its own if there is none."""
    servers = []

    def start(image, *options, **kw):
        kw.setdefault("path", str(tmp_path / f"s{len(servers)}"))
        servers.append(NbdServer(image, *options, **kw))
        return servers[-1]
    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def raw(tmp_path):
    """An image with data in two places."""
    path = tmp_path / "disk.raw"
    with open(path, "wb") as f:
        f.write(b"\1" * MIB)
        f.seek(8 * MIB)
        f.write(b"\2" * 65536)
        f.truncate(SIZE)
    return path


def empty(path):
    with open(path, "wb") as f:
        f.truncate(SIZE)
    return path


def run_io(name, *commands, flags=("-f", "raw")):
    args = [*flags, *(a for c in commands for a in ("-c", c))]
    return subprocess.run([program("varve-io"), *args, name],
                          capture_output=True, text=True, timeout=TIMEOUT)


def io(name, *commands, **kw):
    done = run_io(name, *commands, **kw)
    assert done.returncode == 0 and not done.stderr, (done.stdout, done.stderr)
    assert "failed" not in done.stdout, done.stdout
    return done.stdout


def both(directory, *args):
    """What varve-img and qemu-img say; the same, which is returned."""
    said = []
    for name in NAMES:
        r = run(name, directory, *args)
        out, err = (t.replace(name, "IMG") for t in (r.stdout, r.stderr))
        if r.returncode == 0 and "--output=json" in args:
            out = json.loads(out)
        said.append([r.returncode, out, err])
    assert said[0] == said[1], args
    return said[0]


def qemu_io(daemon, node, command):
    return daemon.command("human-monitor-command",
                          command_line=f'qemu-io {node} "{command}"')


def add(daemon, server, node="n", **more):
    daemon.command("blockdev-add", driver="nbd", node_name=node,
                   **server.options_of_server(), **more)


def eventually(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- requests ----------------------------------------------------------------

@pytest.mark.parametrize("tcp", [False, True])
def test_requests_reach_the_image(serve, tmp_path, tcp):
    path = empty(tmp_path / "d")
    server = serve(path, "--discard=unmap", **({"path": None} if tcp else {}))
    io(server.uri(), "write -P 1 1M 3M", "read -P 1 1M 3M", "flush",
       "write -P 2 513k 5k", "read -P 0 512k 1k", "read -P 2 513k 5k",
       "write -z 2M 64k", "read -P 0 2M 64k", "write -z -u 3M 64k",
       "writev -P 4 5M 4k 8k 512", "readv -P 4 5M 512 8k 4k",
       "discard 8M 1M", "write -f -P 3 15M 1M", "write -P 9 0 511",
       *(f"aio_write -q -P {1 + i % 200} {6144 + i * 4}k 4k"
         for i in range(300)), "aio_flush",
       *(f"read -P {1 + i % 200} {6144 + i * 4}k 4k" for i in range(300)))
    data = path.read_bytes()
    assert data[:512] == b"\x09" * 511 + b"\0"
    assert data[MIB:2 * MIB] == b"\1" * MIB
    assert data[2 * MIB:2 * MIB + 65536] == bytes(65536)
    assert data[513 << 10:518 << 10] == b"\2" * (5 << 10)
    assert data[5 * MIB:5 * MIB + 12800] == b"\4" * 12800
    assert data[15 * MIB:] == b"\3" * MIB
    done = run_io(server.uri(), "read 16M 512")
    assert done.returncode == 1


def test_long_requests_are_split(serve, tmp_path):
    path = tmp_path / "d"
    with open(path, "wb") as f:
        f.truncate(64 * MIB)
    server = serve(path)
    io(server.uri(), "write -P 5 1M 40M", "read -P 5 1M 40M",
       "write -z 3M 35M", "read -P 0 3M 35M", "read -P 5 38M 3M")


def test_an_export_keeps_its_size(serve, raw, tmp_path):
    server = serve(raw)
    both(tmp_path, "create", "-f", "raw", server.uri(), "32M")
    both(tmp_path, "resize", "-f", "raw", server.uri(), "32M")
    both(tmp_path, "resize", "-f", "raw", "--shrink", server.uri(), "8M")


def test_read_only_export(serve, raw, start):
    server = serve(raw, "-r")
    done = run_io(server.uri(), "read 0 4k")
    assert done.returncode == 1
    assert done.stderr == (f"varve-io: can't open device {server.uri()}: "
                           "Export is read-only\n")
    io(server.uri(), "read -P 1 0 4k", flags=["-r", "-f", "raw"])
    daemon = start(Varved)
    add(daemon, server, auto_read_only=True)
    node, = daemon.command("query-named-block-nodes")
    assert node["ro"]
    assert daemon.call("blockdev-reopen", options=[
        {"driver": "nbd", "node-name": "n", **server.options_of_server()}
    ])["error"]["desc"] == "Export is read-only"


# ---- names -------------------------------------------------------------------

def test_names_mean_what_they_mean_elsewhere(serve, raw, tmp_path):
    server = serve(raw, "-x", "e x")
    path = server.path
    tcp = serve(raw, "-x", "exp", path=None)
    port = tcp.port
    for name in (f"nbd:unix:{path}:exportname=e x",
                 f"nbd+unix:///e%20x?socket={path}",
                 f"nbd://localhost:{port}/exp", f"nbd://127.0.0.1:{port}//exp",
                 f"nbd:127.0.0.1:{port}:exportname=exp",
                 f"nbd+tcp://u@127.0.0.1:{port}/exp",
                 f"nbd://127.0.0.1:{port}/", f"nbd://127.0.0.1:{port}/nope",
                 f"nbd+unix:///?socket={path}", f"nbd:unix:{tmp_path}/none",
                 "nbd:127.0.0.1", "nbd:", "nbd:unix", "nbd:[::1", "nbd://a:b:c",
                 "nbd://", f"nbd://127.0.0.1:{port}/exp?a=b", "nbd+unix:///e",
                 f"nbd+unix://host/e?socket={path}", "nbd+foo://x/",
                 "nbd://127.0.0.1:1", "nbd:[::1]:1", "nbd:127.0.0.1:port",
                 f"nbd:unix:/{'a' * 200}", f"nbd:unix:{path}:exportname=" +
                 "a" * 5000):
        both(tmp_path, "info", name)


def test_options_mean_what_they_mean_elsewhere(serve, raw, tmp_path):
    server = serve(raw, "-x", "exp")
    path = server.path
    for text in (f"driver=nbd,path={path},export=exp", "driver=nbd",
                 f"driver=nbd,server.type=unix,server.path={path},export=exp",
                 f"driver=raw,file.driver=nbd,file.path={path},file.export=exp",
                 f"driver=nbd,path={path},host=x", "driver=nbd,port=1",
                 f"driver=nbd,path={path},server.type=unix,server.path=x",
                 f"driver=nbd,path={path},export=exp,bogus=1",
                 f"driver=nbd,path={path},export=exp,reconnect-delay=7",
                 f"driver=nbd,path={path},export=exp,tls-creds=t",
                 "driver=nbd,server.type=fd,server.str=999",
                 "driver=nbd,host=127.0.0.1,port=1",
                 "driver=nbd,server.type=vsock,server.cid=x,server.port=7"):
        both(tmp_path, "info", "--image-opts", text)
    for options in ({"path": path}, {"server.type": "unix",
                                     "server.path": path},
                    {"server": {"type": "unix", "path": path}}):
        both(tmp_path, "info", "json:" + json.dumps(
            {"driver": "nbd", "export": "exp", **options}))


# ---- the image tools ---------------------------------------------------------

def test_sources_of_the_image_tools(serve, raw, tmp_path):
    server = serve(raw)
    uri = server.uri()
    for args in (["map", uri], ["map", "--output=json", uri],
                 ["info", "--output=json", uri],
                 ["measure", "-O", "qcow2", uri], ["compare", uri, raw],
                 ["dd", f"if={uri}", "of=dd", "bs=64k", "skip=127", "count=2"]):
        both(tmp_path, *args)
    for fmt in ("raw", "qcow2"):
        run("varve-img", tmp_path, "convert", "-O", fmt, uri, "out", check=0)
        images.assert_equal(raw, tmp_path / "out", b_format=fmt)


def test_a_qcow2_image_behind_a_server(serve, raw, tmp_path):
    path = tmp_path / "d"
    with open(path, "wb") as f:
        f.truncate(32 * MIB)
    server = serve(path)
    uri = server.uri()
    run("varve-img", tmp_path, "create", "-f", "qcow2", uri, "16M", check=0)
    run("varve-img", tmp_path, "convert", "-n", "-O", "qcow2", raw, uri,
        check=0)
    for args in (["info", "--output=json", uri], ["check", uri],
                 ["compare", uri, raw], ["map", "--output=json", uri]):
        both(tmp_path, *args)


def test_a_converted_target_stays_sparse(serve, raw, tmp_path):
    holes = []
    for name in NAMES:
        target = tmp_path / name
        target.write_bytes(b"\7" * SIZE)
        server = serve(target, "--discard=unmap")
        run(name, tmp_path, "convert", "-n", "-O", "raw", raw, server.uri(),
            check=0)
        server.close()
        images.assert_equal(raw, target, b_format="raw")
        holes.append(run("qemu-img", tmp_path, "map", "-f", "raw",
                         "--output=json", target, check=0).stdout)
    assert holes[0] == holes[1]
    assert (tmp_path / "varve-img").stat().st_blocks * 512 < 2 * MIB


# ---- the daemon --------------------------------------------------------------

def test_backup_to_a_server(serve, raw, start, tmp_path):
    target = empty(tmp_path / "target")
    behind = start(Oracle, "--blockdev", f"file,filename={target},node-name=t",
                   "--nbd-server", "addr.type=unix,addr.path=nbd",
                   "--export", "nbd,id=e,node-name=t,name=t,writable=on")
    daemon = start(Varved, "--blockdev", f"file,filename={raw},node-name=d")
    daemon.command("blockdev-add", driver="nbd", node_name="t", export="t",
                   server={"type": "unix", "path": behind.path("nbd")})
    daemon.command("blockdev-backup", job_id="j", device="d", target="t",
                   sync="full")
    daemon.qmp.wait_event("BLOCK_JOB_COMPLETED")
    daemon.command("blockdev-del", node_name="t")
    behind.stop()
    images.assert_equal(raw, target, b_format="raw")


def test_the_same_queries_as_elsewhere(serve, raw, pair):
    server = serve(raw, "-x", "e")
    said = []
    for daemon in pair:
        add(daemon, server, export="e")
        node, = daemon.command("query-named-block-nodes")
        node.pop("x-engine", None)
        said.append(node)
        daemon.command("blockdev-del", node_name="n")
    assert said[0] == said[1]


def test_a_bitmap_is_shown_as_holes(serve, start, tmp_path):
    path = tmp_path / "d.qcow2"
    images.create(path, SIZE)
    images.qemu_img("bitmap", "--add", "-g", "64k", path, "b")
    subprocess.run([program("qemu-io"), "-c", "write 1M 64k", "-c",
                    "write 5M 1M", path], check=True,
                   stdout=subprocess.DEVNULL)
    server = serve(path, "-B", "b", image_format="qcow2")
    context = "qemu:dirty-bitmap:b"
    out = both(tmp_path, "map", "--output=json", "--image-opts",
               f"driver=nbd,path={server.path},x-dirty-bitmap={context}")[1]
    assert [(e["start"], e["length"]) for e in out if not e["data"]] == [
        (MIB, 65536), (5 * MIB, MIB)]
    done = run("varve-img", tmp_path, "info", "--image-opts",
               f"driver=nbd,path={server.path},x-dirty-bitmap=no:such", check=1)
    assert done.stderr.endswith(": Server has no metadata context 'no:such'\n")


def test_a_node_moves_between_threads(serve, raw, start):
    server = serve(raw)
    daemon = start(Varved, "--object", "iothread,id=i")
    add(daemon, server)
    for _ in range(3):
        daemon.command("block-export-add", id="e", type="vhost-user-blk",
                       node_name="n", iothread="i", writable=True,
                       addr={"type": "unix", "path": daemon.path("s")})
        assert qemu_io(daemon, "n", "write -P 5 1M 64k").startswith("wrote")
        daemon.command("block-export-del", id="e")
        daemon.qmp.wait_event("BLOCK_EXPORT_DELETED")
        assert qemu_io(daemon, "n", "read -P 5 1M 64k").startswith("read")
    daemon.command("blockdev-del", node_name="n")


# ---- a server that goes and comes --------------------------------------------

def aside(daemon, *args):
    """qemu_io() in a thread, on another connection; the answer, called, waits
    for it."""
    said = []
    session = daemon.connect(socket=1)
    thread = threading.Thread(target=lambda: said.append(
        qemu_io(session, *args)))
    thread.start()

    def answer():
        thread.join(TIMEOUT)
        return said[0]
    return answer


class Pausing(NbdScript):
    """Tells what arrives, and does nothing about what comes while `held`."""

    def __init__(self, path):
        self.held, self.arrived = False, queue.Queue()
        super().__init__(path, SIZE)

    def answer(self, conn, request):
        held = self.held  # before the test knows of it, and changes that
        self.arrived.put(request)
        if not held:
            super().answer(conn, request)


@pytest.fixture
def pausing(tmp_path):
    with Pausing(str(tmp_path / "p")) as server:
        yield server


def test_a_lost_server_fails_requests_until_it_is_back(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing)
    pausing.held = True
    answer = aside(daemon, "n", "write -P 3 2M 64k")
    assert pausing.arrived.get(timeout=TIMEOUT).offset == 2 * MIB
    pausing.close()
    assert answer() == "write failed: Input/output error\n"
    assert qemu_io(daemon, "n", "read 0 4k") == \
        "read failed: Input/output error\n"
    pausing.held = False
    pausing.open()
    eventually(lambda: qemu_io(daemon, "n", "read -P 0 2M 4k").startswith(
        "read 4096/4096"))
    daemon.command("blockdev-del", node_name="n")


def test_requests_wait_for_the_server_and_are_done_anew(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing, reconnect_delay=60)
    pausing.held = True
    answer = aside(daemon, "n", "write -P 3 2M 64k")
    pausing.arrived.get(timeout=TIMEOUT)
    pausing.close()
    pausing.held = False
    pausing.open()
    assert answer().startswith("wrote 65536/65536")
    assert pausing.data[2 * MIB:2 * MIB + 65536] == b"\3" * 65536
    assert qemu_io(daemon, "n", "read -P 3 2M 64k").startswith("read")
    daemon.command("blockdev-del", node_name="n")


def test_patience_ends(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing, reconnect_delay=1)
    pausing.close()
    assert qemu_io(daemon, "n", "write 0 4k") == \
        "write failed: Input/output error\n"
    daemon.command("blockdev-del", node_name="n")


def test_a_move_waits_for_the_server(pausing, start):
    daemon = start(Varved, "--object", "iothread,id=i")
    add(daemon, pausing, reconnect_delay=60)
    pausing.close()
    answer = aside(daemon, "n", "write -P 3 2M 64k")
    daemon.qmp.send({"execute": "block-export-add", "arguments": {
        "id": "e", "type": "vhost-user-blk", "node-name": "n", "iothread": "i",
        "addr": {"type": "unix", "path": daemon.path("s")}}})
    pausing.open()
    assert daemon.qmp.answer() == {"return": {}}
    assert answer().startswith("wrote 65536/65536")
    assert qemu_io(daemon, "n", "read -P 3 2M 64k").startswith("read")


def test_the_end_waits_for_no_server_to_come_back(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing, reconnect_delay=3600)
    pausing.held = True
    daemon.connect(socket=1).send({
        "execute": "human-monitor-command",
        "arguments": {"command-line": 'qemu-io n "write 0 4k"'}})
    pausing.arrived.get(timeout=TIMEOUT)
    pausing.close()
    daemon.terminate()


def test_the_end_waits_for_no_server_that_goes_meanwhile(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing, reconnect_delay=3600)
    pausing.held = True
    daemon.connect(socket=1).send({
        "execute": "human-monitor-command",
        "arguments": {"command-line": 'qemu-io n "write 0 4k"'}})
    pausing.arrived.get(timeout=TIMEOUT)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.qmp.wait_event("SHUTDOWN")
    time.sleep(0.1)  # a head start for giving up; else it passes anyhow
    pausing.close()
    daemon.wait()
    daemon.check_end(0)


def test_the_end_waits_for_no_server_that_says_nothing(start, tmp_path):
    path = str(tmp_path / "s")
    daemon = start(Varved)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen(1)
        silent.settimeout(TIMEOUT)
        daemon.qmp.send({"execute": "blockdev-add", "arguments": {
            "driver": "nbd", "node-name": "m",
            "server": {"type": "unix", "path": path}}})
        with silent.accept()[0]:
            daemon.terminate()


def test_another_export_is_not_the_same_disk(pausing, start):
    daemon = start(Varved)
    add(daemon, pausing)
    pausing.close()
    pausing.data = pausing.data[:8 * MIB]
    pausing.open()
    assert qemu_io(daemon, "n", "read 0 4k") == \
        "read failed: Input/output error\n"
    assert "Export has 8388608 bytes now, and had 16777216" in daemon.stderr()


def test_open_waits_for_a_server_that_comes(tmp_path):
    path = str(tmp_path / "s")
    done = run_io(f"driver=nbd,path={path},open-timeout=1", "read 0 4k",
                  flags=["--image-opts"])
    assert "Failed to connect" in done.stderr
    later = threading.Timer(0.2, lambda: NbdScript(path, SIZE))
    later.start()
    io(f"driver=nbd,path={path},open-timeout=60", "read -P 0 0 4k",
       flags=["--image-opts"])


def test_a_socket_that_was_given(tmp_path, raw):
    with NbdScript(str(tmp_path / "s"), SIZE) as server:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(server.path)
            done = subprocess.run(
                [program("varve-io"), "-c", "read -P 0 0 64k", "--image-opts",
                 f"driver=nbd,server.type=fd,server.str={client.fileno()}"],
                pass_fds=[client.fileno()], capture_output=True, text=True,
                timeout=TIMEOUT)
    assert done.returncode == 0 and "failed" not in done.stdout, done.stderr


# ---- a server that breaks the rules ------------------------------------------

def refused(path, options=""):
    """What varve-io says of a server that cannot be used."""
    done = run_io(f"driver=nbd,path={path}{options}", "read 0 4k",
                  flags=["--image-opts"])
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stdout + done.stderr


@pytest.mark.parametrize("size, blocks, said", [
    (1 << 63, (1, 4096, 1 << 25), "Export is too large"),
    ((1 << 63) - 512, (1, 4096, 1 << 25), "Export is too large"),
    (SIZE + 1, (512, 4096, 1 << 25), "Export length 16777217 is not a multiple "
                                     "of the minimum block size 512"),
])
def test_sizes_that_make_no_sense(tmp_path, size, blocks, said):
    path = str(tmp_path / "s")
    with NbdScript(path, SIZE, shown=size, blocks=blocks):
        assert said in refused(path)


@pytest.mark.parametrize("greeting", [b"", b"NBDMAGIC", b"x" * 65536,
                                      b"NBDMAGICIHAVEOPT\0\3" + b"y" * 4096],
                         ids=["nothing", "half", "noise", "odd options"])
def test_a_greeting_that_makes_no_sense(tmp_path, greeting):
    class Odd(NbdScript):
        def negotiate(self, conn):
            conn.sendall(greeting)
            return False
    path = str(tmp_path / "s")
    with Odd(path, SIZE):
        assert "handshake failed" in refused(path)


def test_a_server_that_says_nothing(tmp_path):
    class Silent(NbdScript):
        def negotiate(self, conn):
            conn.recv(1)
            return False
    path = str(tmp_path / "s")
    with Silent(path, SIZE):
        assert "does not answer" in refused(path, ",open-timeout=1")


def extents(*pairs):
    class Telling(NbdScript):
        def status(self, request):
            return [n for pair in pairs for n in pair]
    return Telling


@pytest.mark.parametrize("pairs, expected", [
    # To its end, and not beyond what was asked.
    ([(MIB, 3), (1 << 31, 0)], [(0, MIB, False), (MIB, 15 * MIB, True)]),
    # Bits that the context does not have.
    ([(SIZE, 0x80000000)], [(0, SIZE, True)]),
    # Within a block of the server: that block is data.
    ([(MIB + 1, 3), (SIZE, 0)], None),
])
def test_extents_are_believed_as_far_as_they_go(tmp_path, pairs, expected):
    path = str(tmp_path / "s")
    with extents(*pairs)(path, SIZE, blocks=(512, 4096, 1 << 25)):
        out = json.loads(run("varve-img", tmp_path, "map", "--output=json",
                             f"nbd:unix:{path}", check=0).stdout)
        got = [(e["start"], e["length"], e["data"]) for e in out]
        if expected:
            assert got == expected
        assert sum(e["length"] for e in out) == SIZE


def test_one_answer_serves_a_walk_over_the_disk(tmp_path):
    class Counting(NbdScript):
        asked = []

        def status(self, request):
            self.asked.append(request.offset)
            return [n for i in range(SIZE >> 17) for n in (65536, 0, 65536, 3)]
    path = str(tmp_path / "s")
    with Counting(path, SIZE) as server:
        out = json.loads(run("varve-img", tmp_path, "map", "--output=json",
                             f"nbd:unix:{path}", check=0).stdout)
        assert len(out) == SIZE >> 16
        assert server.asked == [0]
        # A second walk believes nothing that the first one heard.
        io(f"nbd:unix:{path}", "map", "write 0 4k", "map")
        assert server.asked == [0, 0, 0]


@pytest.mark.parametrize("pairs", [[(0, 3)], []])
def test_extents_of_nothing_are_an_error(tmp_path, pairs):
    path = str(tmp_path / "s")
    with extents(*pairs)(path, SIZE):
        done = run("varve-img", tmp_path, "map", f"nbd:unix:{path}", check=1)
        assert "error" in done.stderr


def test_replies_to_something_else_end_the_connection(tmp_path):
    class Confused(NbdScript):
        def answer(self, conn, request):
            super().answer(conn, request._replace(cookie=12345))
    path = str(tmp_path / "s")
    with Confused(path, SIZE):
        assert "Input/output error" in refused(path)


def test_errors_of_the_server_are_passed_on(tmp_path):
    class Full(NbdScript):
        def perform(self, request):
            return 28 if request.type == self.WRITE else \
                super().perform(request)
    path = str(tmp_path / "s")
    with Full(path, SIZE):
        done = run_io(f"nbd:unix:{path}", "write 0 4k")
        assert "write failed: No space left on device" in \
            done.stdout + done.stderr
        io(f"nbd:unix:{path}", "read -P 0 0 4k")


def test_programs_start_without_the_library():
    for name in ("varved", "varve-img", "varve-io"):
        done = subprocess.run(["ldd", program(name)], capture_output=True,
                              text=True, check=True)
        assert "libglib" in done.stdout
        assert "nbd" not in done.stdout

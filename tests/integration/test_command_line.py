"""The command line of varved: what it makes, and what it refuses in which words.
"""
import os
import re
import select
import signal
import socket
import subprocess

import pytest

from lib import Oracle, Qmp, SystemOracle, Varved, program
from lib.qmp import TIMEOUT

ENV = dict(os.environ, LC_ALL="C.UTF-8")


def run(name, directory, args, timeout=TIMEOUT):
    r = subprocess.run([program(name), *args], cwd=directory,
                       stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=timeout, env=ENV)
    return r.stdout, \
        re.sub(rf"\S*{name}(?=: )", "{daemon}", r.stderr), r.returncode


@pytest.fixture
def place(tmp_path):
    with open(tmp_path / "a.raw", "wb") as f:
        f.truncate(1 << 20)
    return tmp_path


STORAGE_DAEMON = [
    ["--nonsense"],
    ["word"],
    ["--blockdev"],
    ["--pidfile"],
    ["--blockdev", "nonsense"],
    ["--blockdev", "driver=nonsense"],
    ["--blockdev", "driver=file,filename=/missing,node-name=a"],
    ["--blockdev", "driver=file,filename=a.raw"],
    ["--blockdev", '{"driver":"file"'],
    ["--blockdev", '{"driver":"file"}'],
    ["--blockdev", "null-co,node-name=a", "--blockdev", "null-co,node-name=a"],
    ["--blockdev", "null-co,node-name=a,nonsense=1"],
    ["--blockdev=null-co,node-name=a,nonsense=1"],
    ["--blockdev", "help"],
    ["--chardev", "nonsense,id=a"],
    ["--chardev", "socket"],
    ["--chardev", "socket,id=1a,path=x"],
    ["--chardev", "socket,id=a,path=s,server=maybe"],
    ["--chardev", "socket,id=a,path=x,nonsense=1"],
    ["--chardev", "socket,id=a,host=127.0.0.1"],
    ["--chardev", "stdio,id=a", "--chardev", "stdio,id=b"],
    ["--monitor", "nonsense"],
    ["--monitor", "chardev=nonsense"],
    ["--monitor", "chardev=nonsense,mode=nonsense"],
    ["--chardev", "socket,id=a,path=s,server=on,wait=off",
     "--monitor", "chardev=a", "--monitor", "chardev=a"],
    ["--chardev", "socket,id=a,path=/missing/s,server=on,wait=off",
     "--monitor", "chardev=a"],
    ["--object", "nonsense,id=a"],
    ["--object", "iothread"],
    ["--object", "iothread,id=a,nonsense=1"],
    ["--pidfile", "/missing/x"],
]


@pytest.mark.parametrize("args", STORAGE_DAEMON, ids=" ".join)
def test_errors_are_those_of_the_storage_daemon(place, args):
    ours = run("varved", place, args)
    theirs = run("qemu-storage-daemon", place, args)
    assert ours[1:] == theirs[1:]


RAW = "file=a.raw,format=raw,if=none"
SYSTEM = [
    ["-nonsense"],
    ["-drive"],
    ["-device"],
    ["-drive", "nonsense=1"],
    ["-drive", "file=missing,format=raw"],
    ["-drive", RAW + ",id=1x"],
    ["-drive", "file=a.raw,format=raw,if=nonsense"],
    ["-drive", "file=a.raw,format=raw,if=ide"],
    ["-drive", RAW + ",werror=nonsense"],
    ["-drive", RAW + ",rerror=enospc"],
    ["-drive", RAW + ",cache=nonsense"],
    ["-drive", RAW + ",aio=nonsense"],
    ["-drive", RAW + ",aio=native"],
    ["-drive", RAW + ",discard=nonsense"],
    ["-drive", RAW + ",read-only=nonsense"],
    ["-drive", RAW + ",cache.direct=nonsense"],
    ["-drive", RAW + ",media=nonsense"],
    ["-drive", RAW + ",driver=raw"],
    ["-drive", RAW + ",nonsense=1"],
    ["-drive", RAW + ",nonsense.a=1"],
    ["-drive", RAW + ",file.nonsense=1"],
    ["-drive", "driver=raw,file.filename=a.raw,if=none,nonsense=1"],
    ["-drive", "driver=null-co,if=none,nonsense=1"],
    ["-drive", "driver=raw,file.driver=blkdebug,file.image.driver=null-co,"
     "if=none,file.nonsense=1"],
    ["-drive", "file=a.raw,format=nonsense,if=none"],
    ["-drive", "id=e,if=none,format=raw"],
    ["-drive", RAW + ",id=a", "-drive", RAW + ",id=a"],
    ["-drive", RAW + ",id=a,node-name=a"],
    ["-device", "nonsense"],
    ["-qmp", "nonsense"],
    ["-qmp", "tcp:nonsense"],
    ["-qmp", "unix:/missing/x,server=on,wait=off"],
    ["-mon", "nonsense"],
    ["-mon", "chardev=nonsense"],
    ["-mon", "chardev=nonsense,mode=nonsense"],
    ["-blockdev", "nonsense"],
    ["-object", "nonsense,id=x"],
    ["-pidfile", "/missing/x"],
    ["-S", "-nonsense"],
]


@pytest.mark.parametrize("args", SYSTEM, ids=" ".join)
def test_errors_are_those_of_the_emulator(place, args):
    ours = run("varved", place, args)
    theirs = run("qemu-system-x86_64", place,
                 ["-machine", "none", "-nodefaults", "-display", "none", *args])
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("args, word", [
    (["--nbd-server", "addr.type=inet"], "--nbd-server"),
    (["--export", "type=nbd,id=a"], "--export"),
    (["--trace", "x"], "--trace"),
    (["-T", "x"], "-T"),
    (["-drive", RAW + ",copy-on-read=on"], "copy-on-read"),
    (["-drive", RAW + ",snapshot=on"], "snapshot"),
    (["-drive", RAW + ",file.locking=nonsense"], "locking"),
    (["-drive", RAW + ",detect-zeroes=nonsense"], "detect-zeroes"),
    (["-device", "virtio-blk,drive=nonsense"], "nonsense"),
    (["-device", "virtio-blk,nonsense=1"], "nonsense"),
    (["-device", "virtio-blk"], "drive"),
    (["--chardev", "socket,id=a"], "path"),
    (["--chardev", "socket,id=a,path=x,host=y"], "host"),
    (["--chardev", "socket,id=a,path=x,telnet=on"], "telnet"),
    (["-monitor", "stdio"], "stdio"),
    (["-qmp", ""], "-qmp"),
    (["-device", ""], "-device"),
    (["--chardev", ""], "--chardev"),
    (["--monitor", ""], "--monitor"),
    (["--blockdev", ""], "--blockdev"),
    (["--object", ""], "--object"),
    (["--S=1"], "--S"),
    (["-"], "-"),
    (["--"], "--"),
], ids=lambda v: " ".join(v) if isinstance(v, list) else v)
def test_refused_by_name(place, args, word):
    out, err, status = run("varved", place, args)
    assert status == 1 and out == ""
    assert err.startswith("{daemon}: ") and word in err, err


@pytest.mark.parametrize("args, words", [
    (["--help"], ["usage: ", "--blockdev", "-drive", "example"]),
    (["-h"], ["usage: "]),
    (["-V"], ["version"]),
    (["--version"], ["version"]),
    (["-machine", "help"], ["none"]),
    (["-M", "help"], ["none"]),
    (["-device", "help"], ["virtio-blk"]),
    (["-device", "virtio-blk,help"], ["num-queues"]),
    (["-drive", "format=help"], ["Supported formats:", " raw", " qcow2"]),
    (["-object", "help"], ["iothread"]),
    (["-chardev", "help"], ["socket", "stdio"]),
], ids=lambda v: " ".join(v))
def test_questions_are_answered(place, args, words):
    out, err, status = run("varved", place, args)
    assert status == 0 and err == ""
    for word in words:
        assert word in out


# ---- what it makes ----


def test_machine_options_do_nothing(start, place):
    daemon = start(Varved, "-machine", "q35,accel=kvm", "-M", "none", "-accel",
                   "tcg", "-cpu", "host", "-smp", "4", "-m", "1G",
                   "-nodefaults", "-nographic", "-display", "none", "-vga",
                   "none", "-serial", "none", "-monitor", "none", "-parallel",
                   "none", "-name", "guest", "-no-reboot", "-no-shutdown",
                   "-nic", "none", "-enable-kvm", "-uuid",
                   "00000000-0000-0000-0000-000000000000", "-rtc", "base=utc",
                   "-boot", "c", "-no-user-config", "-msg", "timestamp=on")
    assert daemon.command("query-block") == []


def test_blockdevs_are_nodes_in_order(start, place):
    daemon = start(Varved,
                   "--blockdev", f"file,node-name=f,filename={place}/a.raw",
                   "--blockdev", "raw,node-name=r,file=f",
                   "--blockdev", '{"driver":"null-co","node-name":"n"}')
    names = [n["node-name"]
             for n in daemon.command("query-named-block-nodes")]
    assert sorted(names) == ["f", "n", "r"]
    daemon.command("blockdev-del", node_name="r")
    daemon.command("blockdev-del", node_name="f")


def test_objects(start):
    daemon = start(Varved, "--object", "iothread,id=t0", "-object",
                   '{"qom-type":"iothread","id":"t1"}')
    assert {t["id"] for t in daemon.command("query-iothreads")} == {"t0", "t1"}


def inserted(daemon):
    return {b["device"]: b.get("inserted")
            for b in daemon.command("query-block")}


DRIVES = [
    "file={place}/a.raw,format=raw,if=none,id=d",
    "file={place}/a.raw,format=raw,if=none,id=d,readonly=on",
    "file={place}/a.raw,format=raw,if=none,id=d,read-only=on",
    "file={place}/a.raw,format=raw,if=none,id=d,cache=none",
    "file={place}/a.raw,format=raw,if=none,id=d,cache=unsafe",
    "file={place}/a.raw,format=raw,if=none,id=d,cache=directsync",
    "file={place}/a.raw,format=raw,if=none,id=d,cache=writethrough",
    "file={place}/a.raw,format=raw,if=none,id=d,cache=none,aio=native",
    "file={place}/a.raw,format=raw,if=none,id=d,cache.direct=on",
    "file={place}/a.raw,format=raw,if=none,id=d,detect-zeroes=on",
    "file={place}/a.raw,format=raw,if=none,id=d,discard=unmap,"
    "detect-zeroes=unmap",
    "file={place}/a.raw,format=raw,if=none,id=d,node-name=n",
    "file={place}/a.raw,format=raw,if=none,id=d,media=cdrom",
    "file={place}/a.raw,format=raw,if=none,id=d,offset=64k,size=512k",
    "file={place}/q.qcow2,if=none,id=d",
    "file={place}/q.qcow2,format=qcow2,if=none,id=d,l2-cache-size=1M",
    "file={place}/o.qcow2,if=none,id=d",
    "file.filename={place}/a.raw,driver=raw,if=none,id=d",
    "file.driver=file,file.filename={place}/a.raw,format=raw,if=none,id=d",
    "driver=null-co,size=1M,read-zeroes=on,if=none,id=d",
    "file=null-co://,format=raw,if=none,id=d",
    "if=none,id=d",
    "file=,if=none,id=d,werror=stop",
    "file={place}/a.raw,format=raw,if=none",
]


@pytest.fixture
def images(place):
    for args in (["q.qcow2", "2M"],
                 ["-b", "q.qcow2", "-F", "qcow2", "o.qcow2"]):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args],
                       cwd=place, check=True)
    return place


def facts(info):
    """What of query-block depends on -drive alone."""
    if info is None:
        return None
    image = info["image"]
    # Which order and types the members have there is not said anywhere.
    info["file"] = re.sub(r"^json:.*", "json:", info["file"])
    return {"drv": info["drv"], "ro": info["ro"], "cache": info["cache"],
            "detect_zeroes": info["detect_zeroes"], "file": info["file"],
            "named": info["node-name"].lstrip("#")[:1] if
            info["node-name"][0] != "#" else "#",
            "depth": info["backing_file_depth"],
            "size": image["virtual-size"]}


@pytest.mark.parametrize("text", DRIVES)
def test_drive_means_what_it_means_to_the_emulator(start, images, text):
    text = text.format(place=images)
    said = []
    for kind in (Varved, SystemOracle):
        daemon = start(kind, "-drive", text)
        blocks = {name: facts(info)
                  for name, info in inserted(daemon).items()}
        said.append(blocks)
        daemon.stop()
    assert said[0] == said[1]


def test_drive_with_if_virtio_is_a_disk(start, place):
    daemon = start(Varved, "-drive",
                   f"file={place}/a.raw,format=raw,id=drive0,if=virtio")
    block, = daemon.command("query-block")
    assert block["device"] == "drive0" and block["io-status"] == "ok"
    daemon.terminate()


def test_device_may_stand_before_its_drive(start, place):
    daemon = start(Varved, "-device", "virtio-blk-pci,drive=drive0,id=disk0,"
                   "num-queues=2", "-drive",
                   f"file={place}/a.raw,format=raw,id=drive0,if=none")
    block, = daemon.command("query-block")
    assert "disk0" in block["qdev"]


@pytest.mark.parametrize("args, status", [([], "running"),
                                          (["-S"], "prelaunch")])
def test_guest_waits_if_asked_to(start, args, status):
    assert start(Varved, *args).command("query-status")["status"] == status


# ---- monitors ----


@pytest.mark.parametrize("args", [
    ["-qmp", "unix:x.sock,server=on,wait=off"],
    ["-qmp", "unix:x.sock,server,nowait"],
    ["-qmp-pretty", "unix:x.sock,server=on,wait=off"],
    ["-mon", "chardev=c,mode=control",
     "-chardev", "socket,id=c,path=x.sock,server=on,wait=off"],
    ["--chardev", "socket,id=c,path=x.sock,server=on,wait=off",
     "--monitor", "c"],
    ["--chardev=socket,id=c,path=x.sock,server=on,wait=off",
     "--monitor=chardev=c,mode=control,pretty=on"],
    ["-chardev", "socket,id=c,path=x.sock,server=on,wait=off",
     "-qmp", "chardev:c"],
], ids=" ".join)
def test_spellings_of_a_monitor(start, args):
    daemon = start(Varved, *args)
    session = socket.socket(socket.AF_UNIX)
    session.connect(daemon.path("x.sock"))
    assert b"QMP" in session.recv(4096)
    session.close()
    daemon.stop()
    assert not os.path.exists(daemon.path("x.sock"))


def test_monitor_on_tcp(start, port):
    start(Varved, "-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off")
    Qmp(("127.0.0.1", port)).close()


def test_monitor_as_client(start, tmp_path):
    path = str(tmp_path / "listen.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        start(Varved, "-qmp", f"unix:{path}")
        client = server.accept()[0]
        assert b"QMP" in client.recv(4096)
        client.close()


def test_monitor_on_stdio(place):
    r = subprocess.run([program("varved"), "-qmp", "stdio"], cwd=place,
                       input='{"execute":"qmp_capabilities"}'
                       '{"execute":"quit"}\n', capture_output=True, text=True,
                       timeout=TIMEOUT, env=ENV)
    assert r.returncode == 0 and r.stderr == ""
    assert '"SHUTDOWN"' in r.stdout


# ---- the end ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT,
                                    signal.SIGHUP])
def test_signals_end_it_well(start, place, number):
    daemon = start(Varved, "-drive",
                   f"file={place}/a.raw,format=raw,id=d,if=virtio",
                   "--blockdev", "null-co,node-name=n")
    daemon.process.send_signal(number)
    event = daemon.qmp.wait_event("SHUTDOWN")
    assert event["data"] == {"guest": False, "reason": "host-signal"}
    daemon.wait()
    daemon.check_end(0)
    assert not os.path.exists(daemon.sockets[0])


def test_quit_says_why(start):
    daemon = start(Varved)
    daemon.qmp.send({"execute": "quit"})
    event = daemon.qmp.wait_event("SHUTDOWN") if not daemon.qmp.answer() \
        else daemon.qmp.wait_event("SHUTDOWN")
    assert event["data"]["reason"] == "host-qmp-quit"
    daemon.wait()
    daemon.check_end(0)


def test_pidfile_is_there_while_it_runs(start, tmp_path):
    path = tmp_path / "pid"
    daemon = start(Varved, "--pidfile", str(path))
    assert int(path.read_text()) == daemon.process.pid
    out, err, status = run("varved", tmp_path, ["--pidfile", str(path)])
    assert (err, status) == (
        "{daemon}: cannot create PID file: Cannot lock pid file: "
        "Resource temporarily unavailable\n", 1)
    daemon.stop()
    assert not path.exists()


def test_daemonize(place):
    args = ["--daemonize", "--pidfile", "pid", "-qmp",
            "unix:x.sock,server=on,wait=off",
            "--blockdev", "file,filename=a.raw,node-name=f"]
    out, err, status = run("varved", place, args)
    assert (out, err, status) == ("", "", 0)
    pid = int((place / "pid").read_text())
    handle = os.pidfd_open(pid)
    try:
        session = Qmp(str(place / "x.sock"))
        assert session.command("query-named-block-nodes")
        session.send({"execute": "quit"})
        assert select.select([handle], [], [], TIMEOUT)[0], "it does not end"
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(handle)
    assert os.listdir(place) == ["a.raw"]


def test_daemonize_reports_failure(place):
    out, err, status = run("varved", place, [
        "--daemonize", "--blockdev", "file,filename=missing,node-name=f"])
    assert status == 1 and "Could not open 'missing'" in err


def test_a_failed_start_leaves_nothing_behind(place):
    out, err, status = run("varved", place, [
        "-qmp", "unix:x.sock,server=on,wait=off",
        "--blockdev", "null-co,node-name=n",
        "-drive", f"{RAW},id=d", "-device", "virtio-blk,drive=d",
        "--blockdev", "file,filename=missing,node-name=f"])
    assert status == 1 and "missing" in err
    assert not (place / "x.sock").exists()


def test_oracle_has_the_same_order(start):
    """A node must exist before it is used, as with the storage daemon."""
    args = ["--blockdev", "raw,file=n,node-name=r",
            "--blockdev", "null-co,node-name=n"]
    for kind in (Varved, Oracle):
        status = subprocess.run([program(kind.name), *args],
                                stdin=subprocess.DEVNULL, timeout=TIMEOUT,
                                capture_output=True).returncode
        assert status == 1

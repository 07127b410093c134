"""The line of the monitor for people that scripts use: qemu-io."""
import pytest

from lib import SystemOracle, Varved, same_conversation

MIB = 1 << 20


def human(line):
    return ("human-monitor-command", {"command-line": line})


@pytest.fixture
def daemons(start):
    made = []
    for kind in (Varved, SystemOracle):
        daemon = start.prepare(kind)
        with open(daemon.path("disk.img"), "wb") as f:
            f.truncate(MIB)
        daemon.args += ["-drive", "file=disk.img,format=raw,if=none,id=drive0,"
                        "node-name=n0", "-drive", "file=disk.img,format=raw,"
                        "if=none,id=ro,readonly=on,file.locking=off"]
        made.append(daemon.start())
    return made


def test_lines_that_say_something(daemons):
    """The answers are the peer's but for line ends."""
    def say(line):
        def step(daemon):
            return daemon.command(*human(line)).replace("\r", "")
        step.__name__ = line
        return step
    same_conversation(*daemons, [say(line) for line in (
        "", "  ", "nosuch", "nosuch 1 2", "# no", "qemu-io", "qemu-io drive0",
        "qemu-io -d", "qemu-io -x drive0 length", "qemu-io -d nobody flush",
        "qemu-io nobody flush", "qemu-io drive0 flush twice", "qemu-iox a b",
        'qemu-io drive0 "flush', 'qemu-io "drive0', 'qemu-io drive0 ""',
        'qemu-io drive0 "a\\ b"', 'qemu-io drive0 "flush" "flush"',
        'qemu-io drive0 "reopen -c x"',
        'qemu-io ro "write 0 512"', 'qemu-io "ro" "reopen -r"')])


def test_help_is_there_where_it_is_hinted_at(daemons):
    assert daemons[0].command(*human("help qemu-io")).startswith(
        "qemu-io [-d] [device]")


def test_requests_reach_the_disk(daemons):
    def content(daemon):
        return daemon.image_content("disk.img", "raw")

    def io(line):
        def step(daemon):
            daemon.command(*human(f'qemu-io drive0 "{line}"'))
        step.__name__ = line
        return step
    same_conversation(*daemons, [
        ("block-dirty-bitmap-add", {"node": "drive0", "name": "b"}),
        io("write -P 7 64k 128k"), content, io("write -z 64k 64k"), content,
        io("aio_write -P 3 0 64k"), io("discard 512k 64k"), io("flush"),
        io("read -P 9 0 64k"), io("nosuch"), io("write 0 64M"), content,
        io("truncate 2M"), io("quit"), "query-status",
        ("x-debug-block-dirty-bitmap-sha256", {"node": "drive0", "name": "b"}),
        lambda d: d.command("query-block")[0]["inserted"]["dirty-bitmaps"]])


def test_what_the_command_prints_is_the_answer(daemons):
    varved = daemons[0]

    def say(line):
        return varved.command(*human(line))
    assert say('qemu-io drive0 "write -P 7 0 64k"').startswith(
        "wrote 65536/65536 bytes at offset 0\n64 KiB, 1 ops; ")
    assert say('qemu-io n0 "read -P 7 0 64k"').startswith("read 65536/65536 ")
    assert "Pattern verification failed" in say(
        'qemu-io drive0 "read -P 8 0 64k"')
    assert say("qemu-io drive0 length") == "1 MiB\n"
    assert say('qemu-io ro "write 0 512"') == \
        "Block node is read-only\n"
    assert say("qemu-io\tdrive0  'length'") == \
        "command \"'length'\" not found\n"
    assert say('qemu-io ro "info"').startswith("format name: raw\n")
    assert len(say('qemu-io drive0 "read -v 0 1M"')) == MIB


def test_permissions_are_given_back(daemons):
    varved = daemons[0]
    varved.command(*human('qemu-io drive0 "write 0 64k"'))
    varved.command(*human('qemu-io n0 "write 0 64k"'))
    varved.command("blockdev-add", driver="raw", node_name="alone", file="n0")
    varved.command("blockdev-del", node_name="alone")
    varved.command("block_resize", device="drive0", size=2 * MIB)


def test_the_image_is_reopened(daemons):
    """The answers are the peer's but for line ends."""
    lines = ["reopen -r", "reopen -w", "write -q 0 512", "reopen -c none",
             "reopen -o nonsense=1", "reopen -r -w", "reopen -c writethrough"]
    for line in lines:
        ours, theirs = [d.command(*human(f'qemu-io drive0 "{line}"'))
                        for d in daemons]
        assert ours.strip() == theirs.strip(), line

    def inserted(daemon):
        found, = [b["inserted"] for b in daemon.command("query-block")
                  if b["device"] == "drive0"]
        return found["ro"], found["cache"]
    same_conversation(*daemons, [inserted])


def test_a_guest_writes_again_after_it_was_read_only(start):
    varved = start.prepare(Varved)
    with open(varved.path("disk.img"), "wb") as f:
        f.truncate(MIB)
    varved.args += ["-drive", "file=disk.img,format=raw,if=none,id=drive0",
                    "-device", "virtio-blk,drive=drive0,id=dev0"]
    varved.start()

    def say(line):
        return varved.command(*human(f'qemu-io drive0 "{line}"'))

    def write():
        return varved.command("x-guest-request", device="dev0", op="write",
                              offset=0, length=4096)["status"]
    assert say("reopen -c writethrough") == \
        "Cannot change cache.writeback: Device attached\n"
    assert say("reopen -r") == ""
    assert write() == "ioerr"
    assert say("reopen -w") == ""
    assert write() == "ok"


def test_a_request_stops_until_another_line_lets_it_go(start):
    """Also while the command that it belongs to waits; and a daemon that is
    told to end does not wait."""
    varved = start(Varved)
    other = varved.connect(1)
    varved.command("blockdev-add", {
        "driver": "raw", "node-name": "n", "file": {
            "driver": "blkdebug", "node-name": "d",
            "image": {"driver": "null-co", "size": MIB}}})

    def say(line):
        return varved.command(*human(f'qemu-io n "{line}"'))

    def write():
        other.send({"execute": "human-monitor-command", "arguments": {
            "command-line": 'qemu-io n "write 0 512"'}})
    assert say("break nonsense A").startswith("Could not set breakpoint: ")
    assert say("break pwritev A") == ""
    write()
    assert say("wait_break A") == ""
    assert say("resume B").startswith("Could not resume request: ")
    assert varved.command(*human('qemu-io d "resume A"')) == ""
    assert other.answer()["return"].startswith("wrote 512/512 ")
    assert say("remove_break A").startswith("Could not remove breakpoint A: ")
    assert say("break pwritev A") == ""
    write()
    assert say("wait_break A") == ""
    varved.qmp.send({"execute": "human-monitor-command", "arguments": {
        "command-line": 'qemu-io n "wait_break nobody"'}})
    varved.terminate()

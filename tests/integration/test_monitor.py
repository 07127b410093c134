"""The monitor: sessions, framing, errors, several clients."""
import json
import signal
import socket
import subprocess

import pytest

from lib import (Qmp, QmpTimeout, Raw, SystemOracle, Varved, program,
                 same_conversation)


def raw_session(daemon, socket=1):
    return daemon.connect(socket, negotiate=False)


VERSION = ("micro", "package")

# (input, number of answers), played after the negotiation.
MALFORMED = [
    ('{"execute":"nosuch","id":{"a":1}}', 1),
    ('{"exec-oob":"query-version","id":1}', 1),
    ('{"id":1}', 1), ("{}", 1), ("[]", 1), ("[1]", 1), ('"x"', 1), ("1 ", 1),
    ("true ", 1), ("null ", 1), ("nulltrue ", 1),
    ('{"execute":1}', 1),
    ('{"execute":"query-version","arguments":[]}', 1),
    ('{"execute":"query-version","arguments":null}', 1),
    ('{"execute":"query-version","arguments":{"a":1}}', 1),
    ('{"execute":"query-version","control":{}}', 1),
    ('{"execute":"query-version","id":null}', 1),
    ('{"execute":"query-version","id":1,"id":2}', 1),
    ("{'execute':'query-version'}", 1),
    ('{"execute":"query-version",}', 1),
    ('{"execute":"query-version"]', 1),
    ('{"execute" "query-version"}', 1),
    ("}", 1), ("]", 1), (",", 1), (":", 1), ("foo\n", 1), ("{foo}\n", 1),
    ("\x01\n", 1), (b"\xff\n", 1), (b'{"execute":"\xff"}', 2),
    (b'{"execute":"a\xc3\xa9"}', 1),
    ('{"execute":"\\q"}', 1), ('{"execute":"\\ud800"}', 1),
    ('["\\udc00"]', 1), ('["\\ud800\\u0041"]', 1), ('["\\u12zz"]', 1),
    ('["\\u12"]', 1), (b'["\xe2\x28\xa1"]', 1), (b'["\xed\xa0\x80"]', 1),
    ('{"execute":"a\nb"}', 2),
    (b'{"execute":"query-version","id":"\\u00e9\xc3\xa9\\u20ac\\ud83d\\ude00'
     b' \\u007f / < "}', 1),
    ('{"execute":"query-version","id":1.50}', 1),
    ('{"execute":"query-version","id":1e3}', 1),
    ('{"execute":"query-version","id":18446744073709551615}', 1),
    ('{"execute":"query-version","id":-9223372036854775808}', 1),
    ('{"execute":"query-version","id":-0}', 1),
    ('{"execute":"query-version","id":01}', 2),
    ('{"execute":"query-version","id":.5}', 2),
    ('{"execute":"query-version","id":+5}', 2),
    ('{"execute":"query-version","id":1.}\n', 1),
    ('{"execute":"query-version","id":%d}', 2),
    ('{"execute":"query-version","id":nul}', 1),
    ('{"a":1 "b":2}', 1), ("[1 2]", 1), ("{1:2}", 1), ('{"a"}', 1),
    ('{"a":}', 1), ("{:}", 1), ("{,}", 1), ("[,]", 1), ("[1,]", 1),
    ("[:]", 1), ('{"a"::}', 1), ("{[]:1}", 1), ('{"a":1:}', 1), ("[1:2]", 1),
    ('{"a":[}]}', 2), ("[}", 1), ("{]", 1), ('{"a" {}}', 1),
    ('{"a":{} {}}', 1), ("[[] []]", 1), ("[1}", 1), ('{"a":1,]', 1),
    ('{"a":tRue}', 2), ('{"a":true1}', 1), ('{"a":-}\n', 1), ("[1e]\n", 1),
    ("[TRUE]", 2), (b"\xef\xbb\xbf{}", 2), ("[+1]", 2),
    ("/* c */{}", 2), ("/ foo\nbar\n", 2),
    (b'{"execute":"query-version"\xff\n', 1),
    ('{"execute":"query-version"}{"execute":"nosuch"}[]'
     '{"execute":"query-version","id":6}', 4),
]


def test_malformed_input_gets_the_same_answers(pair):
    steps = []
    for data, n in MALFORMED:
        steps.append(Raw(data, n))
        steps.append({"execute": "query-version", "id": "still here"})
    same_conversation(*pair, steps, ignore=VERSION)


@pytest.mark.parametrize("oob", [False, True])
def test_negotiation_is_the_same(pair, oob):
    enable = '"arguments":{"enable":["oob"]}' if oob else '"arguments":{}'
    for daemon in pair:
        daemon.qmp = raw_session(daemon)
        greeting = daemon.qmp.greet()
        assert greeting["QMP"]["capabilities"] == ["oob"]
        assert greeting["QMP"]["version"]["qemu"]["major"] == 7
    same_conversation(*pair, [Raw(data) for data in (
        '{"execute":"query-version","id":7}',
        '{"execute":"nosuch"}',
        '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]},"x":1}',
        '{"execute":"qmp_capabilities","arguments":{"x":["oob"]}}',
        '{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}',
        '{"execute":"qmp_capabilities",%s}' % enable,
        '{"execute":"qmp_capabilities"}',
        '{"exec-oob":"query-version","id":1}',
        '{"exec-oob":"qmp_capabilities","id":1}',
        '{"exec-oob":"nosuch","id":1}',
        '{"exec-oob":"query-version","execute":"query-version"}',
        '{"exec-oob":3}',
        '{"execute":"query-version"}',
    )], ignore=VERSION)


def test_greeting_names_a_compatible_version(varved):
    with raw_session(varved) as qmp:
        version = qmp.greet()["QMP"]["version"]
    assert version["qemu"]["major"] == 7 and version["qemu"]["minor"] == 2
    assert version["package"].startswith("varve")
    assert varved.command("query-version") == version


def test_a_request_may_come_in_single_bytes(varved):
    for byte in b'\n{"execute": "query-version", "id": "\\u00e4 \xc3\xa4"}':
        varved.qmp.send_raw(bytes([byte]))
    assert varved.qmp.answer()["id"] == "\u00e4 \u00e4"


def test_answers_are_ascii_on_one_line_each(varved):
    varved.qmp.send_raw(
        b'{"execute":"query-version","id":"\xc3\xa4\\u0000\\n\\"\\\\"}')
    line = b""
    while not line.endswith(b"\n"):
        line += varved.qmp.socket.recv(65536)
    assert line.endswith(b"}\r\n") and line.count(b"\n") == 1
    assert line.isascii() and b'"return": {"qemu"' in line
    assert json.loads(line)["id"] == "\u00e4\0\n\"\\"


def test_pipelined_requests_are_answered_in_order(varved):
    n = 2000
    varved.qmp.send_raw("".join(
        '{"execute":"query-%s","id":%d}' % ("version" if i % 3 else "status", i)
        for i in range(n)))
    assert [varved.qmp.answer()["id"] for _ in range(n)] == list(range(n))


def test_too_deep_input_gets_one_error_and_the_session_goes_on(varved):
    for text in ("[" * 5000 + "]" * 5000,
                 '{"execute":"query-version","id":' + "[" * 3000 + "\n",
                 "[" * 1025 + "\n", '{"a":' * 1025 + "\n"):
        varved.qmp.send_raw(text + '{"execute":"query-version","id":"next"}')
        error = varved.qmp.answer()["error"]
        assert error == {"class": "GenericError",
                         "desc": "JSON nesting depth limit exceeded"}
        assert varved.qmp.answer()["id"] == "next"


def test_too_long_input_gets_one_error_and_the_session_goes_on(varved):
    big = ('["' + "x" * (17 << 20) + '"]', "[" + "1," * (2 << 20) + "1]")
    for text, word in zip(big, ("size", "count")):
        varved.qmp.send_raw(text + '{"execute":"query-version","id":"next"}')
        error = varved.qmp.answer()["error"]
        assert error["desc"] == f"JSON token {word} limit exceeded"
        assert varved.qmp.answer()["id"] == "next"


def test_each_monitor_serves_one_client_at_a_time(pair):
    for daemon in pair:
        with raw_session(daemon) as first:
            first.greet()
            second = Qmp(daemon.sockets[1], negotiate=False)
            with pytest.raises(QmpTimeout):
                second.receive(timeout=0.3)
        assert "QMP" in second.greet(), daemon.name
        second.close()
        # A new session negotiates anew.
        with daemon.connect(1):
            pass
        with raw_session(daemon) as third:
            third.greet()
            third.send({"execute": "query-version"})
            assert third.answer()["error"]["class"] == "CommandNotFound"


def test_many_clients_in_a_row(varved):
    for i in range(50):
        with varved.connect(1) as qmp:
            assert qmp.command("query-version")


def test_a_client_that_leaves_in_the_middle_of_a_request(varved):
    for half in ('{"execute":', '{"execute":"query-qmp-schema"}' * 100, "["):
        qmp = varved.connect(1)
        qmp.send_raw(half)
        qmp.close()
    with varved.connect(1) as qmp:
        assert qmp.command("query-version")


def test_events_go_to_every_negotiated_monitor_and_to_no_other(varved):
    with varved.connect(1) as second:
        varved.command("cont")
        varved.command("stop")
        assert second.wait_event("STOP", timeout=120)["timestamp"]["seconds"]
    silent = raw_session(varved)
    silent.greet()
    varved.command("cont")
    with pytest.raises(QmpTimeout):
        silent.receive(timeout=0.2)


def test_a_slow_reader_stalls_nobody_else(varved):
    slow = varved.connect(1)
    slow.socket.settimeout(0.5)
    sent = 0
    with pytest.raises((socket.timeout, BlockingIOError)):
        while sent < 64 << 20:
            sent += slow.socket.send(b'{"execute":"query-qmp-schema"}' * 1000)
    # Its requests are no longer read; the others do not notice.
    for _ in range(100):
        varved.command("query-version")
    slow.close()
    with varved.connect(1) as next_one:
        assert next_one.command("query-version")


def test_what_a_client_left_behind_is_not_done(varved):
    """It went without reading its answers, and nobody waits for the rest."""
    slow = varved.connect(1)
    slow.send_raw(b'{"execute":"query-qmp-schema"}' * 20 +
                  b'{"execute":"stop"}')
    assert slow.socket.recv(1, socket.MSG_PEEK)
    slow.close()
    varved.connect(1)
    assert varved.command("query-status")["status"] == "running"


def test_many_requests_of_one_client_do_not_hold_up_another(varved):
    """Both are there when the daemon looks."""
    many = varved.connect(1)
    varved.process.send_signal(signal.SIGSTOP)
    many.send_raw(b'{"execute":"query-version"}' * 500 +
                  b'{"execute":"query-status"}')
    varved.qmp.send({"execute": "stop"})
    varved.process.send_signal(signal.SIGCONT)
    last = [many.answer() for _ in range(501)][-1]
    assert last["return"]["status"] == "paused"


def test_two_monitors_change_the_graph_at_once(varved):
    """Commands of both mix; each sees its own answers in order."""
    n = 200
    sessions = [varved.qmp, varved.connect(1)]
    for k, qmp in enumerate(sessions):
        qmp.send_raw("".join(
            json.dumps({"execute": name, "arguments": arguments, "id": i})
            for i in range(n) for name, arguments in (
                ("blockdev-add", {"driver": "null-co", "node-name": f"n{k}",
                                  "size": 65536}),
                ("block-dirty-bitmap-add", {"node": f"n{k}", "name": "b"}),
                ("blockdev-add", {"driver": "null-co", "node-name": "shared"}),
                ("blockdev-del", {"node-name": "shared"}),
                ("blockdev-del", {"node-name": f"n{k}"}))))
    for qmp in sessions:
        for i in range(n):
            answers = [qmp.answer() for _ in range(5)]
            assert [a["id"] for a in answers] == [i] * 5
            # Only the node that both want may be there already, or not.
            assert all("return" in a for a in answers[:2] + answers[4:])
    assert len(varved.command("query-named-block-nodes")) <= 1


def test_a_client_that_leaves_during_a_command_loses_nothing_else(varved):
    for step in (("blockdev-add", {"driver": "null-co", "node-name": n,
                                   "size": 1 << 20}) for n in ("s", "t")):
        varved.command(*step)
    for i in range(20):
        with varved.connect(1) as qmp:
            qmp.send({"execute": "blockdev-backup", "arguments": {
                "job-id": f"j{i}", "device": "s", "target": "t",
                "sync": "full"}})
        varved.qmp.wait_job(f"j{i}", "null")
    assert varved.command("query-jobs") == []


def test_commands_that_are_listed_exist_and_are_in_the_schema(varved):
    names = {c["name"] for c in varved.command("query-commands")}
    schema = varved.command("query-qmp-schema")
    assert names == {e["name"] for e in schema if e["meta-type"] == "command"}
    for name in names:
        answer = varved.call(name, nonsense=1)
        assert answer["error"]["desc"].startswith(
            ("Parameter 'nonsense' is unexpected", "Parameter '",
             "Capabilities negotiation")), (name, answer)


def test_monitor_on_stdio(tmp_path):
    talk = ('{"execute":"qmp_capabilities"}{"execute":"query-version"}\n'
            '{"execute":"quit"}\n')
    r = subprocess.run([program("varved"), "--chardev", "stdio,id=c",
                        "--monitor", "chardev=c"], input=talk, text=True,
                       capture_output=True, timeout=120, cwd=tmp_path)
    lines = [json.loads(line) for line in r.stdout.splitlines()]
    assert r.returncode == 0 and not r.stderr
    assert "QMP" in lines[0] and lines[1] == {"return": {}}
    assert lines[2]["return"]["qemu"]["major"] == 7
    assert {"return": {}} in lines[3:]


def test_monitor_on_tcp(start, port):
    varved = start(Varved, "--chardev",
                   f"socket,id=t,host=127.0.0.1,port={port},server=on,wait=off",
                   "--monitor", "chardev=t")
    for _ in range(2):
        with Qmp(("127.0.0.1", port)) as qmp:
            assert qmp.command("query-version")
    assert varved.command("query-version")


def test_monitor_that_connects_to_its_client(start, tmp_path):
    path = str(tmp_path / "client.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        start(Varved, "--chardev", f"socket,id=t,path={path}",
              "--monitor", "chardev=t")
        connection = listener.accept()[0]
    connection.sendall(b'{"execute":"qmp_capabilities"}')
    text = b""
    while text.count(b"\n") < 2:
        text += connection.recv(4096)
    assert b'"QMP"' in text and b'{"return": {}}' in text
    connection.close()


def test_a_socket_that_cannot_be_opened_is_named(tmp_path):
    for channel, word in (("socket,id=t,path=/nonexistent/x,server=on",
                           "/nonexistent/x"),
                          (f"socket,id=t,path={tmp_path}/nobody", "nobody"),
                          ("socket,id=t,path=%s,server=on" % ("x" * 200),
                           "too long"),
                          ("socket,id=t,host=127.0.0.1,port=x,server=on",
                           "port")):
        r = subprocess.run([program("varved"), "--chardev", channel,
                            "--monitor", "chardev=t"], text=True, timeout=120,
                           stdin=subprocess.DEVNULL, capture_output=True)
        assert r.returncode == 1
        assert r.stderr.startswith("varved: ") and word in r.stderr, r.stderr


def test_a_stale_socket_file_is_replaced_and_another_file_is_not(start,
                                                                 tmp_path):
    stale = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(stale))
    start(Varved, "--chardev", f"socket,id=t,path={stale},server=on,wait=off",
          "--monitor", "chardev=t")
    Qmp(str(stale)).close()
    plain = tmp_path / "plain"
    plain.write_text("precious")
    r = subprocess.run([program("varved"), "--chardev",
                        f"socket,id=t,path={plain},server=on,wait=off",
                        "--monitor", "chardev=t"], timeout=120,
                       stdin=subprocess.DEVNULL, capture_output=True)
    assert r.returncode == 1 and plain.read_text() == "precious"


def test_objects(start):
    def add(**options):
        return ("object-add", {k.replace("_", "-"): v
                               for k, v in options.items()})
    def threads(daemon):
        return sorted(daemon.command("query-iothreads"),
                      key=lambda t: t["id"])
    io = {"qom_type": "iothread"}
    same_conversation(start(Varved), start(SystemOracle), [
        threads, add(**io, id="io0"), threads,
        add(**io, id="io0"), add(**io, id="0io"), add(**io, id=""), add(**io),
        add(id="x"), add(qom_type="nosuch", id="x"), add(**io, id="x", y=1),
        add(**io, id="x", poll_max_ns=-1), add(**io, id="x", poll_grow=-1),
        add(**io, id="x", poll_shrink=-1), add(**io, id="x", aio_max_batch=-1),
        add(**io, id="x", thread_pool_min=-1),
        add(**io, id="x", thread_pool_max=-1),
        add(**io, id="x", thread_pool_min=100),
        add(**io, id="io1", poll_max_ns=0, aio_max_batch=3, poll_grow=2,
            poll_shrink=4), threads,
        ("object-del", {"id": "io0"}), ("object-del", {"id": "io0"}),
        ("object-del", {"id": ""}), ("object-del", {}), threads,
        add(**io, id="io0"), threads], ignore=("thread-id",))


def test_quit_answers_and_ends(varved):
    varved.qmp.send({"execute": "quit", "id": "bye"})
    assert varved.qmp.answer() == {"return": {}, "id": "bye"}
    assert [e["event"] for e in varved.qmp.events] == ["SHUTDOWN"]
    assert varved.qmp.receive() is None
    varved.wait()
    varved.check_end(0)


def test_sigterm_ends_it_and_removes_the_sockets(varved):
    varved.terminate()
    with pytest.raises(FileNotFoundError):
        Qmp(varved.sockets[0])

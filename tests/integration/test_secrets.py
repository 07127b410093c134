"""Secret objects: made, looked at and refused as by QEMU's programs."""
import os

from lib import same_conversation
from lib.twin import run

GOOD = [{"data": "abc"}, {"data": "\u00e9"}, {"data": "a", "iv": "YWJj"},
        {"file": "{dir}/raw"}, {"file": "{dir}/bytes"},
        {"data": "c2VjcmV0", "format": "base64"},
        {"file": "{dir}/base64", "format": "base64"},
        {"data": "c2V=jcmV0", "format": "base64"}]
BAD = [{}, {"data": "a", "file": "{dir}/raw"}, {"file": "{dir}/missing"},
       {"file": "{dir}"}, {"data": "???", "format": "base64"},
       {"data": "a", "format": "hex"}, {"data": "a", "loaded": True}]


def write_files(directory):
    for name, data in (("raw", b"secret\n"), ("base64", b"c2VjcmV0\n"),
                       ("bytes", b"secret")):
        with open(os.path.join(directory, name), "wb") as f:
            f.write(data)


def test_secrets_of_the_monitor(pair):
    def add(name, options):
        return ("object-add", {"qom-type": "secret", "id": name, **options})

    def show(name, prop):
        return ("qom-get", {"path": name, "property": prop})
    steps = [lambda d: write_files(d.directory)]
    for i, options in enumerate(GOOD):
        name = f"s{i}"
        steps.append(add(name, options))
        steps += [show(name, p) for p in ("data", "file", "format", "loaded",
                                          "keyid", "iv", "type", "nonsense")]
    steps += [add("bad", options) for options in BAD]
    steps += [add("s0", {"data": "x"}), add("0", {"data": "x"}),
              ("qom-set", {"path": "s0", "property": "data", "value": "z"}),
              show("s0", "data"),
              ("qom-set", {"path": "s0", "property": "loaded", "value": True}),
              ("object-del", {"id": "s0"}), ("object-del", {"id": "s0"})]
    same_conversation(*pair, steps)


def test_an_encrypted_secret_is_refused_by_name(varved):
    said = varved.call("object-add", qom_type="secret", id="s", data="YWJj",
                       keyid="key")
    assert "'keyid' is not supported" in said["error"]["desc"]


def test_secrets_of_the_tools(twin):
    for directory in twin.dirs.values():
        write_files(directory)
    twin.create("a", "1M")
    for options in ("data=abc", "file=raw", "data=c2VjcmV0,format=base64", "",
                    "data=x,file=raw", "file=missing", "data=x,nonsense=1",
                    "data=?,format=base64"):
        for command in (["info", "--output=json"], ["check"], ["measure"]):
            twin.same(*command, "--object",
                      f"secret,id=s,{options}".rstrip(","), "a",
                      *(["-O", "qcow2"] if command == ["measure"] else []))
    ours = twin.answers("info", "--object", "help")[0]
    assert ours[0] == 0 and "  secret\n" in ours[1]


def test_an_endless_secret_is_refused(twin):
    status, _, errors = twin.answers("info", "--object",
                                     "secret,id=s,file=/dev/null", "a")[0]
    assert status == 1 and "Could not open 'a'" in errors
    done = run("varve-img", twin.ours, "info", "--object",
               "secret,id=s,file=/dev/zero", "a")
    assert done.returncode == 1
    assert "Unable to read /dev/zero: it is longer than" in done.stderr

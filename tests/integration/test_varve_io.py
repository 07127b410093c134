"""varve-io beside qemu-io: the same commands, the same lines and exit status."""
import os
import re
import subprocess

import pytest

from lib import program
from lib.random_operations import merged_map

ENV = dict(os.environ, LC_ALL="C.UTF-8")


def normalise(text, directory):
    text = text.replace(str(directory), "{dir}")
    text = re.sub(r"ops; .*", "ops; TIME", text)
    text = re.sub(r"(?m)^(\d+,\d+),[\d:.,]+$", r"\1,TIME", text)
    # How a command is used is said in words of one's own.
    text = re.sub(r"(?m)^((?:\S+-io> )*)(?!Parsing)(\w+)( .*)? -- .*",
                  r"\1usage: \2", text)
    text = re.sub(r"#block\d+", "NODE", text)
    return text.replace("qemu-io", "{io}").replace("varve-io", "{io}")


def play(name, directory, args, stdin=""):
    r = subprocess.run([program(name), *args], cwd=directory, input=stdin,
                       capture_output=True, text=True, timeout=120, env=ENV)
    return {"stdout": normalise(r.stdout, directory),
            "stderr": normalise(r.stderr, directory), "status": r.returncode}


def commands(*lines):
    return [word for line in lines for word in ("-c", line)]


@pytest.fixture
def sides(tmp_path):
    """Two directories with the same files."""
    for name in ("ours", "theirs"):
        directory = tmp_path / name
        directory.mkdir()
        with open(directory / "a.raw", "wb") as f:
            f.truncate(1 << 20)
        (directory / "odd.raw").write_bytes(b"xyz" * 1000)
        (directory / "pattern").write_bytes(b"a!b c~d\x7f\x80{")
        (directory / "empty").write_bytes(b"")
    return tmp_path / "ours", tmp_path / "theirs"


def compare(sides, args, stdin="", streams=("stdout", "stderr", "status")):
    ours = play("varve-io", sides[0], args, stdin)
    theirs = play("qemu-io", sides[1], args, stdin)
    for stream in streams:
        assert ours[stream] == theirs[stream], (args, stream)
    assert (sides[0] / "a.raw").read_bytes() == \
        (sides[1] / "a.raw").read_bytes()
    return ours


# Each row is one run on a raw file of 1 MiB.
RUNS = {
    "write, read and verify": [
        "write -P 0xaa 0 64k", "read -P 0xaa 0 64k", "read -P 170 0 64k",
        "read -P 0 64k 512"],
    "verification fails": [
        "write -P 0xaa 0 64k", "read -P 0xbb 0 64k", "read -P 0 0 65k"],
    "part of the data is verified": [
        "write -P 1 0 100", "write -P 2 100 100", "read -P 1 -l 100 0 200",
        "read -P 2 -s 100 0 200", "read -P 2 -s 99 -l 3 0 200",
        "read -P 1 -s 201 0 200", "read -P 1 -s 100 -l 101 0 200",
        "read -P 1 -s 100 0 101"],
    "options of a check without a pattern": ["read -l 3 0 9", "read -s 3 0 9"],
    "dump": ["write -s pattern 0 40", "read -v 0 40", "read -v 65520 48",
             "read -v 3 5", "read -qv 0 16"],
    "dump of a vector": ["write -P 65 0 4k", "readv -v 10 20 20"],
    "pattern from a file": ["write -s pattern 7 100", "read -v 0 128",
                            "write -s missing 0 5", "write -s empty 0 5",
                            "write -s pattern -P 1 0 5"],
    "unaligned": ["write 1 3", "read -v 0 5", "write -P 9 511 514",
                  "read -P 9 511 514"],
    "quiet": ["write -q 0 1k", "read -q 0 1k", "discard -q 0 1k",
              "writev -q 0 1k 1k", "readv -q 0 1k"],
    "for programs": ["write -C 0 1k", "read -C 0 512", "readv -C 0 1k 1k",
                     "discard -C 0 1k"],
    "zeroes": ["write -P 1 0 64k", "write -z 0 4k", "read -P 0 0 4k",
               "read -P 1 4k 60k", "write -zu 4k 4k", "read -P 0 0 8k",
               "write -z -n -u -f 8k 8k", "write -z 1 3"],
    "options that need another": ["write -u 0 512", "write -n 0 512"],
    "options that exclude each other": [
        "write -zz 0 512", "write -P 1 -P 2 0 512",
        "write -z -P 1 0 512", "write -z -s pattern 0 512"],
    "force unit access": ["write -f 0 512", "writev -f 0 512 512"],
    "compressed is not for raw": ["write -c 0 64k", "write -c 1 64k",
                                  "write -c 0 100"],
    "state of a machine": ["write -b 0 1k", "read -b 0 1k"],
    "reopened with other rights": [
        "reopen", "reopen -r", "write 0 512", "read 0 512", "reopen -w",
        "write 0 512", "reopen -r -o discard=ignore", "reopen", "write 0 512"],
    "reopened with another cache": [
        "reopen -c none", "write 1 3", "reopen -c writethrough", "write 0 512",
        "reopen -c unsafe", "flush", "reopen -c nonsense",
        "reopen -c none -o cache.direct=off",
        "reopen -c none -o cache.no-flush=off", "reopen -o cache.direct=on",
        "reopen -o cache.writeback=on", "reopen -o discard=x",
        "reopen -o discard=on"],
    "reopened with wrong options": [
        "reopen -r -w", "reopen -r -r", "reopen -ww",
        "reopen -w -o read-only=off", "reopen -o nonsense=1",
        "reopen -o cache.nonsense=1", "reopen -o driver=qcow2",
        "reopen -o node-name=a", "reopen -o file=nothing", "reopen a",
        "reopen -x", "reopen -o", "length"],
    "reopened as a part": ["reopen -o size=1k", "length"],
    "beyond the end": ["write 0 2M", "write 1M 512", "read 1M 512",
                       "read 1023k 2k", "discard 1M 512", "discard 0 2M",
                       "readv 0 1M 1M", "write -z 1M 512", "read 7E 1"],
    "too long": ["read 0 3G", "write 0 3G", "discard 0 3G", "write -z 0 3G",
                 "write -zn 0 3G", "writev 0 1G 1G", "writev 0 3G",
                 "readv 0 1G 1G 1G"],
    "numbers": ["read x 1", "read 0x200 x", "read 0 1kb", "read 1.5k 0.5k",
                "read 8E 1", "read 0x200 0x10", "read -- -1 1", "read 0 1K"],
    "patterns": ["write -P 256 0 1", "write -P xx 0 1", "write -P -1 0 1",
                 "write -P 010 0 1", "read -P 8 0 1", "readv -P 300 0 1",
                 "writev -P 300 0 1", "aio_read -P 300 0 1", "write -P1 0 1",
                 "read -qP 0x1 0 1"],
    "nothing": ["read 0 0", "write 0 0", "discard 0 0", "write -z 0 0",
                "read -v 0 0", "readv 0 0", "writev 0 0", "read 1M 0"],
    "wrong options": ["read -x 0 1", "write -x 0 1", "discard -x 0 1",
                      "truncate -x 1", "read 0 -1", "read -1 1",
                      "read -P 1 -s 4 -s", "read -P"],
    "an error before another": [
        "write -P x -y 0 1", "write -y -P x 0 1", "read -l x -P y 0 1",
        "read -P y -l x 0", "read -s 1 x 1", "read -s 1 0 3G", "read -s 1 0 1",
        "truncate -m x", "reopen -c x -o", "reopen -c writeback -o",
        "aio_write -i", "aio_read -i", "write -c 10M 64k", "write -cz 1 64k",
        "write -cz 0 64k", "write -z -P 300 0", "aio_write -z -P 7 0 64k",
        "aio_flush", "read -P 0 0 64k", "open -t x a.raw", "open -d x a.raw",
        "open -i x", "open -r a.raw", "open -U", "open -x"],
    "names as they are typed": ["r -x 0 1", "w", "d 1", "w -P", "t 1 2 3 4"],
    "words are parted by blanks alone": ["read\t0 512", "\t", "read 0\t512",
                                         "  read   0   512  "],
    "hexadecimal": ["read 0x1k 1", "read +0x1k 0X10", "read 0x1b 1",
                    "alloc 0x1.8k", "alloc 0x7fffffffffffffffk", "read 0x 1",
                    "alloc 9223372036854775808", "alloc 16E", "alloc 1e3"],
    "signals": ["sigraise 0", "sigraise x", "sigraise -1", "sigraise 99",
                "sigraise 0x9999999", "sigraise 9223372036854775808"],
    "what failed in the background": [
        "aio_read 1M 512", "aio_write -P 1 1M 512", "aio_read 2M 512",
        "aio_flush", "aio_write 1M 512", "read 1M 1", "readv 1M 1",
        "aio_write 1M 512", "alloc 0", "length"],
    "wrong counts": ["close x", "open a b", "quit x", "read", "read 0", "read 0 1 2", "write", "discard 0",
                     "flush 1", "length 1", "alloc", "alloc 0 1 2", "truncate",
                     "sleep", "help a b", "info 1", "map 1", "readv 0"],
    "options after words": ["write 0 512 -P 1", "read 0 512 -P 1"],
    "unknown command": ["foo 1", "length"],
    "blanks": ["   length   ", "", "   "],
    "flush and length": ["flush", "length", "f", "l"],
    "allocation": ["alloc 0", "alloc 0 1M", "alloc 64k 3", "alloc 0 100M",
                   "alloc x", "alloc 0 x", "alloc 1M", "alloc 2M", "alloc -1",
                   "map"],
    "discard": ["write 0 128k", "discard 0 64k", "discard 3 100", "discard x 1",
                "read -P 0 4k 4k"],
    "truncate": ["truncate -m metadata 4k", "truncate -m full 4k",
                 "truncate 2M", "length", "truncate x", "truncate 1000",
                 "length", "read 0 1000", "truncate -m full 1M", "map",
                 "truncate -m huge 3M", "truncate -m off 1234567", "length"],
    "sleep": ["sleep 1", "sleep x", "sleep -5", "sleep 1x", "sleep 0x1"],
    "vectors": ["writev -P 3 0 1k 1k", "readv -P 3 0 512 1k 512",
                "readv -P 1 0 512 1k", "readv 0 x", "readv x 1"],
    "in the background": ["aio_write -P 5 0 64k", "aio_flush",
                          "aio_read -P 5 0 64k", "aio_flush",
                          "aio_read -P 6 0 64k", "aio_flush",
                          "aio_write -q -z 0 64k", "aio_flush",
                          "read -P 0 0 64k"],
    "failing in the background": ["aio_read 1M 512", "aio_flush",
                                  "aio_write 1M 512", "aio_flush",
                                  "aio_write -u 0 1", "aio_write -z 0 1k 1k",
                                  "aio_read -i 0 1", "aio_write -i 0 1"],
    "quit ends it": ["quit", "read 0 512"],
    "what failed before quit counts": ["read 0", "quit"],
    "short names": ["r 0 512", "w 0 512", "d 0 512", "t 1M", "a 0"],
    "info": ["info", "i"],
    "help": ["help nothing"],
    "no second file": ["open a.raw", "close", "length", "open missing",
                       "open"],
    "reopened by name": ["close", "open -o driver=raw a.raw", "write 0 512",
                         "close", "close"],
}


@pytest.mark.parametrize("run", RUNS)
def test_same_as_qemu_io(sides, run):
    compare(sides, ["-f", "raw", "a.raw", *commands(*RUNS[run])])


QCOW2 = {
    "state of a machine": [
        "write -b 0 1k", "read -b 0 1k", "read -b 0 100", "read -b 1 512",
        "write -b 512 100", "write -b -P 3 1M 128k",
        "write -b -P 4 1234432 512", "read -b -P 3 1M 64k",
        "read -b -P 4 1234432 512", "read -b -P 5 8k 512",
        "write -bz 0 512", "write -bc 0 512", "write -bu 0 512",
        "write -bf 0 512", "write -bq 0 512", "write -bC 0 512",
        "read -bC 0 512", "read -b 0 0", "write -b 0 0", "write -b 0 3G",
        "write -b -P 9 800M 64k", "read -b -P 9 800M 64k", "info", "map",
        "length", "truncate 2M", "read -b -P 3 1M 64k"],
    "reopened with other options": [
        "write 0 64k", "reopen -o lazy-refcounts=on", "reopen -r", "write 0 1",
        "map", "reopen -w", "write 64k 64k", "reopen -o overlap-check=none",
        "reopen -o backing=nothing", "reopen -o file.filename=other",
        "reopen -c none", "read 0 1M", "info"],
    "allocation": ["map", "write 64k 64k", "map", "alloc 0 1M", "alloc 64k",
                   "write -q 256k 64k", "write -z 256k 64k", "map",
                   "write -z -u 64k 64k", "map",
                   "read -P 0 64k 64k"],
    "unaligned": ["write -P 1 100 1000", "write -P 2 65530 12",
                  "read -P 0 0 100", "read -P 1 100 1000",
                  "read -P 2 65530 12", "read -P 0 65542 1000"],
    "discard": ["write 0 256k", "discard 64k 64k", "read -P 0 64k 64k",
                "discard 1000 100", "read -P 0xcd 0 64k"],
    "truncate": ["truncate -m full 512k", "truncate -m metadata 512k",
                 "truncate 2M", "length", "write 1M 64k", "read -P 0xcd 1M 64k",
                 "read -P 0 2047k 1k"],
    "zeroes where nothing was": [
        "write -z 0 64k", "write -z 128k 512", "write -zu 200000 1",
        "write -zf 960k 64k", "write 512k 64k", "write -z 512k 1k",
        "write -z 500k 100k", "write -z 1048000 576", "read -P 0 0 512k"],
    "in the background": ["aio_write -P 1 0 512k", "aio_flush",
                          "aio_write -z 64k 64k", "aio_flush",
                          "read -P 1 0 64k", "read -P 0 64k 64k", "flush"],
}


@pytest.mark.parametrize("name", ["plain.qcow2", "top.qcow2", "sub.qcow2",
                                  "old.qcow2"])
@pytest.mark.parametrize("run", QCOW2)
def test_same_on_qcow2(sides, run, name):
    for directory in sides:
        for args in (["plain.qcow2", "1M"],
                     ["-o", "extended_l2=on", "sub.qcow2", "1M"],
                     ["-o", "compat=0.10", "old.qcow2", "1M"],
                     ["-b", "plain.qcow2", "-F", "qcow2", "top.qcow2"]):
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *args],
                           cwd=directory, check=True)
    compare(sides, ["-f", "qcow2", name, *commands(*QCOW2[run])])
    maps = [subprocess.run(["qemu-img", "map", "--output=json", name],
                           cwd=directory, capture_output=True, text=True,
                           check=True).stdout for directory in sides]
    assert merged_map(maps[0]) == merged_map(maps[1])
    subprocess.run(["qemu-img", "check", "-q", name], cwd=sides[0], check=True)
    subprocess.run(["qemu-img", "compare", "-q", sides[0] / name,
                    sides[1] / name], check=True)


DATA_FILES = {"data.qcow2": "data_file=d.raw",
              "raw.qcow2": "data_file=d.raw,data_file_raw=on"}


@pytest.mark.parametrize("name", DATA_FILES)
def test_the_state_of_a_machine_in_a_data_file(sides, name):
    for directory in sides:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o",
                        DATA_FILES[name], name, "1M"], cwd=directory,
                       check=True)
    compare(sides, ["-f", "qcow2", name, *commands(
        "write -b -P 3 1M 128k", "write -b -P 4 1234432 512",
        "read -b -P 3 1M 64k", "read -b -P 4 1234432 512",
        "read -b -P 0 0 64k", "read -P 0 0 1M", "length")])
    subprocess.run(["qemu-img", "check", "-q", name], cwd=sides[0], check=True)


def test_the_state_of_a_machine_is_no_part_of_the_disk(sides):
    """The disk grows over the place where it was. The peer shows the state."""
    path = sides[0] / "s.qcow2"
    for args in (["-f", "raw", "b.raw", "600M"],
                 ["-f", "qcow2", "-b", "b.raw", "-F", "raw", path, "1M"]):
        subprocess.run(["qemu-img", "create", "-q", *args], cwd=sides[0],
                       check=True)
    play("qemu-io", sides[0], ["-f", "raw", "b.raw", "-c",
                               "write -P 8 512M 64k"])
    said = play("varve-io", sides[0], ["-f", "qcow2", "s.qcow2", *commands(
        "read -P 0 -b 0 64k", "write -P 7 -b 100 512", "write -P 7 -b 0 512",
        "read -P 0 -b 512 60k", "write -b 7E 512", "truncate 600M",
        "read -P 0 512M 1M", "read -b -P 0 0 1M")])
    assert "verification failed" not in said["stdout"], said
    assert "write failed: File too large" in said["stdout"]
    subprocess.run(["qemu-img", "check", "-q", path], check=True)


READ_ONLY = ["write 0 512", "discard 0 512", "flush", "truncate 1M",
             "write -z 0 512", "aio_write 0 512", "writev 0 512", "read 0 512"]


@pytest.mark.parametrize("args", [
    ["-f", "raw", "-r", "a.raw", *commands(*READ_ONLY)],
    ["missing"],
    ["-f", "raw", "missing", "-c", "length"],
    ["-f", "nonsense", "a.raw", "-c", "length"],
    ["-c", "length"],
    ["-c", "open -o driver=raw a.raw", "-c", "length"],
    ["-f", "raw", "-t", "nonsense", "a.raw", "-c", "length"],
    ["-f", "raw", "-d", "nonsense", "a.raw", "-c", "length"],
    ["-f", "raw", "-i", "nonsense", "a.raw", "-c", "length"],
    ["-f", "raw", "-d", "unmap", "a.raw", "-c", "discard 0 64k"],
    ["-f", "raw", "-d", "ignore", "a.raw", "-c", "discard 0 64k"],
    ["-f", "raw", "-t", "writethrough", "a.raw", "-c", "write 0 64k"],
    ["-f", "raw", "-t", "unsafe", "a.raw", "-c", "write 0 64k", "-c", "flush"],
    ["--image-opts", "driver=raw,file.filename=a.raw", "-c", "length"],
    ["--image-opts", "driver=raw,file.driver=file,file.filename=a.raw,"
     "read-only=on", "-c", "length"],
    ["--image-opts", "-f", "raw", "a.raw", "-c", "length"],
    ["--image-opts", "foo=a.raw", "-c", "length"],
    ["--image-opts", "driver=raw,file.filename=missing", "-c", "length"],
    ["--image-opts", "driver=null-co,size=1M,read-zeroes=on",
     *commands("length", "read -P 0 0 1k", "map", "alloc 0")],
    ['json:{"driver":"raw","file":{"driver":"file","filename":"a.raw"}}',
     "-c", "length"],
    ['json:{"driver":"raw","file.filename":"a.raw"}', "-c", "length"],
    ["-f", "raw", "-m", "a.raw", *commands("write -P 7 0 4k",
                                           "read -P 7 0 4k")],
    ["-U", "-f", "raw", "a.raw", "-c", "length"],
    ["-r", "-U", "-f", "raw", "a.raw", "-c", "length"],
    ["-f", "raw", "-k", "a.raw", "-c", "length"],
    ["-c", "length", "-f", "raw", "a.raw"],
    ["-f", "raw", "odd.raw", *commands("map", "alloc 2999 2", "alloc 3000")],
    ["odd.raw", *commands("map", "alloc 3000")],
    ["--image-opts", "driver=raw,offset=512,file.filename=odd.raw",
     *commands("length", "map", "read -v 2480 16")],
    ["", "-c", "length"],
    ["-f", "raw", "", "-c", "length"],
    ["-i", "native", "-f", "raw", "a.raw", "-c", "length"],
    ["-i", "native", "--image-opts", "driver=blkdebug,image.driver=raw,"
     "image.file.filename=a.raw", "-c", "length"],
    ["-k", "-i", "threads", "-n", "-f", "raw", "a.raw", "-c", "length"],
    ["-k", "-n", "-t", "writeback", "-f", "raw", "a.raw", "-c", "length"],
    ["--image-opts", *commands(
        "open driver=raw,file.filename=a.raw", "length", "open -o driver=raw",
        "close", "open -r driver=raw,file.filename=a.raw", "write 0 1")],
    ["--image-opts", "driver=null-co,size=1M,read-zeroes=on",
     *commands("aio_write -C 0 512", "aio_read 512 1k", "aio_write -z 0 3k",
               "aio_flush", "aio_read 0 1", "aio_read 0 2", "writev 0 3")],
    ["--image-opts", "driver=blkverify,raw.driver=raw,raw.file.filename=a.raw,"
     "test.driver=null-co,test.size=1M", "-c", "reopen -o force-share=on"],
], ids=" ".join)
def test_program_options(sides, args):
    compare(sides, args)


@pytest.mark.parametrize("args", [["-x"], ["--nonsense"], ["-c"],
                                  ["-f", "raw", "a.raw", "b.raw"]],
                         ids=" ".join)
def test_wrong_command_line(sides, args):
    ours = compare(sides, args, streams=["status"])
    assert ours["stderr"].startswith("{io}: ") or \
        "{io}: " in ours["stderr"], ours


@pytest.mark.parametrize("aio", ["threads", "io_uring", "native"])
def test_engines_past_the_page_cache(sides, aio):
    compare(sides, ["-n", "-i", aio, "-f", "raw", "a.raw",
                    *commands("write -P 1 0 64k", "write -P 2 511 2",
                              "read -P 1 0 511", "read -P 2 511 2",
                              "read -P 1 513 1000")])


@pytest.mark.parametrize("stdin", [
    "read 0 512\n\nquit\nlength\n",
    "read 0 512\nlength",
    "",
    "length\nnonsense\nlength\n",
    "aio_read 1M 1\naio_read 2M 1\n\n  \nlength\n # no\nopen -x\n",
    "read 0 1 2\nq\nlength\n",
])
def test_prompt(sides, stdin):
    compare(sides, ["-f", "raw", "a.raw"], stdin=stdin)


def test_prompt_reads_a_file(sides):
    for directory in sides:
        (directory / "script").write_text("write 0 4k\nlength\n")
    with open(sides[0] / "script") as script:
        r = subprocess.run([program("varve-io"), "-f", "raw",
                            str(sides[0] / "a.raw")], stdin=script,
                           capture_output=True, text=True, timeout=120, env=ENV)
    assert r.returncode == 0 and "wrote 4096/4096" in r.stdout


def test_misaligned_memory_reaches_a_direct_file(sides):
    compare(sides, ["-n", "-m", "-f", "raw", "a.raw",
                    *commands("write -P 1 0 64k", "read -P 1 0 64k")])


def test_every_command_has_help(sides):
    listing = play("varve-io", sides[0], ["-c", "help"])
    names = re.findall(r"(?m)^usage: (\w+)$", listing["stdout"])
    assert names == sorted(names) and "write" in names and "open" in names
    for name in names:
        said = play("varve-io", sides[0], ["-c", f"help {name}"])
        assert said["stdout"].startswith(f"usage: {name}\n"), said
        assert said["status"] == 0


@pytest.fixture
def chains(sides):
    """o.qcow2 over a.raw, which holds data."""
    for directory in sides:
        play("qemu-io", directory, ["-f", "raw", "a.raw",
                                    *commands("write -P 1 0 512k")])
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b",
                        "a.raw", "-F", "raw", "o.qcow2"], cwd=directory,
                       check=True)
    return sides


@pytest.mark.parametrize("args", [
    ["-s", "-f", "raw", "a.raw",
     *commands("write -P 9 0 512", "read -P 9 0 512", "read -P 1 512 1k",
               "map", "info", "length")],
    ["-s", "-r", "-f", "raw", "a.raw", *commands("write 0 512", "read 0 1k")],
    ["-s", "--image-opts", "driver=qcow2,file.filename=o.qcow2",
     *commands("write -P 9 0 512", "info", "map")],
    ["--snapshot", "missing", "-c", "length"],
    ["-C", "-f", "qcow2", "o.qcow2",
     *commands("read -P 1 0 64k", "map", "info", "write 64k 64k", "map")],
    ["--copy-on-read", "-r", "-f", "qcow2", "o.qcow2", "-c", "length"],
    commands("open -s -o driver=raw a.raw", "write -P 3 0 512",
             "read -P 3 0 512", "close", "open -o driver=raw a.raw",
             "read -P 1 0 512", "close", "open -C -o driver=qcow2 o.qcow2",
             "read 128k 64k", "map"),
    ["-T", "nonsense", "-f", "raw", "a.raw", "-c", "length"],
    ["--object", "nonsense,id=a", "a.raw"],
    ["--object", "iothread,id=a", "a.raw"],
    ["--image-opts", "driver=blkdebug,image.driver=raw,"
     "image.file.filename=a.raw", "-c", "info"],
    ["--image-opts", "driver=file,filename=a.raw", "-c", "info"],
    ["--image-opts", "driver=null-co,size=1M", "-c", "info"],
    ["-r", "-f", "qcow2", "o.qcow2", *commands("write -b 0 512",
     "read -b 0 512", "reopen -w", "write -b 0 512", "write 0 512")],
    ["--image-opts", "driver=blkdebug,image.driver=qcow2,"
     "image.file.filename=o.qcow2", *commands("write -b 0 512",
     "read -b 0 512")],
    ["-rUnf", "raw", "a.raw", "-c", "length"],
    ["--read", "-f", "raw", "a.raw", "-c", "write 0 512"],
], ids=" ".join)
def test_layers_on_top_and_other_options(chains, args):
    compare(chains, args)


BLKDEBUG = ["--image-opts", "driver=raw,file.driver=blkdebug,"
            "file.image.driver=file,file.image.filename=a.raw"]
BREAKS = {
    "a request stops and goes on": [
        "break write_aio A", "aio_write 0 512", "wait_break A", "length",
        "resume A", "aio_flush"],
    "what does not exist": [
        "break nonsense A", "remove_break A", "resume A", "break pwritev",
        "break", "wait_break", "resume", "remove_break"],
    "it stops once": [
        "break pwritev A", "aio_write 0 512", "wait_break A", "resume B",
        "resume A", "resume A", "aio_flush", "write 0 512"],
    "several at once": [
        "break pwritev A", "break pwritev B", "aio_write 0 512",
        "wait_break A", "wait_break B", "resume A", "length", "resume B",
        "aio_flush"],
    "one after the other": [
        "break pwritev A", "break pwritev_done A", "aio_write 0 512",
        "wait_break A", "resume A", "wait_break A", "resume A", "aio_flush"],
    "removed before": [
        "break pwritev A", "remove_break A", "aio_write 0 512", "aio_flush",
        "remove_break A"],
    "removed while it stops one": [
        "break pwritev A", "aio_write 0 512", "wait_break A",
        "remove_break A", "aio_flush"],
    "never reached": ["break none A", "write 0 512"],
    "a read": ["write -P 7 0 64k", "break read_aio A", "aio_read -P 7 0 64k",
               "wait_break A", "resume A", "aio_flush"],
}


@pytest.mark.parametrize("run", BREAKS)
def test_breakpoints(sides, run):
    compare(sides, [*BLKDEBUG, *commands(*BREAKS[run])])


def test_breakpoints_need_blkdebug_somewhere(sides):
    lines = commands("break pwritev A", "remove_break A", "resume A")
    compare(sides, ["-f", "raw", "a.raw", *lines])
    compare(sides, lines)


@pytest.mark.parametrize("end", ["quit", "close", "length"])
def test_the_end_lets_go_what_stands(sides, end):
    """The peer waits for ever."""
    said = play("varve-io", sides[0], [*BLKDEBUG, *commands(
        "break pwritev A", "aio_write 0 512", "wait_break A", end)])
    assert said["status"] == 0 and "wrote 512/512" in said["stdout"]


def test_help_and_version(sides):
    for option in ("-h", "--help"):
        said = play("varve-io", sides[0], [option])
        assert said["status"] == 0 and "example" in said["stdout"]
    said = play("varve-io", sides[0], ["--version"])
    assert said["stdout"].startswith("{io} version ")


def test_a_signal_ends_it_at_once(sides):
    r = subprocess.run([program("varve-io"), "-f", "raw", "a.raw", "-c",
                        "write 0 4k", "-c", "sigraise 9"], cwd=sides[0],
                       capture_output=True, text=True, timeout=120, env=ENV)
    assert r.returncode == -9 and "wrote 4096/4096" in r.stdout

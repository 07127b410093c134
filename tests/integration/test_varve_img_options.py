"""Every option of the subcommands that change no image which is there, right
and wrong, by varve-img and qemu-img on the same images."""
import os
import shlex

import pytest

from lib.twin import NAMES, Twin, run

CREATE = """
o 1M | -q o 1M | o 1.5K | o 1kb | o 1x | o -1 | o 9E | o |  | -f nonsense o 1M
-f raw -o size=1M,help | -o extent_size_hint=5G o 1M
-f raw -o extent_size_hint=5G o 1M
-b base -F qcow2 o | -b base -F qcow2 o 5M | -b base -F raw o
-u -b missing -F qcow2 o 1M | -u -b missing -F qcow2 o | -u -b base o 1M
-f raw -b base -F qcow2 o 1M | -f raw -F qcow2 o 1M | -F qcow2 o 1M
-b base -F qcow2 -o backing_file=other o | -o size=3M o | -o size=3M o 1M
-o backing_file=base,backing_fmt=qcow2 o | -o cluster_size=3k o 1M
-o cluster_size=4M o 1M | -o foo=bar o 1M | -o foo o 1M
-o preallocation=metadata o 1M | -o preallocation=falloc o 1M
-o preallocation=x o 1M | -f raw -o preallocation=full o 1M
-f raw -o preallocation=falloc o 1M | -f raw -o nocow=on o 1M
-f raw -o extent_size_hint=1M o 1M | -f raw -o help | -f raw -o help o
-o compat=0.10 o 1M | -o compat=x o 1M | -o lazy_refcounts=x o 1M
-o refcount_bits=3 o 1M | -o compression_type=zstd o 1M | missing/o 1M
-o cluster_size=512 -o lazy_refcounts=on o 1M | o 1M 2M | -6 o 1M | -e o 1M
--object secret,id=s,data=a o 1M | --object secret,id=s o 1M | o 0 | o 1
-b missing -F qcow2 o | -b missing -F qcow2 o 1M | -b missing o 1M
-b missing -F nonsense o | -b s -F qcow2 o | -b . -F raw o | -b base o
-b r o 1M | -b o -F qcow2 o 1M | -u -b o -F qcow2 o | -b '' -F qcow2 o 1M
-o backing_file= -u o 1M | -o backing_file=missing,backing_fmt=raw o
-F qcow2 -b json:{"driver":"qcow2","file.filename":"base"} o
-b json:{"driver":"raw","file":{"driver":"file","filename":"z"}} -F raw o
-o data_file=a,,b o 1M
-o nolazy_refcounts o 1M | -o lazy_refcounts=yes o 1M | -o '' o 1M | -o , o 1M
-o size=1M, o | -o ,size=1M o | -o cluster_size= o 1M | -o cluster_size=-1 o 1M
-o refcount_bits=-1 o 1M | -o refcount_bits=x o 1M | -o lazy_refcounts=1 o 1M
-o refcount_bits=99999999999999999999 o 1M | -f raw -o nocow o 1M
-o nocow=yes o 1M | o 1b | o 1 M | o 0x1000 | o 1e3 | o 1. | o .5M | o 1.5.5M
"""
LOOK = """
info base | info -f raw base | info -f nonsense base | info --output=json top
info --output=x base | info --backing-chain top
info --backing-chain --output=json top | info -U top | info missing | info
info --force-share --backing-chain top | info a b | info -t none base
info --image-opts driver=qcow2,file.filename=top | info --object foo base
info --image-opts -f qcow2 top | info --image-opts driver=nonsense | info .
info json:{"driver":"qcow2","file.filename":"top"} | info /dev/null | info s
map top | map --output=json top | map --output=x top | map -l -1 top | map
map --start-offset=100k --max-length=100k --output=json top | map -s 5M top
map -s 100k -l 1 top | map -s x top | map -f raw r | map -U -f qcow2 top
map --image-opts driver=qcow2,file.filename=top | map missing
check top | check --output=json top | check -q top | check -r x top | check
check -q --output=json top | check -f raw r | check -U top | check -T none top
check -T x top | check missing | check -r leaks top | check -r all top
check --image-opts driver=qcow2,file.filename=top
compare top base | compare top top | compare -s top other | compare base other
compare -f qcow2 -F raw top r | compare -q top base | compare -T none top base
compare -T x top base | compare -U top base | compare top | compare a b c
compare missing top | compare top missing | compare -f nonsense top base
measure -O qcow2 top | measure -O raw top | measure --size 1M | measure
measure --output=json -O qcow2 top | measure --size 1M -O qcow2
measure --size x | measure --size 1M top | measure -O nonsense top
measure -O qcow2 -o cluster_size=4k --size 1G | measure -U -O qcow2 top
measure -O qcow2 -o foo=1 --size 1G | measure -f qcow2 -O qcow2 top
measure -O qcow2 -o preallocation=full --size 1G
measure -O raw -o preallocation=full --size 1G
measure -O qcow2 -o data_file=x --size 1G | measure -O qcow2 -o '' top
convert -O qcow2 -o '' top o | convert -O qcow2 -o size=1M, top o
convert --bitmaps -O qcow2 top top o | amend -o size=x top
amend -o '' top | amend -o size=1M, top | amend -o refcount_bits=-1 top
amend top | amend -o foo=1 top | amend -o cluster_size=4k top
amend -o help | amend -o size=1M | amend -o size=1M top top
amend -f raw -o help | amend -f raw -o help top | amend -f nonsense -o help top
amend -o help missing | amend -o help a b | amend -o size=-1 top
amend -o lazy_refcounts=on missing | amend -t x -o size=1M top
dd | dd if=top | dd of=o | dd if=missing of=o | dd if=top of=o bs=x
dd if=top of=o foo=1 | dd if=top of=o count=x | dd if=top of=o bs=0
nonsense
"""
# What --image-opts, and a name that is JSON, leave out, and get wrong.
TREES = """
file.filename=base | file.filename=r | file.driver=file,file.filename=base
file.filename=missing | file.filename= | file.driver=null-co | base | file=base
driver=file | filename=base | read-only=on | driver= | driver=raw
driver=raw,file.driver= | driver=qcow2,file.foo=base,foo=bar | driver=throttle
driver=raw,file.filename=null-co:// | driver=raw,file.filename=file:r
driver=blkdebug,image.file.filename=base | driver=copy-on-read
file.filename=top,backing= | file.filename=top,backing.driver=raw
driver=qcow2,file.filename=top,backing.node-name=b
driver=qcow2,file.filename=top,backing.l2-cache-size=1M
driver=qcow2,file.filename=top,backing.file.filename=base
driver=qcow2,file.filename=top,backing.file.filename=r
driver=qcow2,file.filename=top,backing.file.foo=x
driver=qcow2,file.filename=top,backing.driver=foo
driver=raw,file.filename=r,backing.driver=qcow2
file.filename=base,format=qcow2 | driver=qcow2,file.filename=base,aio=native
driver=qcow2,file.filename=base,discard=on
driver=qcow2,file.filename=base,discard=x
driver=qcow2,file.filename=base,lazy-refcounts
driver=qcow2,file.filename=base,nolazy-refcounts
driver=qcow2,file.filename=base,l2-cache-size=x
driver=qcow2,file.filename=base,l2-cache-size=-1
driver=qcow2,file.filename=base,cache-clean-interval=x
driver=qcow2,file.filename=base,detect-zeroes=x
driver=qcow2,file.filename=base,file.locking=x
driver=qcow2,file.filename=base,file.cache.direct=x
driver=qcow2,file.filename=base,overlap-check=foo
driver=qcow2,file.filename=base,overlap-check=none,overlap-check.main-header=on
driver=qcow2,file.filename=base,overlap-check=none,overlap-check.template=all
driver=qcow2,file.filename=base,overlap-check.foo=on
driver=nbd,server.type=foo | driver=nbd,server.path=x | driver=nbd,server=x
json:{} | json:[] | json:{"driver":"foo"} | json:{"driver":"qcow2"}
json:{"file.filename":"top","backing":null} | json:{"file":{"filename":"top"}}
json:{"driver":"qcow2","file.filename":"base","foo":"bar"}
json:{"driver":"raw","file.filename":"r","offset":true}
json:{"driver":"qcow2","file.filename":"top","backing":{}}
"""
FORMATS = """
-f raw json:{"driver":"qcow2","file.filename":"base"} | -f file base | -f nbd r
-f file json:{"driver":"qcow2","file.filename":"base"} | -f null-co r
-f host_device r | -f file null-co:// | -f throttle r | -f qcow2 ''
"""


def commands(text):
    for line in text.strip().splitlines():
        for words in line.split(" | "):
            yield shlex.split(words.replace('"', '\\"'))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    twin = Twin(tmp_path_factory.mktemp("options"))
    twin.create("base", "1M")
    twin.io("base", "write -P 1 0 200k")
    twin.create("top", backing="base")
    twin.io("top", "write -P 2 100k 300k")
    twin.create("r", "1M", fmt="raw")
    twin.io("r", "write -P 3 300k 300k", fmt="raw")
    twin.create("other", "2M")
    for directory in twin.dirs.values():
        (directory / "s").write_bytes(b"x" * 1000)
    return twin


def test_new_images(images):
    """What cannot be made leaves no file."""
    for words in commands(CREATE):
        fmt = [] if "-f" in words else ["-f", "qcow2"]
        # Where qemu-img tells the format of a backing file, no line ends.
        images.same("create", *fmt, *words, but=str.rstrip)
        made = [os.path.exists(d / "o") for d in images.dirs.values()]
        assert made[0] == made[1], words
        if made[0]:
            images.same("info", "-U", "--output=json", "o")
            for directory in images.dirs.values():
                (directory / "o").unlink()


def test_looks_at_images(images):
    before = {n: (images.dirs[n] / "top").read_bytes() for n in NAMES}
    for words in commands(LOOK):
        images.same(*words)
    for name, data in before.items():
        assert (images.dirs[name] / "top").read_bytes() == data
    run("qemu-img", images.ours, "check", "-q", "top", check=0)


def test_an_image_that_could_not_be_made_leaves_no_file(images, monkeypatch):
    monkeypatch.setattr("lib.twin.FILE_LIMIT", 500 << 10)
    for options in ("preallocation=full", "data_file=d,preallocation=full"):
        said = images.same("create", "-f", "qcow2", "-o", options, "o", "1M",
                           but=lambda text: "why")
        assert said[0] == 1
        for directory in images.dirs.values():
            assert not (directory / "o").exists()
            assert not (directory / "d").exists()


def test_options_that_are_left_out(images):
    for (words,) in commands(TREES):
        how = [] if words.startswith("json:") else ["--image-opts"]
        images.same("map", *how, words)
    for words in commands(FORMATS):
        images.same("map", *words)

"""varve-img info beside qemu-img: chains, and what is wrong with them; and what
varve-img has beyond it: pictures, and completion in the shell."""
import os
import subprocess
from xml.etree import ElementTree

import pytest

from lib.daemon import ROOT, build_dir
from lib.twin import run


@pytest.fixture
def images(twin):
    twin.create("base", "10M")
    twin.create("mid", backing="base")
    for directory in twin.dirs.values():
        (directory / "sub").mkdir()
    twin.create("sub/top", "-o", "cluster_size=4k,lazy_refcounts=on", "12M",
                backing="../mid")
    twin.create("raw", "1000001", fmt="raw")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "missing", "-F",
                 "raw", "gap", "1M")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "loop2", "-F",
                 "qcow2", "loop1", "1M")
    twin.prepare("create", "-q", "-f", "qcow2", "-u", "-b", "loop1", "-F",
                 "qcow2", "loop2", "1M")
    twin.create("zstd", "-o", "compression_type=zstd,refcount_bits=1", "1G")
    twin.create("old", "-o", "compat=0.10", "1M")
    return twin


@pytest.mark.parametrize("image", ["base", "mid", "sub/top", "raw", "gap",
                                   "loop1", "zstd", "old", "null-co://",
                                   "/dev/null", "missing", "."])
def test_one_and_its_chain(images, image):
    for args in ([], ["--output=json"], ["--backing-chain"],
                 ["--backing-chain", "--output=json"], ["-f", "raw"], ["-U"],
                 ["-f", "qcow2", "--output=json"]):
        images.same("info", *args, image)


def test_options_instead_of_a_name(images):
    for text in ("driver=qcow2,file.filename=mid",
                 "driver=qcow2,file.filename=sub/top", "driver=raw,"
                 "file.filename=raw", "driver=qcow2,file.driver=file,"
                 "file.filename=gap", "driver=qcow2,file.filename=raw"):
        for args in ([], ["--output=json"], ["--backing-chain"]):
            images.same("info", "--image-opts", *args, text)
    for driver, name in (("qcow2", "mid"), ("raw", "raw"), ("qcow2", "gap")):
        text = ('json:{"driver":"%s","file":{"driver":"file",'
                '"filename":"%s"}}' % (driver, name))
        for args in ([], ["--output=json"], ["--backing-chain"]):
            images.same("info", *args, text)


def test_options_of_what_is_not_opened(images):
    """The backing file stays closed, so nothing can be said of it."""
    other = "driver=raw,backing.file.driver=file,backing.file.filename=raw"
    for text in (f"backing.{other}", "backing=nothing"):
        for fmt, name in (("qcow2", "mid"), ("qcow2", "base"),
                          ("qcow2", "raw"), ("raw", "raw")):
            options = f"driver={fmt},file.filename={name},{text}"
            images.same("info", "--image-opts", options)
            images.same("rebase", "-u", "-b", "", "--image-opts", options)
    for name in ("mid", "base"):
        options = f"driver=qcow2,file.filename={name},backing="
        images.same("info", "--image-opts", options)
        images.same("map", "--image-opts", options)
    for backing in ('{"driver":"raw","file":{"driver":"file","filename":"raw"}}',
                    '"nothing"', "null"):
        images.same("info", 'json:{"driver":"qcow2","file":{"driver":"file",'
                    '"filename":"mid"},"backing":%s}' % backing)


def test_an_image_in_use(images):
    # Nobody else may write while the lock is held, but reading is free.
    images.same("info", "--output=json", "--force-share", "sub/top")
    assert "cluster_size: 4096" in run("varve-img", images.ours, "info",
                                       "sub/top", check=0).stdout


# ---- pictures of a map ----


def test_a_map_as_a_picture(twin):
    twin.create("base", "1M")
    twin.io("base", "write 0 256k")
    twin.create("top", backing="base")
    twin.io("top", "write 128k 256k", "write -z 512k 64k")
    text = run("varve-img", twin.ours, "map", "--output=ascii", "top",
               check=0).stdout
    lines = text.splitlines()
    assert lines[0] == "top: one character is 512 B"
    cells = "".join(line[14:] for line in lines[1:-1])
    assert cells == 256 * "b" + 512 * "#" + 256 * "." + 128 * "0" + 896 * "."
    part = run("varve-img", twin.ours, "map", "--output=ascii", "-s", "64k",
               "-l", "128k", "top", check=0).stdout.splitlines()
    assert "".join(line[14:] for line in part[1:-1]) == 128 * "b" + 128 * "#"
    svg = ElementTree.fromstring(run("varve-img", twin.ours, "map",
                                     "--output=svg", "top", check=0).stdout)
    assert svg.tag.endswith("svg") and len(svg) > 10


# ---- completion ----


def complete(*words):
    script = os.path.join(ROOT, "scripts/completion/varve-img")
    line = " ".join(words)
    code = (f'source {script}; COMP_WORDS=({line}); '
            f'[ "{words[-1]}" = "\'\'" ] && COMP_WORDS[{len(words) - 1}]=; '
            f'COMP_CWORD={len(words) - 1}; _varve_img; '
            'printf "%s\\n" "${COMPREPLY[@]}"')
    env = dict(os.environ, PATH=f"{build_dir()}:{os.environ['PATH']}")
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True,
                          check=True, timeout=120, env=env).stdout.split()


def test_the_shell_completes_what_the_program_takes():
    assert {"convert", "commit", "compare"} <= set(complete("varve-img", "co"))
    assert "rebase" in complete("varve-img", "''")
    assert complete("varve-img", "resize", "--sh") == ["--shrink"]
    assert complete("varve-img", "map", "--out") == ["--output="]
    assert complete("varve-img", "convert", "-O", "qc") == ["qcow2"]
    assert "none" in complete("varve-img", "convert", "-t", "''")

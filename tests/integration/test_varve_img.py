"""varve-img beside qemu-img: the same arguments, the same answers and status."""
import json
import os
import random
import re
import subprocess

import pytest

from lib.twin import normalise, run, without_sizes


@pytest.fixture
def sides(tmp_path):
    """A directory for each program."""
    for name in ("varve-img", "qemu-img"):
        (tmp_path / name).mkdir()
    return {name: tmp_path / name for name in ("varve-img", "qemu-img")}


def both(sides, *args, streams=("stdout", "stderr")):
    said = []
    for name, directory in sides.items():
        r = run(name, directory, *args)
        said.append({"status": r.returncode,
                     **{s: normalise(getattr(r, s), directory)
                        for s in streams}})
    assert said[0] == said[1], args
    return said[0]


def qemu_io(directory, image, *commands, fmt="raw"):
    args = [a for c in commands for a in ("-c", c)]
    r = subprocess.run(["qemu-io", "-f", fmt, *args, image], cwd=directory,
                       capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, (r.stdout, r.stderr)


# ---- create ----

CREATE = [
    ["-f", "raw", "x.img", "1M"],
    ["x.img", "1M"],
    ["-f", "raw", "x.img", "1000"],
    ["-f", "qcow2", "x.img", "1M"],
    ["-f", "qcow2", "-o", "cluster_size=4k", "x.img", "3M"],
    ["-f", "qcow2", "-o", "compat=0.10", "x.img", "1G"],
    ["-f", "qcow2", "-o", "refcount_bits=1", "x.img", "1G"],
    ["-f", "qcow2", "x.img", "1.5G"],
    ["-f", "qcow2", "x.img", "0"],
    ["-q", "-f", "qcow2", "x.img", "1T"],
]


@pytest.mark.parametrize("args", CREATE, ids=" ".join)
def test_create_makes_the_same_image(sides, args):
    both(sides, "create", *args)
    info = []
    for name, directory in sides.items():
        r = run("qemu-img", directory, "info", "--output=json", "x.img",
                check=0)
        d = json.loads(r.stdout)
        d.pop("actual-size")
        info.append(d)
        if d["format"] == "qcow2":
            run("qemu-img", directory, "check", "-q", "x.img", check=0)
    assert info[0] == info[1]
    if "raw" in args:
        assert len({(d / "x.img").stat().st_size for d in sides.values()}) == 1


@pytest.mark.parametrize("args", [
    ["-f", "nonsense", "x.img", "1M"],
    ["-f", "qcow2", "x.img"],
    ["-f", "raw", "missing/x.img", "1M"],
    ["-f", "qcow2", "-b", "missing", "-F", "raw", "x.img"],
    ["-f", "qcow2", "-o", "cluster_size=3k", "x.img", "1M"],
], ids=" ".join)
def test_create_refuses(sides, args):
    said = [run(name, directory, "create", *args)
            for name, directory in sides.items()]
    assert said[0].returncode == said[1].returncode == 1
    assert said[0].stderr.startswith("varve-img: ")
    assert not os.path.exists(sides["varve-img"] / "x.img") or \
        "cluster_size" in " ".join(args)


def test_overlay_is_read_by_both(sides):
    for directory in sides.values():
        run("qemu-img", directory, "create", "-q", "-f", "qcow2", "base", "1M",
            check=0)
        qemu_io(directory, "base", "write -P 5 64k 64k", fmt="qcow2")
    both(sides, "create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    for directory in sides.values():
        qemu_io(directory, "top", "read -P 5 64k 64k", "read -P 0 0 64k",
                "write -P 6 128k 64k", fmt="qcow2")
        run("qemu-img", directory, "check", "-q", "top", check=0)
    both(sides, "info", "--backing-chain", "top")


# ---- info ----


@pytest.fixture
def images(sides):
    for directory in sides.values():
        for args in (["-f", "raw", "a.raw", "1M"],
                     ["-f", "qcow2", "a.qcow2", "1M"],
                     ["-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "2M"],
                     ["-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2",
                      "o.qcow2"]):
            run("qemu-img", directory, "create", "-q", *args, check=0)
        for image, fmt in (("a.raw", "raw"), ("a.qcow2", "qcow2")):
            qemu_io(directory, image, "write -P 1 64k 100k",
                    "write -z 512k 64k", fmt=fmt)
        qemu_io(directory, "o.qcow2", "write -P 2 100k 64k", fmt="qcow2")
        with open(directory / "empty", "wb"):
            pass
    return sides


IMAGES = ["a.raw", "a.qcow2", "old.qcow2", "o.qcow2", "empty"]


@pytest.mark.parametrize("image", IMAGES)
def test_info_for_people(images, image):
    both(images, "info", image)


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("chain", [[], ["--backing-chain"]],
                         ids=["one", "chain"])
def test_info_for_programs(images, image, chain):
    said = [without_sizes(json.loads(
        run(name, directory, "info", "--output=json", *chain, image,
            check=0).stdout)) for name, directory in images.items()]
    assert said[0] == said[1]


@pytest.mark.parametrize("args", [
    ["missing"],
    ["-f", "nonsense", "a.raw"],
    ["-f", "qcow2", "a.raw"],
    ["--output=nonsense", "a.raw"],
], ids=" ".join)
def test_info_refuses(images, args):
    both(images, "info", *args, streams=("stdout", "stderr"))


@pytest.mark.parametrize("args", [
    [], ["--backing-chain"], ["--output=json", "--backing-chain"], ["-U"],
    ["--image-opts"]], ids=" ".join)
def test_info_needs_no_backing_file(images, args):
    """Not to tell what one image says of itself."""
    for directory in images.values():
        run("qemu-img", directory, "create", "-q", "-f", "qcow2", "-b",
            "o.qcow2", "-F", "qcow2", "top.qcow2", check=0)
        os.unlink(directory / "a.qcow2")
    for name in ("o.qcow2", "top.qcow2"):
        both(images, "info", *args, name if "--image-opts" not in args else
             f"driver=qcow2,file.filename={name}")


def test_info_finds_a_chain_that_is_a_ring(images):
    for directory in images.values():
        run("qemu-img", directory, "rebase", "-u", "-b", "o.qcow2", "-F",
            "qcow2", "a.qcow2", check=0)
    both(images, "info", "o.qcow2")
    both(images, "info", "--backing-chain", "o.qcow2")


def test_info_by_options(images):
    both(images, "info", "--image-opts", "driver=qcow2,file.filename=a.qcow2")
    both(images, "info",
         'json:{"driver":"qcow2","file":{"driver":"file",'
         '"filename":"a.qcow2"}}')


# ---- map ----


@pytest.mark.parametrize("image", ["a.raw", "a.qcow2", "o.qcow2", "old.qcow2",
                                   "empty"])
@pytest.mark.parametrize("args", [
    [], ["--output=json"], ["--output=json", "-s", "100k", "-l", "300k"],
    ["--output=json", "--start-offset=1000G"], ["--max-length=64k"]],
    ids=" ".join)
def test_map(images, image, args):
    both(images, "map", *args, image)


def test_map_of_compressed_clusters_and_of_an_overlay(images):
    for directory in images.values():
        run("qemu-img", directory, "convert", "-c", "-O", "qcow2", "a.qcow2",
            "c.qcow2", check=0)
        run("qemu-img", directory, "create", "-q", "-f", "qcow2", "-b",
            "c.qcow2", "-F", "qcow2", "over.qcow2", "10M", check=0)
        qemu_io(directory, "over.qcow2", "write -z 0 64k",
                "write -z -u 64k 64k", "write 128k 128k", fmt="qcow2")
    for image in ("c.qcow2", "over.qcow2"):
        both(images, "map", image)
        both(images, "map", "--output=json", image)


@pytest.mark.parametrize("args", [
    ["missing"], ["--output=nonsense", "a.raw"], ["-s", "x", "a.raw"],
    ["-l", "-1", "a.raw"], [], ["a.raw", "a.qcow2"]], ids=" ".join)
def test_map_refuses(images, args):
    both(images, "map", *args)


# ---- check ----


def check_both(sides, *args):
    """The two order their words and members each in their way."""
    said = []
    for name, directory in sides.items():
        r = run(name, directory, "check", *args)
        out = json.loads(r.stdout) if "--output=json" in args else r.stdout
        said.append([r.returncode, out,
                     sorted(normalise(r.stderr, directory).split("\n"))])
    assert said[0] == said[1], args
    return said[0]


@pytest.mark.parametrize("image", ["a.raw", "a.qcow2", "o.qcow2", "old.qcow2",
                                   "empty", "missing"])
def test_check(images, image):
    check_both(images, image)
    check_both(images, "-q", image)
    if image.endswith(".qcow2"):
        check_both(images, "--output=json", image)


@pytest.fixture
def damaged(sides):
    """The same image for both: refcount block at 128 KiB, data behind it."""
    first = sides["varve-img"]
    run("qemu-img", first, "create", "-q", "-f", "qcow2", "d.qcow2", "10M",
        check=0)
    qemu_io(first, "d.qcow2", "write 0 256k", "write 1M 64k", "write -z 2M 64k",
            "write 512k 64k", fmt="qcow2")
    run("qemu-img", first, "convert", "-c", "-O", "qcow2", "d.qcow2", "c.qcow2",
        check=0)
    run("qemu-img", first, "snapshot", "-c", "s", "c.qcow2", check=0)
    return sides


@pytest.mark.parametrize("image", ["d.qcow2", "c.qcow2"])
@pytest.mark.parametrize("damage", [
    (), (2 << 16, 5, 0), (2 << 16, 5, 3), (4 << 16, 0, 0),
    (2 << 16, 0, 2), (2 << 16, 6, 9)], ids=str)
def test_check_finds_damage(damaged, image, damage):
    path = damaged["varve-img"] / image
    with open(path, "r+b") as f:
        if damage:
            base, entry, value = damage
            f.seek(base + entry * 2)
            f.write(value.to_bytes(2, "big"))
    (damaged["qemu-img"] / image).write_bytes(path.read_bytes())
    status = check_both(damaged, image)[0]
    check_both(damaged, "--output=json", image)
    assert status in ((2, 3) if damage and damage[0] == 2 << 16 else (0, 2))


def test_check_counts_fragments_of_each_table(images, seed):
    """Where one table of clusters ends and the next begins is no fragment."""
    rng = random.Random(seed)
    first, second = images["varve-img"], images["qemu-img"]
    for cluster in ("512", "1k", "64k"):
        run("qemu-img", first, "create", "-q", "-f", "qcow2", "-o",
            f"cluster_size={cluster}", "f.qcow2", "8M", check=0)
        commands = []
        for _ in range(12):
            at = rng.randrange(12 << 10)
            commands.append(f"{rng.choice(['write', 'write -z', 'discard'])} "
                            f"{at * 512} {rng.randrange(1, 2048) * 512}")
        qemu_io(first, "f.qcow2", *commands, fmt="qcow2")
        (second / "f.qcow2").write_bytes((first / "f.qcow2").read_bytes())
        check_both(images, "f.qcow2")


# ---- compare ----


@pytest.mark.parametrize("args", [
    ["a.raw", "a.raw"],
    ["a.raw", "a.qcow2"],
    ["a.qcow2", "o.qcow2"],
    ["a.qcow2", "old.qcow2"],
    ["-s", "a.qcow2", "old.qcow2"],
    ["-q", "a.qcow2", "o.qcow2"],
    ["-f", "raw", "-F", "qcow2", "a.raw", "a.qcow2"],
    ["empty", "a.raw"],
    ["missing", "a.raw"],
    ["a.raw", "missing"],
], ids=" ".join)
def test_compare(images, args):
    both(images, "compare", *args)


# ---- convert ----


@pytest.mark.parametrize("source", ["a.raw", "a.qcow2", "o.qcow2",
                                    "old.qcow2", "empty"])
@pytest.mark.parametrize("to", ["raw", "qcow2"])
def test_convert_keeps_the_data(images, source, to):
    directory = images["varve-img"]
    run("varve-img", directory, "convert", "-O", to, source, "out", check=0)
    run("qemu-img", directory, "compare", source, "out", check=0)
    if to == "qcow2":
        run("qemu-img", directory, "check", "-q", "out", check=0)


def test_convert_leaves_zeroes_out(images):
    directory = images["varve-img"]
    with open(directory / "z", "wb") as f:
        f.write(bytes(1 << 20) + b"x" * 65536 + bytes(1 << 20))
    run("varve-img", directory, "convert", "-f", "raw", "-O", "qcow2", "z",
        "out", check=0)
    maps = json.loads(run("qemu-img", directory, "map", "--output=json", "out",
                          check=0).stdout)
    data = [(m["start"], m["length"]) for m in maps if m["data"]]
    assert data == [(1 << 20, 65536)]


def test_convert_refuses(images):
    for args in (["-O", "nonsense", "a.raw", "out"], ["missing", "out"],
                 ["-n", "a.raw", "missing"]):
        r = run("varve-img", images["varve-img"], "convert", *args)
        assert r.returncode == 1 and r.stderr.startswith("varve-img: "), args


# ---- the program ----


def test_help_everywhere(sides):
    directory = sides["varve-img"]
    names = re.findall(r"(?m)^  (\w+) ", run(
        "varve-img", directory, "--help", check=0).stdout)
    assert {"create", "info", "compare", "convert", "map",
            "check"} <= set(names)
    for name in names:
        said = run("varve-img", directory, name, "--help", check=0).stdout
        assert said.startswith(f"usage: varve-img {name}") and "example" in said


SUBCOMMANDS = ("check", "compare", "convert", "create", "info", "map")


@pytest.mark.parametrize("args", [
    "", "nonsense",
    *(f"{c} {more}" for c in SUBCOMMANDS
      for more in ("", "-x", "--nonsense", "-f", "--object foo",
                   "--object iothread,id=i a")),
    *(f"{c} a b c d" for c in SUBCOMMANDS if c != "convert"),
    "check -qx", "info --output", "map --output=xml a", "check --output=JSON a",
    "map -s -1 a", "map --max-length=1.5.5 a", "map -l 8E a", "map -s 20E a",
    "check -T nonsense a.raw", "compare -T nonsense a.raw a.raw",
    "convert -T nonsense a.raw b",
    "convert -m 17 a b", "convert -m x a b", "convert -S x a b",
    "convert -S 1000 a b",
    *(f"{c} -f raw --image-opts driver=raw,file.filename=a.raw {more}"
      for c, more in (("check", ""), ("compare", "a.raw"), ("convert", "b"),
                      ("info", ""), ("map", ""))),
    "create a 1M 2M", "create -q -o size=1M a 2M", "create -q -o size=x a 2M",
    "create -o size=20E a", "create -o size= a", "create -o size=20E,size=1M a",
    "create a x", "create a 8E", "create a 20E", "create -f qcow2 a 1kk",
])
def test_wrong_command_line(sides, args):
    for directory in sides.values():
        (directory / "a.raw").write_bytes(bytes(1 << 16))
    both(sides, *args.split())
    for directory in sides.values():
        assert os.listdir(directory) == ["a.raw"]


def test_options_may_stand_behind_words_and_be_cut_short(sides):
    for directory in sides.values():
        (directory / "a.raw").write_bytes(bytes(1 << 16))
    both(sides, "info", "a.raw", "-f", "raw", "--out", "human", "--force")
    both(sides, "compare", "a.raw", "-s", "a.raw")

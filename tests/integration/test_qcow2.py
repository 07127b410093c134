"""qcow2 beside QEMU: images cross between both sides, and neither finds fault
with what the other wrote."""
import json
import os
import random
import subprocess

import pytest

BUILD = os.environ.get("VARVE_BUILD", "build/gcc")
MIB = 1 << 20


def run(*argv, ok=True):
    r = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=120)
    assert not ok or r.returncode == 0, (argv, r.stdout, r.stderr)
    return r


def varve(tool, *argv, **kw):
    return run(os.path.join(BUILD, f"varve-{tool}"), *argv, **kw)


def qemu(tool, *argv, **kw):
    return run(f"qemu-{tool}", *argv, **kw)


SIDES = {"varve": varve, "qemu": qemu}


def check(image):
    qemu("img", "check", "-q", "-f", "qcow2", image)


def info(side, image):
    d = json.loads(SIDES[side]("img", "info", "--output=json", "-f", "qcow2",
                               image).stdout)
    del d["actual-size"], d["filename"]
    return d


def content(side, image, path, source="qcow2"):
    out = path / "content.raw"
    SIDES[side]("img", "convert", "-f", source, "-O", "raw", image, out)
    return out.read_bytes()


def assert_content(image, path, expected):
    for side in SIDES:
        assert content(side, image, path) == bytes(expected), side


def io(side, image, commands):
    argv = [a for c in commands for a in ("-c", c)]
    r = SIDES[side]("io", "-f", "qcow2", "-d", "unmap", *argv, image, ok=False)
    assert r.returncode == 0 and "failed" not in r.stdout + r.stderr, \
        (side, commands, r.stdout, r.stderr)
    return r.stdout


CREATE = ["", "compat=0.10", "cluster_size=512", "cluster_size=2M",
          "refcount_bits=1", "refcount_bits=64,cluster_size=4k",
          "lazy_refcounts=on", "compression_type=zstd",
          "preallocation=metadata", "preallocation=falloc",
          "preallocation=full,cluster_size=128k,compat=v2",
          "extended_l2=on", "extended_l2=on,preallocation=metadata",
          "extended_l2=on,cluster_size=16k,preallocation=full"]


@pytest.mark.parametrize("options", CREATE)
@pytest.mark.parametrize("size", ["0", "1000", "64M"])
def test_new_images_are_those_of_qemu(tmp_path, options, size):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    o = ["-o", options] if options else []
    varve("img", "create", "-q", "-f", "qcow2", *o, ours, size)
    qemu("img", "create", "-q", "-f", "qcow2", *o, theirs, size)
    check(ours)
    assert info("qemu", ours) == info("qemu", theirs)
    assert info("varve", ours) == info("varve", theirs) == info("qemu", ours)
    if options in ("", "compat=0.10", "refcount_bits=1", "extended_l2=on") \
            and size != "0":
        assert ours.read_bytes() == theirs.read_bytes()
    assert content("qemu", ours, tmp_path) == \
        bytes(info("qemu", ours)["virtual-size"])


@pytest.mark.parametrize("options, message", [
    ("cluster_size=100", "Cluster size must be a power of two"),
    ("refcount_bits=7", "Refcount width must be a power of two"),
    ("refcount_bits=32,compat=0.10", "require compatibility level 1.1"),
    ("lazy_refcounts=on,compat=0.10", "compatibility level 1.1"),
    ("compression_type=zstd,compat=0.10", "compatibility level 1.1"),
    ("compat=0.9", "does not accept value '0.9'"),
    ("nonsense=1", "Invalid parameter 'nonsense'"),
    ("backing_fmt=raw", "Backing format cannot be used without backing file"),
    ("data_file_raw=on", "data-file-raw requires data-file"),
    ("extended_l2=on,compat=v2", "Extended L2 entries are only supported with "
     "compatibility level 1.1"),
    ("extended_l2=on,cluster_size=8k", "Extended L2 entries are only supported "
     "with cluster sizes of at least 16384 bytes"),
])
def test_impossible_images_are_refused_by_name(tmp_path, options, message):
    r = varve("img", "create", "-q", "-f", "qcow2", "-o", options,
              tmp_path / "x", "64M", ok=False)
    assert r.returncode == 1 and message in r.stderr


def random_commands(rng, model, n, unit):
    commands = []
    for _ in range(n):
        offset = rng.randrange(len(model) // unit) * unit
        length = min(rng.choice([1, 3, 8, 64, 400]) * unit,
                     len(model) - offset)
        what = rng.randrange(8)
        pattern = rng.randrange(1, 256)
        if what < 5:
            commands.append(f"write -P {pattern} {offset} {length}")
        else:
            pattern = 0
            unmap = "-u " if what == 5 else ""
            commands.append(f"write -z {unmap}{offset} {length}")
        model[offset:offset + length] = bytes([pattern]) * length
    commands.append("flush")
    return commands


@pytest.mark.parametrize("options", [
    "cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=64k",
    "cluster_size=64k,compat=0.10", "cluster_size=2M,refcount_bits=64",
    "cluster_size=64k,preallocation=metadata",
    "cluster_size=64k,lazy_refcounts=on", "extended_l2=on",
    "extended_l2=on,cluster_size=16k,preallocation=metadata"])
def test_both_sides_write_in_turn(tmp_path, options):
    image = tmp_path / "image"
    rng = random.Random(options)
    model = bytearray(8 * MIB)
    qemu("img", "create", "-q", "-f", "qcow2", "-o", options, image, "8M")
    for turn in range(6):
        io(["varve", "qemu"][turn % 2], image,
           random_commands(rng, model, 25, 512))
        check(image)
    assert_content(image, tmp_path, model)


def compressible(size, seed):
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        out += rng.choice([bytes(20000), rng.randbytes(5000),
                           b"lorem ipsum " * 3000])
    return out[:size]


@pytest.mark.parametrize("options", [
    "compression_type=zlib", "compression_type=zstd",
    "compression_type=zlib,cluster_size=512",
    "compression_type=zlib,cluster_size=2M"])
def test_compressed_clusters_are_read_and_replaced(tmp_path, options):
    raw, image = tmp_path / "raw", tmp_path / "image"
    data = compressible(4 * MIB, options)
    raw.write_bytes(data)
    qemu("img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options,
         raw, image)
    assert_content(image, tmp_path, data)
    io("varve", image, random_commands(random.Random(options), data, 20, 512))
    check(image)
    assert_content(image, tmp_path, data)


COMPRESSION = ["", "compat=0.10", "compression_type=zstd", "cluster_size=512",
               "cluster_size=2M,compression_type=zstd",
               "cluster_size=4k,refcount_bits=1",
               "cluster_size=4k,refcount_bits=2", "extended_l2=on"]


@pytest.mark.parametrize("options", COMPRESSION)
def test_images_are_compressed_as_well_as_by_qemu(tmp_path, options):
    raw = tmp_path / "raw"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    data = compressible(4 * MIB + 1024, options)
    raw.write_bytes(data)
    o = ["-o", options] if options else []
    varve("img", "convert", "-c", "-f", "raw", "-O", "qcow2", *o, raw, ours)
    qemu("img", "convert", "-c", "-f", "raw", "-O", "qcow2", *o, raw, theirs)
    check(ours)
    assert_content(ours, tmp_path, data)
    assert ours.stat().st_size <= theirs.stat().st_size * 1.05 + 131072
    # They are normal images: each side writes on, and compresses again.
    rng = random.Random(options)
    io("qemu", ours, random_commands(rng, data, 20, 512))
    io("varve", ours, random_commands(rng, data, 20, 512))
    cluster = info("varve", ours)["cluster-size"]
    at = 2 * MIB
    io("varve", ours, [f"write -c -P 9 {at} {cluster}", "flush",
                       f"write -c -P 8 {at} {cluster}",
                       f"write -P 7 {at} 512"])
    data[at:at + cluster] = b"\x07" * 512 + b"\x08" * (cluster - 512)
    check(ours)
    assert_content(ours, tmp_path, data)


@pytest.mark.parametrize("cluster", ["512", "64k", "2M"])
def test_compression_keeps_holes_and_backing_files(tmp_path, cluster):
    base, over = tmp_path / "base", tmp_path / "over"
    data = compressible(6 * MIB, cluster)
    base.write_bytes(data)
    qemu("img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw",
         "-o", "cluster_size=4k", over)
    io("qemu", over, random_commands(random.Random(cluster), data, 20, 512))
    out, alone = tmp_path / "out", tmp_path / "alone"
    o = ["-o", f"cluster_size={cluster}"]
    varve("img", "convert", "-c", "-O", "qcow2", *o, over, alone)
    varve("img", "convert", "-c", "-O", "qcow2", *o, "-B", base, "-F", "raw",
          over, out)
    for image in out, alone:
        check(image)
        assert_content(image, tmp_path, data)


def test_compression_that_is_refused(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    for argv in (["-O", "raw"],
                 ["-O", "qcow2", "-o", "preallocation=metadata"]):
        said = [side("img", "convert", "-c", *argv, raw, tmp_path / "x",
                     ok=False) for side in (varve, qemu)]
        assert said[0].returncode == said[1].returncode == 1
        assert said[0].stderr.split(": ", 1)[1] == \
            said[1].stderr.split(": ", 1)[1]
        assert not (tmp_path / "x").exists()
    image = tmp_path / "image"
    varve("img", "create", "-q", "-f", "qcow2", image, "1M")
    commands = ["-c", "write -c 0 32k", "-c", "write -c 4k 64k"]
    said = [side("io", "-f", "qcow2", *commands, image, ok=False).stdout
            for side in (varve, qemu)]
    assert said[0] == said[1] == "write failed: Invalid argument\n" * 2


def test_a_broken_compressed_cluster_is_an_io_error(tmp_path):
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(b"compress me " * 20000)
    qemu("img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, image)
    with open(image, "r+b") as f:
        l1 = int.from_bytes(f.read(48)[40:48], "big")
        f.seek(l1)
        l2 = int.from_bytes(f.read(8), "big") & ~(1 << 63)
        f.seek(l2)
        f.seek(int.from_bytes(f.read(8), "big") & ((1 << 54) - 1))
        f.write(b"\xff" * 64)
    r = varve("io", "-r", "-f", "qcow2", "-c", "read 0 4k", image, ok=False)
    assert "Input/output error" in r.stdout + r.stderr


def test_internal_snapshots_keep_what_they_saw(tmp_path):
    image = tmp_path / "image"
    rng = random.Random(4)
    model = bytearray(8 * MIB)
    varve("img", "create", "-q", "-f", "qcow2", image, "8M")
    io("varve", image, random_commands(rng, model, 30, 512))
    seen = bytes(model)
    qemu("img", "snapshot", "-c", "one", image)
    io("varve", image, random_commands(rng, model, 30, 512))
    check(image)
    assert_content(image, tmp_path, model)
    qemu("img", "snapshot", "-a", "one", image)
    assert_content(image, tmp_path, seen)
    io("varve", image, ["write -P 1 0 1M"])
    qemu("img", "snapshot", "-d", "one", image)
    check(image)


def test_a_lazy_image_that_qemu_left_dirty_is_repaired(tmp_path):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on",
         image, "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 5 0 3M", "-c",
        "write -P 6 40M 1M", "-c", "flush", "-c", "abort", image, ok=False)
    assert info("varve", image)["dirty-flag"]
    assert info("varve", image) == info("qemu", image)
    io("varve", image, ["read -P 5 0 3M", "write -P 7 20M 1M"])
    assert not info("varve", image)["dirty-flag"]
    check(image)
    io("qemu", image, ["read -P 5 0 3M", "read -P 6 40M 1M",
                       "read -P 7 20M 1M"])


@pytest.mark.parametrize("name", ["base", "./base", "json"])
def test_overlays_in_another_folder(tmp_path, name):
    base, folder = tmp_path / "sub" / "base", tmp_path / "sub"
    folder.mkdir()
    data = bytearray(compressible(2 * MIB, 1))
    base.write_bytes(data)
    if name == "json":
        name = "json:" + json.dumps({"driver": "raw", "file": {
            "driver": "file", "filename": str(base)}})
    over = folder / "over"
    varve("img", "create", "-q", "-f", "qcow2", "-b", name, "-F", "raw", over)
    assert info("qemu", over)["virtual-size"] == 2 * MIB
    assert info("varve", over) == info("qemu", over)
    assert_content(over, tmp_path, data)
    io("varve", over, random_commands(random.Random(1), data, 30, 512))
    check(over)
    assert_content(over, tmp_path, data)
    assert base.read_bytes() == bytes(compressible(2 * MIB, 1))


def test_an_encrypted_image_is_refused_by_name(tmp_path):
    image = tmp_path / "image"
    qemu("img", "create", "-q", "-f", "qcow2", image, "1M")
    with open(image, "r+b") as f:
        f.seek(32)  # crypt_method
        f.write((2).to_bytes(4, "big"))
    r = varve("io", "-f", "qcow2", "-c", "read 0 512", image, ok=False)
    assert r.returncode == 1 and "LUKS" in r.stdout + r.stderr

"""varve-img rebase and commit beside qemu-img: what a chain shows afterwards,
and where it lies."""
import itertools
import json

import pytest

from lib.twin import run


def make_chain(twin, options="", sizes=("10M", "10M", "12M")):
    """base, mid, top: each with data and zeroes of its own."""
    more = ["-o", options] if options else []
    twin.create("base", *more, sizes[0])
    twin.io("base", "write -P 1 0 4M", "write -P 9 9M 1M", "write -z 6M 1M")
    twin.create("mid", *more, sizes[1], backing="base")
    twin.io("mid", "write -P 2 1M 1M", "write -P 3 5M 70k")
    twin.create("top", *more, sizes[2], backing="mid")
    twin.io("top", "write -P 4 2M 1M", "write -P 5 3100k 3k")
    if "0.10" not in options:
        twin.io("top", "write -z 512k 256k", "write -z 9M 64k")
    twin.create("other", *more, "11M")
    twin.io("other", "write -P 1 0 1M", "write -P 7 7M 1M", "write -P 8 10M 1M")
    for directory in twin.dirs.values():
        run("qemu-img", directory, "convert", "-O", "raw", "top", "before",
            check=0)


CHAINS = [("", ("10M", "10M", "12M")),
          ("cluster_size=4k", ("10M", "10M", "10M")),
          # No longer than what is behind it: there qemu-img refuses.
          ("compat=0.10", ("12M", "12M", "11M")),
          ("cluster_size=2M,refcount_bits=1", ("12M", "11M", "10M"))]


@pytest.fixture(params=CHAINS, ids=lambda c: c[0] or "default")
def chain(twin, request):
    make_chain(twin, *request.param)
    return twin


def allocated(twin, image):
    """[(start, end)] of what the image itself has, for both."""
    said = []
    for directory in twin.dirs.values():
        entries = json.loads(run("qemu-img", directory, "map", "--output=json",
                                 image, check=0).stdout)
        runs = []
        for e in entries:
            if e["depth"] or not e["present"]:
                continue
            if runs and runs[-1][1] == e["start"]:
                runs[-1][1] += e["length"]
            else:
                runs.append([e["start"], e["start"] + e["length"]])
        said.append(runs)
    return said


def content_is_as_before(twin, image="top"):
    for name, directory in twin.dirs.items():
        run(name, directory, "compare", "-F", "raw", image, "before", check=0)
        run("qemu-img", directory, "check", "-q", image, check=0)
        run("varve-img", directory, "check", "-q", image, check=0)


# ---- rebase ----


@pytest.mark.parametrize("base", [
    ("base", "qcow2"), ("other", "qcow2"), ("mid", "qcow2"), ("", None),
    ("before", "raw")], ids=lambda b: b[0] or "none")
def test_rebase_keeps_what_the_image_shows(chain, base):
    name, fmt = base
    chain.same("rebase", "-b", name, *(["-F", fmt] if fmt else []), "top")
    content_is_as_before(chain)
    chain.same_image("top")
    chain.same("info", "--output=json", "top")
    ours, theirs = allocated(chain, "top")
    # Zeroes that we know of need no look at the data; nothing else differs.
    covered = [any(a <= s and e <= b for a, b in theirs) for s, e in ours]
    assert all(covered), (ours, theirs)


def test_rebase_from_no_backing_file(twin):
    make_chain(twin)
    for directory in twin.dirs.values():
        run("qemu-img", directory, "convert", "-O", "raw", "base", "before",
            check=0)
    twin.same("rebase", "-b", "other", "-F", "qcow2", "base")
    content_is_as_before(twin, "base")


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512",
                                     "cluster_size=16k,extended_l2=on"])
def test_rebase_takes_no_more_than_what_differs(twin, options):
    twin.create("old", "2M")
    twin.io("old", "write -P 1 0 1M")
    twin.create("new", "2M")
    twin.io("new", "write -P 1 0 1M", "write -P 2 192k 512",
            "write -P 2 321k 512")
    twin.create("top", "-o", options, "2M", backing="old")
    twin.same("rebase", "-b", "new", "-F", "qcow2", "top")
    twin.same_image("top")
    twin.same_map("top")


def test_rebase_writes_zeroes_as_such(twin):
    twin.create("new", "1M")
    twin.io("new", "write -P 1 0 1M")
    twin.create("top", "1M")
    twin.io("top", "write -P 2 100k 3k")
    twin.same("rebase", "-b", "new", "-F", "qcow2", "top")
    twin.same_image("top")
    twin.same_map("top")


def test_rebase_with_options(twin):
    make_chain(twin)
    for args in ("-p -b other -F qcow2 -f qcow2", "-q -t none -T none -b base "
                 "-F qcow2", "-U -p -b other -F qcow2",
                 "-t writethrough -T unsafe -b mid -F qcow2"):
        ours, theirs = twin.answers("rebase", *args.split(), "top")
        # How often a progress is shown is up to the program.
        for said in (ours, theirs):
            said[1] = sorted(set(said[1].split("\r"))
                             & {"    (0.00/100%)", "    (100.00/100%)", "\n"})
        assert ours == theirs, args
        content_is_as_before(twin)


def test_unsafe_rebase_changes_the_name_alone(chain):
    before = [(d / "top").read_bytes() for d in chain.dirs.values()]
    for args in (["-b", "base", "-F", "qcow2"], ["-b", ""],
                 ["-b", "missing", "-F", "raw"],
                 ["-b", "/absolute/x" + "y" * 900, "-F", "qcow2"],
                 ["-b", "mid", "-F", "qcow2"]):
        chain.same("rebase", "-u", *args, "top")
        chain.same("info", "--output=json", "top")
    for directory, old in zip(chain.dirs.values(), before):
        new = (directory / "top").read_bytes()
        assert len(new) == len(old) and new[4096:] == old[4096:]
    content_is_as_before(chain)


def test_a_missing_backing_file_is_no_trouble_for_unsafe_rebase(twin):
    make_chain(twin)
    for directory in twin.dirs.values():
        (directory / "mid").rename(directory / "moved")
    said = twin.same("rebase", "-b", "base", "-F", "qcow2", "top")
    assert said[0] == 1
    twin.same("rebase", "-u", "-b", "moved", "-F", "qcow2", "top")
    content_is_as_before(twin)


def test_rebase_refuses(twin):
    make_chain(twin)
    twin.create("a.raw", "1M", fmt="raw")
    for args in ("-b missing -F raw top", "-b other -F nonsense top",
                 "-b other top", "-u -b other top", "top", "", "a b c -b x",
                 "-f raw -b base -F qcow2 top", "-t x -b base top",
                 "-T x -b base top", "-f nonsense -b base top", "-c -b base top",
                 "-b base -F qcow2 missing", "-f raw -b other -F qcow2 a.raw"):
        twin.same("rebase", *args.split())
    content_is_as_before(twin)


# ---- commit ----


@pytest.mark.parametrize("args", [
    "top", "-d top", "-b base top", "-b mid top", "-d -b base top",
    "-t none -r 1G top", "-f qcow2 -t unsafe top",
    "--image-opts driver=qcow2,file.filename=top"])
def test_commit(chain, args):
    chain.same("commit", *args.split())
    content_is_as_before(chain)
    for image in ("base", "mid"):
        chain.same_image(image)
        chain.same("info", "--output=json", image)
    ours, theirs = allocated(chain, "top")
    assert ours == theirs
    target = "base" if "base" in args else "mid"
    for directory in chain.dirs.values():
        run("qemu-img", directory, "compare", "-F", "raw", target, "before",
            check=0)


def test_commit_into_a_raw_image(twin):
    twin.create("base", "5M", fmt="raw")
    twin.io("base", "write -P 1 0 5M", fmt="raw")
    twin.prepare("create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base",
                 "top", "10M")
    twin.io("top", "write -P 3 2M 7M", "write -z 0 64k", "write -P 5 9M 1000")
    twin.same("commit", "top")
    twin.same_image("base", fmt="raw")
    said = [json.loads(run("qemu-img", d, "map", "--output=json", "-f", "raw",
                           "base", check=0).stdout) for d in twin.dirs.values()]
    assert said[0] == said[1]


def test_commit_refuses(twin):
    make_chain(twin)
    for args in ("-b missing top", "-b top top", "base", "-p base", "missing",
                 "", "a b", "-r x top", "-t x top", "-U top", "-f raw base",
                 "-f nonsense top", "-p -b missing top",
                 "--image-opts -f qcow2 driver=qcow2,file.filename=top"):
        twin.same("commit", *args.split())
    content_is_as_before(twin)


def test_commit_keeps_to_a_rate(twin):
    make_chain(twin)
    for args in ("-r 1G -p top",):
        ours, theirs = twin.answers("commit", *args.split())
        assert ours[0] == theirs[0] == 0
        assert ours[1].endswith("Image committed.\n")
    content_is_as_before(twin)


def test_each_reads_the_chains_that_the_other_made(twin):
    make_chain(twin)
    for one, other in itertools.permutations(twin.dirs):
        run(one, twin.dirs[one], "rebase", "-b", "base", "-F", "qcow2", "top",
            check=0)
        run(other, twin.dirs[one], "commit", "top", check=0)
        run(one, twin.dirs[one], "compare", "-F", "raw", "base", "before",
            check=0)
        run(other, twin.dirs[one], "check", "-q", "base", check=0)

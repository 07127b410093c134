"""varve-img compare beside qemu-img."""
import itertools


def test_every_pair(twin):
    twin.create("empty", "1M")
    twin.create("zeroes", "1M")
    twin.io("zeroes", "write -z 64k 64k")
    twin.create("data", "1M")
    twin.io("data", "write -P 1 0 64k", "write -P 0 256k 64k")
    twin.create("fine", "-o", "cluster_size=4k", "1M")
    twin.io("fine", "write -P 1 0 64k", "write -P 2 900k 100")
    twin.create("top", backing="data")
    twin.create("over", backing="data")
    twin.io("over", "write -z 0 64k")
    twin.prepare("convert", "-c", "-O", "qcow2", "data", "packed")
    twin.create("long", "3M")
    twin.io("long", "write -P 1 0 64k", "write -P 7 2500k 700")
    names = ["empty", "zeroes", "data", "fine", "top", "over", "packed", "long"]
    for a, b in itertools.product(names, names):
        for args in ([], ["-s"], ["-q"], ["-q", "-s"]):
            twin.same("compare", *args, a, b)


def test_raw_images(twin):
    for name, size in (("a", "1M"), ("b", "1M"), ("c", "3M"), ("d", "700k")):
        twin.create(name, size, fmt="raw")
    twin.io("b", "write -P 3 512k 100", fmt="raw")
    twin.io("c", "write -P 0 0 1M", "write -P 9 2M 1", fmt="raw")
    for a, b in itertools.product("abcd", "abcd"):
        for args in ([], ["-s"], ["-T", "none"], ["-U"]):
            # What is a hole is up to the file system, and so to the run.
            if args != ["-s"] or "c" not in (a, b):
                twin.same("compare", "-f", "raw", "-F", "raw", *args, a, b)

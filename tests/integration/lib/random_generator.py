"""Random operations on an image and the images behind it, as lists of commands
(random_operations.py plays them). What the peer itself gets wrong is left out,
each where the reason stands."""
import random

KIB = 1 << 10
MIB = 1 << 20
CLUSTERS = [512 << i for i in range(13)]
FAULTS = ["l2_load", "l2_update", "l2_alloc_write", "l1_update", "cow_read",
          "cow_write", "refblock_load", "refblock_update",
          "refblock_alloc_write", "cluster_alloc", "write_aio", "pwritev",
          "flush_to_os", "flush_to_disk", "read_aio", "pwritev_zero"]


class Shape:
    """The options of an image, and what follows from them."""

    def __init__(self, r, may_be_external=True, may_be_old=True):
        self.cluster = 64 * KIB
        self.bits = 16
        self.old = self.extended = self.external = self.raw = False
        self.options = []
        if r.randrange(4) == 0:
            return
        if r.randrange(2):
            self.cluster = r.choice(CLUSTERS)
            self.options.append(f"cluster_size={self.cluster}")
        if may_be_old and r.randrange(8) == 0:
            self.old = True
            self.options.append("compat=0.10")
            return
        if self.cluster >= 16 * KIB and r.randrange(3) == 0:
            self.extended = True
            self.options.append("extended_l2=on")
        if r.randrange(4) == 0:
            self.bits = r.choice([1, 2, 4, 8, 32, 64])
            self.options.append(f"refcount_bits={self.bits}")
        if r.randrange(5) == 0:
            self.options.append("lazy_refcounts=on")
        if r.randrange(4) == 0:
            self.options.append("compression_type=zstd")
        if may_be_external and r.randrange(8) == 0:
            self.external = True
            self.raw = bool(r.randrange(2))
            self.options.append("data_file=top.data")
            self.options += ["data_file_raw=on"] if self.raw else []

    def words(self):
        return ["-o", ",".join(self.options)] if self.options else []


class Generator:
    """Operations from a seed, which know as much of the image as they need to
    make sense most of the time."""

    def __init__(self, seed):
        r = self.random = random.Random(seed)
        self.size = r.choice([1 * MIB, 2 * MIB + 512 * 3, 3 * MIB + 64 * KIB])
        self.shape = Shape(r)
        self.backing = None
        # The peer forgets zeroes of an old image that has a backing file, and
        # cannot make it longer.
        if not self.shape.external and not self.shape.old:
            self.backing = r.choice(["mid.qcow2", "mid.qcow2", "base.qcow2",
                                     None])
        self.snapshots = []
        self.bitmaps = set()
        self.pattern = 0

    def start(self):
        """Commands of qemu-img and qemu-io that make the images."""
        r = self.random
        made = []
        for name in ("base.qcow2", "mid.qcow2", "other.qcow2"):
            size = r.choice([self.size, self.size, self.size // 2 // 512 * 512,
                             self.size + 128 * KIB])
            behind = ["-b", "base.qcow2", "-F", "qcow2"] \
                if name == "mid.qcow2" else []
            shape = Shape(r, may_be_external=False, may_be_old=False)
            made.append(["img", "create", "-q", "-f", "qcow2", *shape.words(),
                         *behind, name, str(size)])
            made.append(["io", "-f", "qcow2"] + [w for _ in range(4) for w in (
                "-c", self.write(size)[0])] + [name])
        behind = ["-b", self.backing, "-F", "qcow2"] if self.backing else []
        made.append(["img", "create", "-q", "-f", "qcow2", *self.shape.words(),
                     *behind, "top.qcow2", str(self.size)])
        return made

    # ---- requests ----

    def extent(self, size=None):
        r = self.random
        size = size or self.size
        offset = r.randrange(size)
        bytes_ = r.choice([1, 511, 512, 2 * KIB, 4 * KIB, 64 * KIB, 200 * KIB,
                           r.randrange(1, 300 * KIB)])
        align = r.choice([1, 1, 512, 2 * KIB, 4 * KIB, 64 * KIB])
        offset = offset // align * align
        bytes_ = (bytes_ + align - 1) // align * align
        return offset, max(1, min(bytes_, size - offset))

    def write(self, size=None):
        self.pattern = self.pattern % 250 + 1
        offset, bytes_ = self.extent(size)
        return [f"write -P {self.pattern} {offset} {bytes_}"]

    def write_compressed(self):
        """Clusters, or another range, which is refused. The peer refuses to
        replace data."""
        if self.shape.external:
            return self.write()
        self.pattern = self.pattern % 250 + 1
        unit = self.shape.cluster
        first = self.random.randrange((self.size + unit - 1) // unit) * unit
        bytes_ = min(unit * self.random.choice([1, 1, 2, 3]), self.size - first)
        if self.random.randrange(10) == 0:
            bytes_ = max(1, bytes_ - 512)
        return [f"discard {first} {bytes_}",
                f"write -c -P {self.pattern} {first} {bytes_}"]

    def write_zeroes(self):
        offset, bytes_ = self.extent()
        # What an old image leaves as it is because it is zero anyway, the peer
        # takes for a write that is not supported.
        how = self.random.choice(["", " -u", " -f"] +
                                 [" -n", " -u -n"] * (not self.shape.old))
        return [f"write -z{how} {offset} {bytes_}"]

    def discard(self):
        offset, bytes_ = self.extent()
        return [f"discard {offset} {bytes_}"]

    def read(self):
        offset, bytes_ = self.extent()
        return [f"read -vC {offset} {min(bytes_, 64)}"]

    def reopen(self):
        return [self.random.choice(["reopen -r", "reopen -c none", "flush"]),
                "reopen -w"]

    def requests(self):
        r = self.random
        kinds = [self.write] * 6 + [self.write_zeroes] * 3 + \
            [self.discard] * 3 + [self.write_compressed] * 2 + \
            [self.read, self.reopen]
        lines = [line for _ in range(r.randrange(1, 6))
                 for line in r.choice(kinds)()]
        mode = r.choice([[], [], [], ["-d", "unmap"], ["-t", "writethrough"]])
        return [["io", "-f", "qcow2", *mode, *[w for line in lines
                                               for w in ("-c", line)],
                 "top.qcow2"]]

    def fault(self):
        """A request in which one step below the format fails, ours alone."""
        r = self.random
        kinds = [self.write] * 3 + [self.write_zeroes, self.discard,
                                    self.write_compressed]
        return [["fault", r.choice(FAULTS), r.choice(["5", "28"]),
                 r.choice(kinds)()[-1]]]

    def kill(self):
        """The process dies after some requests, ours alone."""
        r = self.random
        kinds = [self.write] * 4 + [self.write_zeroes, self.discard,
                                    self.write_compressed]
        before, after = ([r.choice(kinds)()[-1] for _ in range(r.randrange(4))]
                         for _ in range(2))
        return [["kill", str(len(before)), *before, *after]]

    # ---- what changes the image as a whole ----

    def resize(self):
        """A smaller disk ends with a cluster: a larger one that the peer makes
        of it later shows what was behind the end in the same cluster."""
        r = self.random
        old = self.size
        size = r.choice([old + r.randrange(-512, 512) * 512, old - 256 * KIB,
                         old + 256 * KIB, r.randrange(1, 8 * KIB) * 512])
        unit = max(self.shape.cluster, 64 * KIB)
        if size < old:
            size = size // unit * unit
        # Refused for an old image with snapshots.
        if size <= 0 or (self.shape.old and self.snapshots):
            return self.requests()
        self.size = size
        how = ["--shrink"] if size < old else r.choice([
            [], [], [], ["--preallocation=metadata"],
            ["--preallocation=falloc"]])
        return [["img", "resize", "-q", "-f", "qcow2", *how, "top.qcow2",
                 str(self.size)]]

    def snapshot(self):
        r = self.random
        # No room for further references: the peer leaks when it finds out.
        if len(self.snapshots) + 2 >= 1 << min(self.shape.bits, 16) or \
                self.shape.bits < 8:
            return self.requests()
        kind = r.choice(["-c", "-c", "-a", "-a", "-d"])
        if kind == "-c" or not self.snapshots:
            name = f"s{r.randrange(100)}"
            if not self.shape.external:
                self.snapshots.append((name, self.size))
            return [["img", "snapshot", "-c", name, "top.qcow2"]]
        i = r.randrange(len(self.snapshots))
        name, size = self.snapshots[i]
        if kind == "-d":
            del self.snapshots[i]
        elif not self.bitmaps:  # with them, it is refused
            self.size = size
        return [["img", "snapshot", kind, name, "top.qcow2"]]

    def commit(self):
        kinds = [[], ["-d"], ["-b", self.backing or "base.qcow2"]]
        if self.backing == "mid.qcow2":
            kinds.append(["-b", "base.qcow2"])
        return [["img", "commit", "-q", "-f", "qcow2",
                 *self.random.choice(kinds), "top.qcow2"]]

    def rebase(self):
        r = self.random
        if self.shape.old:
            return self.requests()
        unsafe = r.choice([[], [], [], ["-u"]])
        self.backing = r.choice(["base.qcow2", "mid.qcow2", "other.qcow2", ""])
        form = ["-F", "qcow2"] if self.backing else []
        return [["img", "rebase", "-q", *unsafe, "-f", "qcow2", "-b",
                 self.backing, *form, "top.qcow2"]]

    def convert(self):
        r = self.random
        if self.shape.external:
            return self.requests()
        shape = Shape(r, may_be_external=False)
        words = ["img", "convert", "-q", "-f", "qcow2", "-O", "qcow2"]
        words += r.choice([[], [], ["-c"], ["-S", "0"], ["-S", "64k"],
                           ["-m", "1"], ["-W"]])
        words += shape.words()
        if self.backing and not shape.old and r.randrange(2):
            words += ["-B", self.backing, "-F", "qcow2"]
        else:
            self.backing = ""
        if self.bitmaps and not shape.old and r.randrange(2):
            words.append("--bitmaps")
        else:
            self.bitmaps = set()
        self.shape, self.snapshots = shape, []
        return [[*words, "top.qcow2", "new.qcow2"],
                ["mv", "new.qcow2", "top.qcow2"]]

    def amend(self):
        r = self.random
        if self.shape.old:
            option = "compat=1.1"
        else:
            option = r.choice(["lazy_refcounts=on", "lazy_refcounts=off",
                               "compat=0.10", "compat=1.1", "refcount_bits"])
        if option == "compat=0.10":
            if self.backing or self.snapshots or self.shape.extended or \
                    self.shape.external or self.bitmaps or \
                    self.shape.bits != 16:
                return self.requests()
            self.shape.old = True
        elif option == "compat=1.1":
            self.shape.old = False
        elif option == "refcount_bits":
            # With large clusters the peer never ends.
            if self.snapshots or self.shape.cluster > 256 * KIB:
                return self.requests()
            self.shape.bits = r.choice([1, 2, 4, 8, 16, 32, 64])
            option += f"={self.shape.bits}"
        return [["img", "amend", "-q", "-f", "qcow2", "-o", option,
                 "top.qcow2"]]

    def bitmap(self):
        r = self.random
        name = r.choice("ab")
        if self.shape.old:
            return self.requests()
        kinds = [["--add"], ["--add", "-g", "4k"], ["--add", "-g", "512"]]
        if self.bitmaps:
            name = r.choice(sorted(self.bitmaps))
            other = r.choice(sorted(self.bitmaps))
            kinds = [["--remove"], ["--clear"], ["--disable"], ["--enable"],
                     ["--merge", other], ["--add", "--merge", other],
                     ["--add"]]
        how = r.choice(kinds)
        if how[0] == "--add" and len(how) != 1:
            name = r.choice("abc")
        if how[0] == "--add":
            self.bitmaps.add(name)
        elif how[0] == "--remove":
            self.bitmaps.discard(name)
        return [["img", "bitmap", *how, "top.qcow2", name]]

    def operation(self):
        kinds = [self.requests] * 10 + [self.resize] * 2 + \
            [self.rebase] * 2 + [self.snapshot] * 3 + [self.bitmap] * 3 + \
            [self.commit, self.convert, self.amend, self.fault, self.kill]
        return self.random.choice(kinds)()

"""Running programs, medians with their spread, and tables.

Each table has a key, by which tests/bench/document finds its place in
docs/performance.md."""
import json
import os
import statistics
import subprocess

from .aims import AIMS


class Context:
    """What every section needs: where things are, and where results go."""

    def __init__(self, build, directory, quick):
        self.build = build
        self.dir = directory
        self.quick = quick
        self.rows = []
        self.tables = {}

    def program(self, name):
        return os.path.join(self.build, name)

    def bench(self, name):
        """Path of a benchmark program, built if need be."""
        target = os.path.join(self.build, "tests", "bench", name)
        subprocess.run(["make", "--no-print-directory", "-j2",
                        os.path.relpath(target)], check=True,
                       stdout=subprocess.DEVNULL)
        return target

    def path(self, name):
        return os.path.join(self.dir, name)

    def add(self, section, row, **figures):
        self.rows.append(dict(section=section, row=row, **figures))

    def table(self, key, title, header, rows):
        """Prints it, and keeps it for the document. Empty columns go."""
        rows = [[str(c) for c in r] for r in rows]
        keep = [i for i in range(len(header)) if any(r[i] for r in rows)]
        header = [header[i] for i in keep]
        rows = [[r[i] for i in keep] for r in rows]
        self.tables[key] = {"title": title, "header": header, "rows": rows}
        print_table(title, header, rows)

    def save(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            json.dump({"rows": self.rows, "tables": self.tables}, f, indent=1)
        print(f"\nfigures: {path}")


def json_lines(argv):
    """The JSON objects that a benchmark program prints, a line each."""
    return json_objects(subprocess.run(argv, check=True, text=True,
                                       stdout=subprocess.PIPE).stdout)


def json_objects(text):
    return [json.loads(line) for line in text.splitlines()
            if line.startswith("{")]


def spread(values):
    return statistics.median(values), min(values), max(values)


def si(value):
    """1234567 -> '1.23 M'."""
    for limit, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"


def with_spread(values, unit=""):
    mid, low, high = spread(values)
    return f"{si(mid)}{unit} ({si(low)}..{si(high)})"


def print_table(title, header, rows):
    widths = [max(len(r[i]) for r in [header] + rows)
              for i in range(len(header))]
    print(f"\n{title}")
    line = "  ".join("-" * w for w in widths)
    print("  ".join(h.ljust(w) for h, w in zip(header, widths)))
    print(line)
    for r in rows:
        print("  ".join(c.ljust(w) for c, w in zip(r, widths)), flush=True)


def aim(section, row):
    """What the ratio should reach, as a cell; empty if nothing is said."""
    return str(AIMS.get(section, {}).get(row, ""))


def paired(context, section, row, ours, theirs, rounds, unit, bigger=True):
    """Runs two measurements in turn; each returns a number. Returns the cells of
    a table row: name, ours, theirs, ratio (ours better = above 1), aim."""
    ours(), theirs()  # a warm-up that does not count
    a, b = [], []
    for _ in range(rounds):
        a.append(ours())
        b.append(theirs())
    ratios = [x / y if bigger else y / x for x, y in zip(a, b)]
    context.add(section, row, unit=unit, varve=spread(a), qemu=spread(b),
                ratio=spread(ratios))
    mid, low, high = spread(ratios)
    return [row, with_spread(a, unit), with_spread(b, unit),
            f"{mid:.2f} ({low:.2f}..{high:.2f})", aim(section, row)]


PAIRED_HEADER = ["", "varve", "QEMU", "ratio", "aim"]

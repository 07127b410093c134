"""Images made, checked and compared by qemu-img, and by varve-img where that
has the command."""
import json
import subprocess

from .daemon import program

CHECK_LEAKS = 3


def qemu_img(*args, ok=(0,), tool="qemu-img"):
    done = subprocess.run([program(tool), *map(str, args)],
                          capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode in ok, (args, done.stdout, done.stderr)
    return done


def create(path, size=None, backing=None, cluster=None, tool="qemu-img"):
    """A qcow2 image; with a backing file of that format, of its size."""
    options = ["-o", f"cluster_size={cluster}"] if cluster else []
    behind = ["-b", backing, "-F", "qcow2"] if backing else []
    qemu_img("create", "-q", "-f", "qcow2", *options, *behind, path,
             *([size] if size else []), tool=tool)


def freeze(source, copy):
    """A raw copy of what an image that is in use holds now."""
    qemu_img("convert", "-U", "-O", "raw", source, copy)


def assert_equal(a, b, a_format="raw", b_format="qcow2"):
    """By both programs. The images are not in use."""
    for name in ("qemu-img", "varve-img"):
        done = subprocess.run(
            [program(name), "compare", "-f", a_format, "-F", b_format, a, b],
            capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (name, a, b, done.stdout, done.stderr)


def check(path, leaks_allowed=False):
    """No corruption, and no leaked cluster unless allowed."""
    done = qemu_img("check", "--output=json", path,
                    ok=(0, CHECK_LEAKS) if leaks_allowed else (0,))
    result = json.loads(done.stdout)
    assert not result.get("corruptions") and not result["check-errors"], result
    assert leaks_allowed or not result.get("leaks"), result


def joined_runs(text, places=True):
    """What map says in JSON, in runs that differ from their neighbours. Whether
    data are zeroes is a question to the file, which each side asks at times.
    """
    runs = []
    for run in json.loads(text):
        run["zero"] = run["zero"] and not run["data"]
        run["placed"] = "offset" in run
        if not places:
            run.pop("offset", None)
        last = runs[-1] if runs else {}
        if all(last.get(k) == run[k] for k in ("depth", "present", "zero",
                                               "data", "placed")) and \
                last.get("offset", 0) + (last["length"] if "offset" in run
                                         else 0) == run.get("offset", 0):
            last["length"] += run["length"]
        else:
            runs.append(run)
    return runs

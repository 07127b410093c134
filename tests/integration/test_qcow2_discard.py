"""Discarded clusters that keep their place, in a file that QEMU looks at."""
import json
import os
import subprocess

import pytest
from lib import program
from lib.images import create, qemu_img

MIB = 1 << 20


def varve_io(image, *commands):
    options = ("driver=qcow2,discard=unmap,discard-no-unref=on,"
               f"file.driver=file,file.discard=unmap,file.filename={image}")
    args = [word for command in commands for word in ("-c", command)]
    subprocess.run([program("varve-io"), "--image-opts", options, *args],
                   check=True, stdout=subprocess.DEVNULL)


def runs(image):
    out = subprocess.run(
        [program("qemu-img"), "map", "-f", "qcow2", "--output=json", image],
        check=True, stdout=subprocess.PIPE).stdout
    return [(r["start"], r["length"], r["zero"], r.get("offset"))
            for r in json.loads(out)]


def taken(image):
    return os.stat(image).st_blocks * 512


@pytest.mark.parametrize("options", ["extended_l2=off", "extended_l2=on"])
@pytest.mark.parametrize("command", ["discard", "write -z -u"])
def test_storage_goes_and_the_place_stays(tmp_path, options, command):
    image = str(tmp_path / "a.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, image, "8M")
    varve_io(image, "write -P 7 0 8M")
    before, size = taken(image), os.stat(image).st_size
    ((_, _, zero, host),) = runs(image)
    assert not zero
    varve_io(image, f"{command} 1M 4M", "read -P 0 1M 4M", "read -P 7 5M 3M")
    assert taken(image) <= before - 4 * MIB
    assert runs(image) == [(0, MIB, False, host),
                           (MIB, 4 * MIB, True, host + MIB),
                           (5 * MIB, 3 * MIB, False, host + 5 * MIB)]
    qemu_img("check", "-q", "-f", "qcow2", image)
    varve_io(image, "write -P 8 4M 1M", "write -P 9 1M 3M")
    assert runs(image) == [(0, 8 * MIB, False, host)]
    assert os.stat(image).st_size == size
    qemu_img("check", "-q", "-f", "qcow2", image)


def test_a_snapshot_keeps_what_the_disk_discards(tmp_path):
    image = str(tmp_path / "a.qcow2")
    create(image, "8M")
    varve_io(image, "write -P 7 0 8M")
    qemu_img("snapshot", "-c", "s", image)
    varve_io(image, "discard 1M 4M", "read -P 0 1M 4M")
    qemu_img("check", "-q", "-f", "qcow2", image)
    qemu_img("snapshot", "-a", "s", image)
    varve_io(image, "read -P 7 0 8M")
    qemu_img("check", "-q", "-f", "qcow2", image)

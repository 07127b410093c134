"""What an exit status and the last output of varve-img and varve-io are worth
when something could not be written."""
import subprocess

import pytest

from lib.daemon import program
from lib.twin import run

FULL = "driver=qcow2,file.driver=blkdebug,file.image.driver=file," \
    "file.image.filename={},file.inject-error.0.event=none," \
    "file.inject-error.0.iotype=write,file.inject-error.0.errno=28"


@pytest.fixture
def image(tmp_path):
    run("qemu-img", tmp_path, "create", "-f", "qcow2", "a", "1M", check=0)
    return tmp_path / "a"


def test_a_bitmap_that_cannot_be_stored_is_a_failure(image):
    said = run("varve-img", image.parent, "bitmap", "--add", "--image-opts",
               FULL.format("a"), "b", check=1)
    assert "its bitmaps are lost" in said.stderr
    assert '"filename":"a"' in said.stderr
    run("qemu-img", image.parent, "check", "a", check=0)


def test_bitmaps_of_a_converted_image_are_stored_or_it_failed(image):
    run("qemu-img", image.parent, "bitmap", "--add", "a", "b", check=0)
    run("qemu-img", image.parent, "create", "-f", "qcow2", "to", "1M", check=0)
    said = run("varve-img", image.parent, "convert", "-n", "--bitmaps", "--target-is-zero",
               "--target-image-opts", "a", FULL.format("to"), check=1)
    assert "its bitmaps are lost" in said.stderr


@pytest.mark.parametrize("command", [
    ("varve-img", "info"), ("varve-img", "map", "--output=json"),
    ("varve-img", "check"), ("varve-img", "bitmap", "--list"),
    ("varve-io", "-c", "read 0 4k")], ids=lambda c: c[1])
def test_output_that_found_no_room_is_a_failure(image, command):
    with open("/dev/full", "w") as full:
        said = subprocess.run([program(command[0]), *command[1:], image],
                              stdout=full, stderr=subprocess.PIPE, text=True)
    assert said.returncode == 1
    assert said.stderr == \
        f"{command[0]}: standard output: No space left on device\n"


def test_an_image_never_takes_the_place_of_a_closed_output(image):
    before = image.read_bytes()
    subprocess.run(f"{program('varve-img')} amend -p -o compat=1.1 {image} "
                   "<&- >&- 2>&-", shell=True, check=True)
    subprocess.run(f"{program('varve-io')} -c 'read 0 4k' {image} <&- >&- 2>&-",
                   shell=True, check=True)
    assert image.read_bytes() == before


@pytest.mark.parametrize("command", [
    "convert -p a nowhere/b", "rebase -p -b nothing -F raw a",
    "commit -p a", "amend -p -o nothing=1 a", "compare -p a nothing"])
def test_a_progress_that_stopped_ends_its_line(image, command):
    said = run("varve-img", image.parent, *command.split())
    assert said.returncode and said.stdout.endswith("\n")
    assert "100.00" not in said.stdout.replace("/100%", "")

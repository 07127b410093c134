"""What a crash right after a resize leaves behind."""
import shutil
import subprocess

from lib import Varved

MIB = 1 << 20


def qemu_img(*argv):
    subprocess.run(["qemu-img", *map(str, argv)], check=True,
                   stdout=subprocess.DEVNULL)


def test_grown_overlay_never_shows_old_backing_data(start, tmp_path):
    base, over = tmp_path / "base.raw", tmp_path / "over.qcow2"
    crashed = tmp_path / "crashed.qcow2"
    base.write_bytes(b"\x5a" * 4 * MIB)
    qemu_img("create", "-f", "qcow2", "-b", base, "-F", "raw", over)
    varved = start(Varved, "--blockdev",
                   f"driver=qcow2,node-name=n,file.driver=file,"
                   f"file.filename={over}")
    varved.command("block_resize", {"node-name": "n", "size": MIB})
    varved.command("block_resize", {"node-name": "n", "size": 4 * MIB})
    # What a kill at this moment would leave.
    shutil.copyfile(over, crashed)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", crashed,
             tmp_path / "seen.raw")
    seen = (tmp_path / "seen.raw").read_bytes()
    assert seen == b"\x5a" * MIB + bytes(3 * MIB)

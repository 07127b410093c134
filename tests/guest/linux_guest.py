"""A real Linux kernel in an emulated machine, with disks over vhost-user.

The kernel is Debian's; the initramfs holds busybox, e2fsprogs, the virtio
modules, a program that makes load, and a script that carries out what it reads
from the second serial port. No network, no root file system.
"""
import functools
import glob
import io
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAMS = ("mke2fs", "e2fsck")
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev",
           "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")

INIT = r"""#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for m in %s; do insmod /modules/$m.ko; done
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo "@ready" >&3
while read -r line <&3; do
    eval "$line" >/out 2>&1 </dev/null
    status=$?
    echo "$(cat /out)" >&3
    echo "@status $status" >&3
done
""" % " ".join(MODULES)


def kernel():
    """(path of the newest installed kernel, its release)."""
    paths = glob.glob("/boot/vmlinuz-*cloud-amd64")
    assert paths, "package linux-image-cloud-amd64 is not installed"
    path = max(paths, key=lambda p: [int(n) for n in re.findall(r"\d+", p)])
    return path, path.split("vmlinuz-", 1)[1]


class Archive:
    """A cpio archive in the "newc" form that the kernel unpacks."""

    def __init__(self):
        self.out = io.BytesIO()
        self.inode = 0

    def add(self, name, mode, data=b""):
        self.inode += 1
        fields = (self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0,
                  len(name) + 1, 0)
        self.out.write(b"070701" + b"".join(b"%08x" % f for f in fields))
        self.out.write(name.encode() + b"\0")
        self.pad()
        self.out.write(data)
        self.pad()

    def pad(self):
        self.out.write(b"\0" * (-self.out.tell() % 4))

    def content(self):
        self.add("TRAILER!!!", 0)
        return self.out.getvalue()


def module(release, name):
    found = glob.glob(f"/lib/modules/{release}/kernel/drivers/*/{name}.ko*")
    assert found, f"module {name} is not installed"
    if found[0].endswith(".xz"):
        return subprocess.run(["xz", "-dc", found[0]], check=True,
                              capture_output=True).stdout
    return file_content(found[0])


def file_content(path):
    with open(path, "rb") as f:
        return f.read()


def libraries(path):
    """What a program needs beside itself, the loader too."""
    out = subprocess.run(["ldd", path], check=True, capture_output=True,
                         text=True).stdout
    return re.findall(r"(/\S+) \(0x", out)


def built(name):
    """A C program of this folder, for a machine without libraries."""
    with tempfile.TemporaryDirectory() as directory:
        out = os.path.join(directory, name)
        subprocess.run(["gcc", "-D_GNU_SOURCE", "-O2", "-Wall", "-static", "-o",
                        out, os.path.join(HERE, f"{name}.c")], check=True)
        return file_content(out)


def add_programs(archive):
    needed = set()
    for name in PROGRAMS:
        path = shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin")
        assert path, f"{name} is not installed"
        archive.add(f"bin/{name}", stat.S_IFREG | 0o755, file_content(path))
        needed |= set(libraries(path))
    directories = set()
    for path in sorted(needed):
        parent = os.path.dirname(path).lstrip("/")
        for i, c in enumerate(parent + "/"):
            if c == "/" and parent[:i] not in directories:
                directories.add(parent[:i])
                archive.add(parent[:i], stat.S_IFDIR | 0o755)
        archive.add(path.lstrip("/"), stat.S_IFREG | 0o755, file_content(path))
    archive.add("bin/load", stat.S_IFREG | 0o755, built("load"))


@functools.lru_cache
def initramfs(release):
    archive = Archive()
    for name in ("bin", "dev", "proc", "sys", "modules", "mnt", "tmp"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755,
                file_content("/bin/busybox"))
    add_programs(archive)
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    for name in MODULES:
        archive.add(f"modules/{name}.ko", stat.S_IFREG | 0o644,
                    module(release, name))
    archive.add("init", stat.S_IFREG | 0o755, INIT.encode())
    return archive.content()


class LinuxGuest:
    """A machine with a disk for each vhost-user socket: /dev/vda, ... `devices`
    are more properties of each disk's device. A back-end that dies is
    connected to again."""

    def __init__(self, directory, sockets, queues=None, processors=1,
                 devices=None, timeout=120):
        os.makedirs(directory, exist_ok=True)
        self.directory = str(directory)
        self.timeout = timeout
        path, release = kernel()
        initrd = os.path.join(self.directory, "initramfs")
        with open(initrd, "wb") as f:
            f.write(initramfs(release))
        # Connected before the start, so that nothing has to be waited for.
        self.channel, theirs = socket.socketpair()
        argv = ["qemu-system-x86_64", "-accel", "tcg", "-machine",
                "q35,memory-backend=mem,hpet=off", "-cpu", "max", "-smp",
                str(processors),
                "-object", "memory-backend-memfd,id=mem,size=160M,share=on",
                "-m", "160M", "-nodefaults", "-no-user-config", "-nographic",
                "-no-reboot", "-kernel", path, "-initrd", initrd, "-append",
                "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check "
                "random.trust_cpu=on mitigations=off",
                "-chardev", f"file,id=console,path={self.console_path}",
                "-serial", "chardev:console",
                "-chardev", f"socket,id=commands,fd={theirs.fileno()}",
                "-serial", "chardev:commands"]
        for i, path in enumerate(sockets):
            argv += ["-chardev",
                     f"socket,id=disk{i},path={path},reconnect=1",
                     "-device", f"vhost-user-blk-pci,chardev=disk{i},"
                     f"num-queues={queues[i] if queues else 1}"
                     f"{devices[i] if devices else ''}"]
        self.stderr_path = os.path.join(self.directory, "stderr")
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
                pass_fds=[theirs.fileno()], cwd=self.directory)
        theirs.close()
        self.pending = b""
        self.wait_line("@ready")

    @property
    def console_path(self):
        return os.path.join(self.directory, "console")

    def trouble(self):
        texts = []
        for path in (self.stderr_path, self.console_path):
            with open(path, errors="replace") as f:
                texts.append(f.read()[-3000:])
        return "\n".join(texts)

    def read_line(self, deadline):
        while b"\n" not in self.pending:
            self.channel.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self.channel.recv(65536)
            except socket.timeout:
                raise AssertionError("the guest does not answer:\n" +
                                     self.trouble()) from None
            assert data, "the guest has ended:\n" + self.trouble()
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def wait_line(self, start, timeout=None):
        """Everything before the line that begins so, and that line."""
        deadline = time.monotonic() + (timeout or self.timeout)
        lines = []
        while True:
            line = self.read_line(deadline)
            if line.startswith(start):
                return lines, line
            lines.append(line)

    def send(self, command):
        assert "\n" not in command
        self.channel.sendall(command.encode() + b"\n")

    def try_run(self, command, timeout=None):
        """(exit status, output) of a shell command in the guest."""
        self.send(command)
        return self.result(timeout)

    def result(self, timeout=None):
        lines, last = self.wait_line("@status ", timeout)
        return int(last.split()[1]), "\n".join(lines)

    def run(self, command, timeout=None):
        status, output = self.try_run(command, timeout)
        assert status == 0, f"{command}: {status}\n{output}\n{self.console()}"
        return output

    def console(self):
        with open(self.console_path, errors="replace") as f:
            return f.read()

    def stop(self):
        """Switches it off; its disks are flushed by then."""
        self.send("sync; poweroff -f")
        try:
            self.process.wait(120)
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.kill()

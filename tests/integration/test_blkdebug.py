"""blkdebug beside QEMU's: rules in a file, names, and its options."""
import pytest

from lib.twin import run
from test_varve_io import commands, play

MIB = 1 << 20


def without_warnings(said):
    """We tell of flushes that fail when a node is closed."""
    said["stderr"] = "\n".join(line for line in said["stderr"].splitlines()
                               if "warning:" not in line)
    return said


@pytest.fixture
def directory(tmp_path):
    with open(tmp_path / "image", "wb") as f:
        f.truncate(MIB)
    return tmp_path


def same(directory, args, *lines):
    ours, theirs = [without_warnings(play(tool, directory,
                                          [*commands(*lines), *args]))
                    for tool in ("varve-io", "qemu-io")]
    assert ours == theirs, args
    return ours


RULE = '[inject-error]\nevent = "none"\n'
FILES = {
    "a rule": '[inject-error]\nevent = "read_aio"\nerrno = "28"\n',
    "comments": f'# hi\n\n{RULE}# c\nerrno = "28" # more\n',
    "crlf": RULE.replace("\n", "\r\n"),
    "no last newline": RULE + 'errno = "28"',
    "hexadecimal": RULE + 'errno = "0x1c"\n',
    "the last counts": RULE + 'event = "write_aio"\nevent = "none"\n'
    'errno = "28"\nerrno = "1"\n',
    "once": RULE + 'once = "on"\n',
    "of a kind": RULE + 'iotype = "write"\n',
    "of a sector": RULE + 'sector = "1"\n',
    "of any sector": RULE + 'sector = "-1"\n',
    "at once": RULE + 'immediately = "on"\n',
    "with names": '[inject-error "a"]\nevent = "none"\nsector = "0"\n'
    '[inject-error "b"]\nevent = "none"\nsector = "1"\nerrno = "28"\n',
    "states": '[set-state]\nevent = "read_aio"\nstate = "1"\n'
    'new_state = "2"\n[inject-error]\nevent = "read_aio"\nstate = "2"\n'
    'errno = "28"\n',
    "no state": '[set-state]\nevent = "read_aio"\n',
    "none": "", "no error": RULE + 'errno = "0"\n',
    # What is wrong.
    "unknown section": '[foo]\nevent = "none"\n',
    "a name without quotes": '[inject-error x]\nevent = "none"\n',
    "unknown key": RULE + 'foo = "1"\n',
    "no event": '[inject-error]\nerrno = "28"\n',
    "no event, then another": f'[inject-error]\nerrno = "28"\n{RULE}',
    "unknown event": '[inject-error]\nevent = "zz"\n',
    "unknown kind": RULE + 'iotype = "zz"\n',
    "no number": RULE + 'errno = "x"\n', "two": RULE + 'errno = "1,2"\n',
    "no switch": RULE + 'once = "x"\n',
    "no state number": '[set-state]\nevent = "none"\nnew_state = "zz"\n',
    "no section": 'event = "none"\n', "garbage": "hello\n",
}


def test_rules_in_a_file_do_what_they_do_in_qemu(directory):
    for title, text in FILES.items():
        (directory / "rules").write_text(text)
        said = same(directory, ["-f", "raw", "blkdebug:rules:image"],
                    "read 0 512", "read 512 512", "write 0 512")
        assert said["stdout"] or "can't open" in said["stderr"], title


@pytest.mark.parametrize("line", ["event = none", 'event = "no"ne"', "event",
                                  '[inject-error', '[inject-error "x'])
def test_a_line_that_is_nothing_is_named(directory, line):
    (directory / "rules").write_text(f"# first\n{RULE}{line}\n")
    said = play("varve-io", directory, ["-f", "raw", "blkdebug:rules:image"])
    assert said["status"] == 1 and ": line 4: " in said["stderr"]


def test_rules_of_file_and_options_are_both_there(directory):
    (directory / "rules").write_text(RULE + 'sector = "0"\n')
    same(directory, [
        "--image-opts", "driver=blkdebug,config=rules,inject-error.0.event="
        "none,inject-error.0.sector=1,inject-error.0.errno=28,"
        "image.driver=file,image.filename=image"],
        "read 0 512", "read 512 512", "read 1k 512")


def test_names_say_the_file_of_rules(directory):
    (directory / "rules").write_text(RULE + 'iotype = "write"\n')
    image = "image.driver=file,image.filename=image"
    for args in (["blkdebug:rules:image"], ["blkdebug::image"],
                 ["--image-opts", f"driver=blkdebug,config=rules,{image}"],
                 ["--image-opts", f"driver=blkdebug,{image}"]):
        ours, theirs = [run(tool, directory, "info", *args, check=0)
                        .stdout.splitlines()[:3]
                        for tool in ("varve-img", "qemu-img")]
        assert ours == theirs


# Options that both take, or refuse in the same words.
OPTIONS = [
    "align=0", "align=3", "max-transfer=0", "max-transfer=100",
    "max-transfer=1000,align=512", "max-transfer=4096", "opt-write-zero=0",
    "opt-write-zero=512", "opt-write-zero=100,align=512",
    "max-write-zero=1024,opt-write-zero=512",
    "max-write-zero=700,opt-write-zero=512", "opt-discard=512",
    "opt-discard=700,align=512", "max-discard=1024,opt-discard=1024",
    "max-discard=1000,opt-discard=512", "take-child-perms.0=resize",
    "take-child-perms.0=write,take-child-perms.1=consistent-read",
    "unshare-child-perms.0=write", "inject-error.0.event=none,"
    "inject-error.0.iotype=write", "inject-error.0.event=none,"
    "inject-error.0.once=on", "inject-error.0.event=none,"
    "inject-error.0.sector=1", "inject-error.0.event=none,"
    "inject-error.0.iotype=write-zeroes", "inject-error.0.event=none,"
    "inject-error.0.iotype=discard", "inject-error.0.event=none,"
    "inject-error.0.iotype=block-status", "set-state.0.event=read_aio,"
    "set-state.0.new_state=2,inject-error.0.event=read_aio,"
    "inject-error.0.iotype=read,inject-error.0.state=2", "set-state.0.event="
    "write_aio,set-state.0.state=1,set-state.0.new_state=5,"
    "inject-error.0.event=write_aio,inject-error.0.iotype=write,"
    "inject-error.0.state=5", "config=nowhere", "zz=5"]


def test_options_do_what_they_do_in_qemu(directory):
    for text in OPTIONS:
        same(directory, [
            "--image-opts", f"driver=blkdebug,{text},discard=unmap,"
            "image.driver=file,image.filename=image,image.discard=unmap"],
            "read 0 512", "read 512 512", "write 0 512", "write 512 8k",
            "write 100 8", "read 100 8", "write -z 0 4k", "write -z 100 8",
            "write -z -u 8k 1000", "discard 0 4k", "discard 100 3000", "map")

"""Plays one conversation to two programs and compares what they say."""
import json
import re

# Left out wherever they are: what differs by nature.
ALWAYS_IGNORED = {"timestamp", "x-engine"}
GENERATED = re.compile(r"#block\d+")
MISSING = "<absent>"


class Wait:
    """A step that waits for an event: Wait("JOB_STATUS_CHANGE", id="j",
    status="concluded")."""

    def __init__(self, event, **match):
        self.event = event
        self.match = match


class Events:
    """A step that compares the names and data of all events since the last
    such step. settle: seconds without an event that end it."""

    def __init__(self, *names, settle=0.3):
        self.names = names
        self.settle = settle


class Raw:
    """A step that sends bytes and compares the next n messages."""

    def __init__(self, data, n=1):
        self.data = data
        self.n = n


def with_directory(value, directory):
    """Replaces {dir} in all strings."""
    if isinstance(value, str):
        return value.replace("{dir}", directory)
    if isinstance(value, list):
        return [with_directory(v, directory) for v in value]
    if isinstance(value, dict):
        return {k: with_directory(v, directory) for k, v in value.items()}
    return value


def normalise(value, directory, ignore):
    if isinstance(value, str) and value.startswith("json:{"):
        # A file name: the order of its members means nothing.
        return normalise(json.loads(value[5:]), directory, ignore)
    if isinstance(value, str):
        return GENERATED.sub("#block", value.replace(directory, "{dir}"))
    if isinstance(value, list):
        return [normalise(v, directory, ignore) for v in value]
    if isinstance(value, dict):
        return {k: normalise(v, directory, ignore) for k, v in value.items()
                if k not in ignore and k not in ALWAYS_IGNORED}
    return value


def differences(ours, theirs, where=""):
    """Lines "place: ours, theirs" of all that differs."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        lines = []
        for key in sorted(set(ours) | set(theirs)):
            lines += differences(ours.get(key, MISSING),
                                 theirs.get(key, MISSING), f"{where}.{key}")
        return lines
    if isinstance(ours, list) and isinstance(theirs, list) and \
            len(ours) == len(theirs):
        lines = []
        for i, (a, b) in enumerate(zip(ours, theirs)):
            lines += differences(a, b, f"{where}[{i}]")
        return lines
    if ours == theirs and isinstance(ours, bool) == isinstance(theirs, bool):
        return []
    return [f"{where or 'answer'}: ours {json.dumps(ours)}, "
            f"theirs {json.dumps(theirs)}"]


def play(daemon, step):
    """What a program says to one step, not normalised."""
    qmp = daemon.qmp
    if callable(step):
        return step(daemon)
    if isinstance(step, Wait):
        return qmp.wait_event(step.event, **step.match)
    if isinstance(step, Events):
        return [{"event": e["event"], "data": e.get("data")}
                for e in qmp.take_events(step.settle)
                if not step.names or e["event"] in step.names]
    if isinstance(step, Raw):
        qmp.send_raw(step.data)
        return [qmp.answer() for _ in range(step.n)]
    if isinstance(step, str):
        step = (step,)
    if isinstance(step, tuple):
        step = {"execute": step[0],
                **({"arguments": step[1]} if len(step) > 1 else {})}
    qmp.send(with_directory(step, daemon.directory))
    return qmp.answer()


def describe(step):
    if isinstance(step, Wait):
        return f"wait for {step.event} {step.match}"
    if isinstance(step, Events):
        return "events"
    if isinstance(step, Raw):
        return repr(step.data[:200])
    return step if isinstance(step, str) else \
        getattr(step, "__name__", None) or json.dumps(step)


def same_conversation(ours, theirs, steps, ignore=()):
    """Each step is a command name, a tuple (name, arguments), a whole request,
    a Wait, Events or Raw, or a function of the daemon that returns something to
    compare; "{dir}" stands for the daemon's directory. ignore: names of members
    to leave out. Plays all steps, then fails with all differences. Returns our
    answers."""
    problems = []
    answers = []
    ignore = set(ignore)
    for number, step in enumerate(steps, 1):
        try:
            said = play(ours, step)
            their = play(theirs, step)
        except Exception as e:
            before = [f"{describe(s)} -> {a}"[:400] for s, a in
                      list(zip(steps, answers))[-4:]]
            raise AssertionError("\n".join(
                ["", *problems, "played last:", *before,
                 f"{number}. {describe(step)}: {e}"])) from e
        answers.append(said)
        diff = differences(normalise(said, ours.directory, ignore),
                           normalise(their, theirs.directory, ignore))
        if diff:
            problems.append(f"{number}. {describe(step)}")
            problems += ["     " + line for line in diff]
    assert not problems, "\n" + "\n".join(problems)
    return answers

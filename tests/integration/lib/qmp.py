"""A QMP client over a UNIX or TCP socket. Standard library only."""
import collections
import json
import select
import socket
import time

# For what only a stalled machine or a fault can hold up.
TIMEOUT = 120
# Jobs that are done with themselves: while one runs, it gets on.
BRIEF_JOBS = ("amend", "create")


class QmpError(Exception):
    """The answer was an error."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.cls = error["class"]
        self.desc = error["desc"]


class QmpTimeout(Exception):
    pass


class Qmp:
    """One session. Messages arrive in order; events that come while an answer
    is waited for are kept in .events until somebody takes them.

    command() returns what the command returns or raises QmpError; call()
    returns the whole answer. Underscores in keyword arguments become dashes.
    """

    def __init__(self, address, negotiate=True, timeout=TIMEOUT, oob=False):
        self.timeout = timeout
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        self.buffer = b""
        self.events = collections.deque()
        self.greeting = None
        if negotiate:
            self.greet()
            self.command("qmp_capabilities",
                         **({"enable": ["oob"]} if oob else {}))

    def greet(self):
        """The greeting, which comes once."""
        if self.greeting is None:
            self.greeting = self.receive()
        return self.greeting

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    # ---- messages ----

    def send_raw(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())

    def send(self, message):
        self.send_raw(json.dumps(message) + "\n")

    def receive(self, timeout=None):
        """The next message; None when the other side has hung up."""
        deadline = time.monotonic() + (self.timeout if timeout is None
                                       else timeout)
        while b"\n" not in self.buffer:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self.socket], [], [], left)[0]:
                raise QmpTimeout(f"no message; half of one: {self.buffer!r}")
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def answer(self, timeout=None):
        """The next message that is no event."""
        while True:
            message = self.receive(timeout)
            if message is None or "event" not in message:
                return message
            self.events.append(message)

    def call(self, command, arguments=None, **kw):
        message = {"execute": command}
        arguments = dict(arguments or {})
        arguments.update((k.replace("_", "-"), v) for k, v in kw.items())
        if arguments:
            message["arguments"] = arguments
        self.send(message)
        return self.answer()

    def command(self, command, arguments=None, **kw):
        answer = self.call(command, arguments, **kw)
        if answer is None:
            raise ConnectionError(f"hung up during {command}")
        if "error" in answer:
            raise QmpError(command, answer["error"])
        return answer["return"]

    # ---- events ----

    @staticmethod
    def matches(event, name, match):
        data = event.get("data", {})
        return event["event"] == name and all(
            data.get(k.replace("_", "-"), data.get(k)) == v
            for k, v in match.items())

    def wait_event(self, name, timeout=None, **match):
        """Takes the first event of that name whose data has these members;
        the events before it stay in .events."""
        for event in self.events:
            if self.matches(event, name, match):
                self.events.remove(event)
                return event
        deadline = time.monotonic() + (self.timeout if timeout is None
                                       else timeout)
        while True:
            left = deadline - time.monotonic()
            try:
                message = self.receive(max(left, 0))
            except QmpTimeout:
                seen = [(e["event"], e.get("data")) for e in self.events]
                raise QmpTimeout(f"no {name} {match}; seen: {seen}") from None
            if message is None:
                raise ConnectionError(f"hung up before {name} {match}")
            if "event" not in message:
                raise AssertionError(f"unexpected answer: {message}")
            if self.matches(message, name, match):
                return message
            self.events.append(message)

    def next_event(self, timeout=None):
        """Takes the oldest event."""
        if not self.events:
            message = self.receive(timeout)
            if message is None:
                raise ConnectionError("hung up")
            if "event" not in message:
                raise AssertionError(f"unexpected answer: {message}")
            return message
        return self.events.popleft()

    def wait_job(self, job, status="concluded", timeout=None):
        """Until the job reports this status."""
        return self.wait_event("JOB_STATUS_CHANGE", timeout=timeout, id=job,
                               status=status)

    def take_events(self, quiet=0.0):
        """All events so far; with `quiet`, until there was none for so many
        seconds and everything has come to rest."""
        deadline = time.monotonic() + self.timeout
        while time.monotonic() < deadline:
            try:
                message = self.receive(quiet)
            except QmpTimeout:
                if not quiet or self.at_rest():
                    break
                continue
            if message is None:
                break
            self.events.append(message)
        events = list(self.events)
        self.events.clear()
        return events

    def at_rest(self):
        """While several questions are answered, which takes the longer the
        slower the other side is, no event comes, no job gets on, and none is
        in a state in which none stays."""
        before = len(self.events)
        jobs = [self.command("query-jobs") for _ in range(6)]
        return len(self.events) == before and jobs[-1] == jobs[0] and all(
            job["status"] not in ("created", "aborting") and
            (job["status"] != "running" or job["type"] not in BRIEF_JOBS)
            for job in jobs[0])

    def wait_paused(self, job):
        """Until the job stands still. To be asked when the last thing that
        happened to it was that it ran."""
        status = None
        waiting = collections.deque(self.events)
        while True:
            while waiting:
                event = waiting.popleft()
                if self.matches(event, "JOB_STATUS_CHANGE", {"id": job}):
                    status = event["data"]["status"]
            if status == "paused":
                return
            message = self.receive()
            assert message and "event" in message, message
            self.events.append(message)
            waiting.append(message)

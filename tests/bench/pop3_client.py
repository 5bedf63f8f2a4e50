"""A program: a cheap POP3 load, many clients at once, each in lock-step. Plan as JSON in, figures out.

One process, one epoll, one generator a session: a client sends its next command when the answer to the
last one is whole. Every answer is checked, every message for its size. Not here: what the figures mean.
"""

from __future__ import annotations

import gc
import json
import resource
import select
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass

_END = b"\r\n.\r\n"
_buffer = bytearray(1 << 18)

# A command and what answers it: one line, a list to be looked at, or a message of which the size counts.
LINE, LIST, MESSAGE = range(3)
Dialogue = Generator[tuple[bytes, int], "bytes | int", None]


class Wrong(Exception):
    """The server's answer is not the one expected."""


@dataclass(frozen=True)
class Plan:
    """What to do. `users`: name and sizes of the messages that must be there, in order."""

    port: int
    password: str
    users: list[tuple[str, list[int]]]
    clients: int
    retrieve: int  # messages of each mailbox to fetch, evenly spread; -1: all
    delete: bool


def dialogue(plan: Plan, name: str, sizes: list[int]) -> Dialogue:
    """One session from USER to QUIT."""
    yield b"USER " + name.encode(), LINE
    yield b"PASS " + plan.password.encode(), LINE
    status = yield b"STAT", LINE
    assert isinstance(status, bytes)
    if status.split()[1:3] != [b"%d" % len(sizes), b"%d" % sum(sizes)]:
        raise Wrong(f"{name}: STAT says {status!r}, {len(sizes)} messages of {sum(sizes)} octets were put in")
    for command in (b"UIDL", b"LIST"):
        listing = yield command, LIST
        assert isinstance(listing, bytes)
        if listing.count(b"\r\n") != len(sizes) + 2:
            raise Wrong(f"{name}: {command.decode()} lists not {len(sizes)} messages")
    count = len(sizes) if plan.retrieve < 0 else min(plan.retrieve, len(sizes))
    for index in range(count):
        number = 1 + index * len(sizes) // count
        octets = yield b"RETR %d" % number, MESSAGE
        assert isinstance(octets, int)
        if octets != sizes[number - 1]:
            raise Wrong(f"{name}: message {number} has {octets} octets instead of {sizes[number - 1]}")
    if plan.delete:
        for number in range(1, len(sizes) + 1):
            yield b"DELE %d" % number, LINE
    yield b"QUIT", LINE


class Connection:
    """One session on its socket."""

    def __init__(self, plan: Plan, name: str, sizes: list[int]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", plan.port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._name = name
        self._dialogue = dialogue(plan, name, sizes)
        self._kind = LINE
        self._command = b""  # none yet: the greeting is what comes first
        self._head = b""  # a line or a list: what has come of it; a message: its first line
        self._tail = b""
        self._size = 0

    def readable(self) -> bool:
        """Take what has come and go on; False when the session is over.

        This is the load's hot path: one buffer for all, and no copy of a message.
        """
        size = self.socket.recv_into(_buffer)
        if not size:
            raise Wrong(
                f"{self._name}: closed instead of an answer to {self._command.decode() or 'connecting'}"
            )
        kind = self._kind
        if kind != MESSAGE:
            self._head += _buffer[:size]
        elif self._head[-1:] != b"\n":
            self._head += _buffer[: _buffer.find(b"\n", 0, size) + 1 or size]
        self._size += size
        self._tail = bytes(_buffer[size - 5 : size]) if size >= 5 else (self._tail + _buffer[:size])[-5:]
        whole = self._tail == _END if kind != LINE and self._head[:1] != b"-" else self._tail[-2:] == b"\r\n"
        return self._answered(kind) if whole else True

    def _answered(self, kind: int) -> bool:
        head = self._head
        if head[:1] != b"+":
            raise Wrong(f"{self._name}: {self._command.decode() or 'connecting'} got {head[:80]!r}")
        answer = head if kind != MESSAGE else self._size - len(head) - len(b".\r\n")
        self._head = self._tail = b""
        self._size = 0
        try:
            self._command, self._kind = self._dialogue.send(answer if self._command else None)  # type: ignore[arg-type]
        except StopIteration:
            self.socket.close()
            return False
        self.socket.send(self._command + b"\r\n")
        return True


def run(plan: Plan) -> dict[str, float]:
    """All sessions of the plan: when they began and ended (monotonic clock), CPU seconds. Raises Wrong."""
    waiting = list(reversed(plan.users))
    live: dict[int, Connection] = {}
    poll = select.epoll()
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.monotonic()
    while waiting or live:
        while waiting and len(live) < plan.clients:
            connection = Connection(plan, *waiting.pop())
            live[connection.socket.fileno()] = connection
            poll.register(connection.socket.fileno(), select.EPOLLIN)
        ready = poll.poll(60)
        if not ready:
            raise Wrong("no answer for 60 s")
        for fd, _ in ready:
            if not live[fd].readable():
                del live[fd]
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"began": began, "ended": time.monotonic(), "cpu": cpu}


def main() -> None:
    """The plan is the first line of standard input; any second line starts it."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    print("ready", flush=True)
    sys.stdin.readline()
    gc.disable()  # what is made here lives for one answer
    try:
        print(json.dumps(run(plan)))
    except (Wrong, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

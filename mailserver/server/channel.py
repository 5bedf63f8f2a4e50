"""Between the console's process and the supervisor: requests one way, answers and news the other.

A pair of sockets and a few octets of shared memory, made before the first fork, so that they outlive either
console. The supervisor waits for signals and nothing else, so whoever asks also sends it one.
Not here: what is done about a request (`supervisor`), who may ask (`admin.administration`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

WAKE = signal.SIGUSR2
_LARGEST = 64 * 1024  # octets of a message
_PROBLEM = 8000  # characters of one

Wish = Literal["reload", "stop", "drain"]


class Ask(Struct, frozen=True):
    """What an operator wants of the supervisor."""

    id: int
    do: Wish


class Told(Struct, frozen=True):
    """What came of it or, with id 0, what happened: `changed` when another configuration is in force.
    `leave` are endpoints that the console is to let go of at once: they are the mail's from now on. `mail`
    are all that the mail has, after a reload, whatever came of it."""

    id: int = 0
    problem: str = ""
    changed: bool = False
    leave: tuple[str, ...] = ()
    mail: tuple[str, ...] = ()


def datagrams() -> tuple[int, int]:
    """Two descriptors: what is written to the one, whole or not at all, is read from the other; or neither
    blocks. They live as long as the process."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    return pair[0].detach(), pair[1].detach()


class Channel:
    """Both ends; each process uses its own."""

    def __init__(self) -> None:
        self._supervisor, self._console = datagrams()
        self._pulse = memoryview(mmap.mmap(-1, 8)).cast("d")

    # -- the supervisor's end

    def asked(self) -> Iterator[Ask]:
        """Requests that have come in."""
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(msgspec.DecodeError):
                    yield _ask.decode(os.read(self._supervisor, _LARGEST))

    def tell(self, told: Told) -> None:
        """Answer, or say what happened. A console that does not listen does not hold anybody up."""
        problem = told.problem[:_PROBLEM].encode(errors="backslashreplace").decode()  # it may name any file
        told = msgspec.structs.replace(told, problem=problem)
        with contextlib.suppress(OSError):
            os.write(self._supervisor, msgspec.json.encode(told))

    @property
    def alive(self) -> float:
        """When the console's loop went round last, in monotonic time."""
        return float(self._pulse[0])

    # -- the console's end

    def ask(self, ask: Ask) -> None:
        """Raises OSError: the supervisor does not listen."""
        os.write(self._console, msgspec.json.encode(ask))
        os.kill(os.getppid(), WAKE)

    def told(self) -> Iterator[Told]:
        """What has been said by now."""
        with contextlib.suppress(OSError):
            while True:
                with contextlib.suppress(msgspec.DecodeError):
                    yield _told.decode(os.read(self._console, _LARGEST))

    def fileno(self) -> int:
        """To wait for what is told."""
        return self._console

    def beat(self) -> None:
        """Show that the loop goes round."""
        self._pulse[0] = time.monotonic()


_ask = msgspec.json.Decoder(Ask)
_told = msgspec.json.Decoder(Told)

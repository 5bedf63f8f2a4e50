"""A fault at every system call of a piece of work: the calls are counted by running once, then each fails in turn.

What counts as a call is what Python's `os`, `fcntl` and files ask of the kernel below the work, reads too; the two
calls that go through ctypes (syncfs, renameat2) as well. A call that fails was not made, except `close`, after
which Linux has closed the descriptor whatever it says. Python itself repeats calls that a signal interrupts
(PEP 475), so an EINTR that is raised here is worse than any that really comes.
Not here: what must be true afterwards.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from mailserver.durable import commit, exchange

NAMES = (
    *(
        "open",
        "read",
        "write",
        "close",
        "fsync",
        "fstat",
        "stat",
        "lstat",
        "utime",
        "fchmod",
        "fchown",
        "chown",
    ),
    *("link", "rename", "unlink", "mkdir", "rmdir", "listdir", "scandir"),
)
ERRORS = (errno.EIO, errno.ENOSPC, errno.EINTR)


class Calls:
    """Counts the calls of one thread; what `act` does at call `at` happens there. `made` names them all.

    `thread`: the name of the thread; by default the one that counts.
    """

    def __init__(self, at: int = -1, act: Callable[[], None] = lambda: None, thread: str = "") -> None:
        self.made: list[str] = []
        self.at = at
        self._act = act
        self._thread = thread or threading.current_thread().name

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
        with monkeypatch.context() as patch:
            for name in NAMES:
                patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
            patch.setattr(os, "fdopen", self._file("fdopen", os.fdopen))
            patch.setattr(builtins, "open", self._file("open", builtins.open))
            patch.setattr(fcntl, "flock", self._wrapped("flock", fcntl.flock))
            patch.setattr(commit, "_syncfs", self._syncfs(commit._syncfs))
            patch.setattr(exchange, "exchange", self._wrapped("renameat2", exchange.exchange))
            yield self

    def step(self, name: str) -> None:
        if threading.current_thread().name == self._thread:
            self.made.append(name)
            if len(self.made) - 1 == self.at:
                self._act()

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "close":
                real(*args, **kwargs)
                return self.step(name)
            self.step(name)
            return real(*args, **kwargs)

        return call

    def _syncfs(self, real: Callable[[int], bool]) -> Callable[[int], bool]:
        def call(fd: int) -> bool:
            try:
                self.step("syncfs")
            except OSError:
                return False
            return real(fd)

        return call

    def _file(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return _File(real(*args, **kwargs), self)

        return call


class _File:
    """A file object that tells of what it asks."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file = file
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        return self._calls._wrapped(name, found) if name in ("read", "write", "readline", "close") else found

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self.__getattr__("close")()

    def __iter__(self) -> Iterator[Any]:
        while line := self.__getattr__("readline")():
            yield line


def failing(code: int) -> Callable[[], None]:
    def act() -> None:
        raise OSError(code, os.strerror(code))

    return act


def dying() -> None:
    """The process is gone, as by a kill: nothing it would have done any more is done."""
    os._exit(9)


def _promise(write: Callable[[int, bytes], int], fd: int) -> None:
    write(fd, b"+")


def died(work: Callable[[Callable[[], None]], None]) -> int:
    """Do `work` in a child; it calls what it is given for each promise. How many promises were made."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(partial(_promise, os.write, writing))
        finally:
            os._exit(0)
    os.close(writing)
    promises = b""
    while block := os.read(reading, 100):
        promises += block
    os.close(reading)
    os.waitpid(child, 0)
    return len(promises)

"""The numbered history of `mailserver.toml`, in `.history` beside it, for its owner alone.

    <number>.toml   one version: a comment with when, who, by which front end, what; then the text as it was
    next.toml       the version that a machine edit is about to put in place
    lock            held while the machine edits

Numbers only grow. The last 1000 versions are kept. Not here: editing (`editing`), going back (`confirm`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from mailserver.durable import files

KEPT = 1000
LOCK_PATIENCE = 10.0  # seconds

_MARK = b"#: "
_LONGEST_LINE = 64 * 1024
_NUMBERED = re.compile(r"([1-9]\d{0,9})\.toml")


class HistoryError(Exception):
    """The history has no such version, or somebody else is at work; the text is one line."""


class About(Struct, frozen=True):
    """What is known of a version: `at` in UTC, ISO 8601; who, by which front end, and what he did."""

    at: str
    who: str
    front: str
    what: str


class Version(Struct, frozen=True):
    """A version in a list."""

    number: int
    at: str
    who: str
    front: str
    what: str


class History:
    """The versions of one configuration directory. All methods raise OSError."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.join(directory, ".history")
        self._next = os.path.join(self.directory, "next.toml")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among machines; makes the directory. Raises HistoryError when another one takes too long."""
        files.make_directory(self.directory)
        path = os.path.join(self.directory, "lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            files.inherit_owner(fd, self.directory)
            _lock(fd)
            self._sweep()
            yield
        finally:
            os.close(fd)

    def numbers(self) -> list[int]:
        """The versions there are, the oldest first."""
        try:
            names = os.listdir(self.directory)
        except FileNotFoundError:
            return []
        return sorted(int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name)))

    def versions(self) -> list[Version]:
        """All versions, the oldest first."""
        return [Version(number, *_values(_about(self._path(number)))) for number in self.numbers()]

    def text(self, number: int) -> bytes:
        """The file as it was in a version. Raises HistoryError."""
        try:
            return _text(self._path(number))
        except FileNotFoundError:
            raise HistoryError(f"no version {number} in {self.directory}") from None

    def front(self, number: int) -> str:
        """By which front end a version, which there is, was made."""
        return _about(self._path(number)).front

    def latest(self) -> tuple[int, bytes]:
        """Number and text of the last version; 0 and nothing where there is none."""
        numbers = self.numbers()
        return (numbers[-1], self.text(numbers[-1])) if numbers else (0, b"")

    def record(self, about: About, data: bytes) -> int:
        """Keep `data` as a new version; its number."""
        number = self.latest()[0] + 1
        files.create(self._path(number), _MARK + msgspec.json.encode(about) + b"\n" + data)
        self._prune(number)
        return number

    def intend(self, about: About, data: bytes) -> None:
        """Write down the version that is about to be put in place: a crash will not make it nobody's."""
        files.replace(self._next, _MARK + msgspec.json.encode(about) + b"\n" + data)

    def intended(self) -> bytes | None:
        """The text that was about to be put in place, if nothing became of that yet."""
        try:
            return _text(self._next)
        except FileNotFoundError:
            return None

    def settle(self) -> int:
        """What was intended is in place: the number it has now."""
        number = (self.numbers() or [0])[-1] + 1
        files.rename(self._next, self._path(number))
        self._prune(number)
        return number

    def forget(self) -> None:
        """What was intended did not come about."""
        with contextlib.suppress(FileNotFoundError):
            files.unlink(self._next)

    def _path(self, number: int) -> str:
        return os.path.join(self.directory, f"{number}.toml")

    def _sweep(self) -> None:
        """What a killed process has left half-written."""
        for name in os.listdir(self.directory):
            if name.startswith(".tmp-"):
                os.unlink(os.path.join(self.directory, name))

    def _prune(self, latest: int) -> None:
        for number in self.numbers():
            if number <= latest - KEPT:
                os.unlink(self._path(number))


def _lock(fd: int) -> None:
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise HistoryError("another change of the configuration is being written") from None
            time.sleep(0.02)


def _about(path: str) -> About:
    """What the first line says; nothing where a person has changed it."""
    with open(path, "rb") as file:
        line = file.readline(_LONGEST_LINE)
    try:
        return msgspec.json.decode(line.removeprefix(_MARK), type=About)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return About("", "", "", "")


def _text(path: str) -> bytes:
    """What follows the first line."""
    with open(path, "rb") as file:
        file.readline()
        return file.read()


def _values(about: About) -> tuple[str, str, str, str]:
    return about.at, about.who, about.front, about.what

"""A change that waits to be confirmed, in `.history/pending`: until when, and which version it goes back to.

It is durable before the change is, so that no crash makes a change final that nobody has confirmed.
Not here: taking it back (`versioned`), the clock that ends the time (`server.console`).
"""

from __future__ import annotations

import contextlib
import os
import time

import msgspec
from msgspec import Struct

from mailserver.durable import files

LONGEST = 24 * 3600.0  # seconds
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Pending(Struct, frozen=True):
    """A change by `who` through `front`; unless confirmed `until` (UTC), version `back` comes again."""

    back: int
    who: str
    front: str
    until: str
    boot: str
    deadline: float  # on the clock of that boot, which no change of the time of day moves

    def left(self) -> float:
        """Seconds until the time is up; 0 after it, and after the machine has started anew."""
        return max(0.0, self.deadline - _clock()) if self.boot == _boot() else 0.0


class PendingFile:
    """The file in the directory of the history. Methods raise OSError."""

    def __init__(self, history: str) -> None:
        self._path = os.path.join(history, "pending")

    def begin(self, back: int, seconds: float, who: str, front: str) -> None:
        """Durable when it returns."""
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
        pending = Pending(back, who, front, until, _boot(), _clock() + seconds)
        files.replace(self._path, msgspec.json.encode(pending))

    def read(self) -> Pending | None:
        """What waits, if anything does."""
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(), type=Pending)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def end(self) -> None:
        """Nothing waits any more."""
        with contextlib.suppress(FileNotFoundError):
            files.unlink(self._path)


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""

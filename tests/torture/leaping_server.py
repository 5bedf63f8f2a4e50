"""The server on a machine whose clock leaps: `leaping_server.py FILE --config DIR serve`.

FILE holds a double, the seconds by which the clock is wrong; the test writes it at any time. What Python asks of the
wall clock is wrong by so much in all processes; the kernel's time stamps of files and the monotonic clock, which no
leap of a real one touches, stay. Not here: the server, which knows nothing of it.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from pathlib import Path

_DOUBLE = struct.Struct("d")


class Clock:
    """By how much the clock is wrong, shared between processes by a file."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(mmap.PAGESIZE))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), mmap.PAGESIZE)

    @property
    def wrong(self) -> float:
        seconds: float = _DOUBLE.unpack_from(self._shared)[0]
        return seconds

    def leap(self, seconds: float) -> None:
        _DOUBLE.pack_into(self._shared, 0, self.wrong + seconds)


def main() -> None:
    clock, real, real_ns = Clock(Path(sys.argv.pop(1))), time.time, time.time_ns
    time.time = lambda: real() + clock.wrong  # before any module of the server asks for it
    time.time_ns = lambda: real_ns() + int(clock.wrong * 1e9)
    from mailserver.cli import main as run

    run()


if __name__ == "__main__":
    main()

"""The server with a heart that is listened to: `watched_server.py FILE --config DIR serve`.

A task in each worker's event loop asks to be woken every PERIOD; how late it is, at most, is how long
some callback has kept the loop. The worst lateness stands in FILE, a double, for the test to read and reset.
Not here: the server, which knows nothing of it.
"""

from __future__ import annotations

import asyncio
import mmap
import struct
import sys
from collections.abc import Callable
from pathlib import Path

PERIOD = 0.005
_DOUBLE = struct.Struct("d")


class Heart:
    """The worst lateness in seconds since `reset`, shared between two processes by a file."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            file.write_bytes(bytes(mmap.PAGESIZE))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), mmap.PAGESIZE)

    @property
    def worst(self) -> float:
        seconds: float = _DOUBLE.unpack_from(self._shared)[0]
        return seconds

    def reset(self) -> None:
        self._note(0.0)

    def _note(self, seconds: float) -> None:
        _DOUBLE.pack_into(self._shared, 0, seconds)

    async def beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + PERIOD
            await asyncio.sleep(PERIOD)
            if (late := loop.time() - due) > self.worst:
                self._note(late)


def main() -> None:
    from mailserver.cli import main as run
    from mailserver.server.worker import Worker

    heart = Heart(Path(sys.argv.pop(1)))
    serve = Worker._serve

    async def watched(worker: Worker, *tell: Callable[[], None]) -> None:
        beating = asyncio.ensure_future(heart.beat())
        try:
            await serve(worker, *tell)
        finally:
            beating.cancel()

    Worker._serve = watched  # type: ignore[method-assign]
    run()


if __name__ == "__main__":
    main()

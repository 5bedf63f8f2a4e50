"""The log as it is written, for operators: from every process of the server to those who listen now.

A pair of sockets and an octet of shared memory, made before the first fork. As long as nobody listens it
costs a look at the octet. What finds the socket or a listener's queue full is dropped: the log has it.
Not here: the log (`maillog`).
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections.abc import AsyncIterator

from mailserver.server.channel import datagrams

LINE = 64 * 1024  # octets
TURN = 256  # lines read before others have their turn
WAITING = 1000  # lines for a listener who does not read


class Tap:
    """What all processes share."""

    def __init__(self) -> None:
        self.reading, self._writing = datagrams()
        self._wanted = mmap.mmap(-1, 1)

    @property
    def wanted(self) -> bool:
        """Whether somebody listens."""
        return self._wanted[0] != 0

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._wanted[0] = wanted

    def offer(self, line: str) -> None:
        """A line of this process's log; never blocks."""
        if self._wanted[0]:
            with contextlib.suppress(OSError):
                os.write(self._writing, line.encode())


class Events:
    """The reading end, in the console's process."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._listeners: set[asyncio.Queue[str]] = set()
        tap.wanted = False  # those of a console before this one are gone

    async def follow(self) -> AsyncIterator[str]:
        """The lines from now on, until the caller leaves off."""
        queue: asyncio.Queue[str] = asyncio.Queue(WAITING)
        loop = asyncio.get_running_loop()
        if not self._listeners:
            self._tap.wanted = True
            loop.add_reader(self._tap.reading, self._hear)
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
            if not self._listeners:
                self._tap.wanted = False
                loop.remove_reader(self._tap.reading)
                self._hear()  # nobody wants to hear old lines later

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(TURN):
                line = os.read(self._tap.reading, LINE).decode().rstrip("\n")
                for queue in self._listeners:
                    with contextlib.suppress(asyncio.QueueFull):
                        queue.put_nowait(line)

"""The live connections of a process: who is there, and their end without cutting anybody's word.

Not here: accepting (`listener`), what is said (`driver`, `smtp.server`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol


class About(NamedTuple):
    """Who is connected: the protocol's name in the configuration, the peer's address, who has logged in
    ('' before that), and whether over TLS."""

    protocol: str
    peer: str
    user: str
    secure: bool


class Connection(Protocol):
    """A live connection, as far as operators and stopping are concerned."""

    def about(self) -> About:
        """Who it is, at this moment."""

    def drain(self) -> None:
        """Say goodbye as soon as nothing is under way."""

    def abort(self) -> None:
        """End now."""


class Entry(NamedTuple):
    """A connection in the register; `since` is when it came, in UNIX time."""

    number: int
    since: float
    connection: Connection


class Connections:
    """Who is connected: a connection adds itself at its start, and discards itself when all is cleaned up."""

    def __init__(self) -> None:
        self.draining = False
        self._live: dict[Connection, tuple[int, float]] = {}  # number, since
        self._numbers = itertools.count(1)
        self._emptied = asyncio.Event()

    def __iter__(self) -> Iterator[Entry]:
        """By number, which is the order in which they came."""
        return (Entry(number, since, connection) for connection, (number, since) in self._live.items())

    def __len__(self) -> int:
        return len(self._live)

    def add(self, connection: Connection) -> None:
        """Know a connection; one that comes while draining is drained at once."""
        self._live[connection] = next(self._numbers), time.time()
        if self.draining:
            connection.drain()

    def discard(self, connection: Connection) -> None:
        """Forget a connection, if it is known."""
        self._live.pop(connection, None)
        if not self._live:
            self._emptied.set()

    def end(self, number: int, timeout: float) -> bool:
        """End one as `drain` ends all; False where there is none of that number."""
        found = next((entry.connection for entry in self if entry.number == number), None)
        if found is None:
            return False
        found.drain()
        asyncio.get_running_loop().call_later(timeout, self._cut, found)
        return True

    def _cut(self, connection: Connection) -> None:
        if connection in self._live:
            connection.abort()

    async def wait_empty(self) -> None:
        """Return when nobody is connected."""
        while self._live:
            self._emptied.clear()
            await self._emptied.wait()

    async def drain(self, timeout: float) -> int:
        """End all: idle ones now, busy ones when they are done, the rest after `timeout` seconds.

        Returns how many were cut; waits up to `timeout` once more for their sessions to clean up.
        """
        self.draining = True
        for connection in list(self._live):
            connection.drain()
        await self._wait(timeout)
        cut = list(self._live)
        for connection in cut:
            connection.abort()
        await self._wait(timeout)
        return len(cut)

    async def _wait(self, timeout: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self.wait_empty()

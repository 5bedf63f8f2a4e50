"""The live connections of a server, so that it can stop without cutting anybody's word.

Not here: accepting (`listener`), what is said (`driver`, `smtp.server`).
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Drainable(Protocol):
    """A live connection, as far as stopping is concerned."""

    def drain(self) -> None:
        """Say goodbye as soon as nothing is under way."""

    def abort(self) -> None:
        """End now."""


class Connections:
    """Who is connected: a connection adds itself at its start, and discards itself when all is cleaned up."""

    def __init__(self) -> None:
        self.draining = False
        self._live: set[Drainable] = set()
        self._empty = asyncio.Event()

    def __len__(self) -> int:
        return len(self._live)

    def add(self, connection: Drainable) -> None:
        """Know a connection; one that comes while draining is drained at once."""
        self._live.add(connection)
        self._empty.clear()
        if self.draining:
            connection.drain()

    def discard(self, connection: Drainable) -> None:
        """Forget a connection, if it is known."""
        self._live.discard(connection)
        if not self._live:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Return when nobody is connected."""
        if self._live:
            await self._empty.wait()

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
        if not self._live:
            return
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            return

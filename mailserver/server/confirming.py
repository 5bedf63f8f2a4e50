"""A change of the configuration that nobody confirms in time goes back by itself.

The change and its time are on the disk (`config.confirm`), so any console's process goes on with them, and a
server that was killed meanwhile begins with the last confirmed state. Not here: making changes (`admin`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from mailserver import maillog
from mailserver.admin.refused import Refused
from mailserver.config.confirm import AUTO_REVERT
from mailserver.config.editing import EditRefused, Settings
from mailserver.config.load import ConfigError
from mailserver.config.versioned import TakenBack
from mailserver.pool import Busy, Pool

AGAIN = 2.0  # seconds until what the disk refused is tried again


def report(done: TakenBack) -> None:
    """Log what became of a change that nobody confirmed: edits by hand have the last word."""
    if done.by_hand:
        maillog.event("config-kept", version=done.number, of=done.who)
    else:
        maillog.event("config-taken-back", version=done.number, of=done.who)


class Confirming:
    """Watches over one configuration directory; `reload` has the server use what is there."""

    def __init__(self, directory: str, pool: Pool, reload: Callable[[], Awaitable[None]]) -> None:
        self._settings = Settings(directory)
        self._pool = pool
        self._reload = reload
        self._changed = asyncio.Event()

    def look(self) -> None:
        """There may be a change that waits."""
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._changed.clear()
            try:
                left = await self._left()
                if left == 0.0:
                    await self._take_back()
                    continue
            except (EditRefused, ConfigError, OSError, Busy) as error:
                maillog.event("config-not-taken-back", problem=type(error).__name__)
                left = AGAIN
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    async def _left(self) -> float | None:
        """Seconds until the change that waits goes back; None where none waits."""
        pending = await self._pool.run(self._settings.pending)
        return None if pending is None else pending.left()

    async def _take_back(self) -> None:
        done = await self._pool.run(self._settings.take_back, AUTO_REVERT)
        report(done)
        with contextlib.suppress(Refused):  # the log says why
            await self._reload()

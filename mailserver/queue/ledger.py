"""Changes of the spool, gathered: outcomes that come together share their syncs.

While one batch is on its way to the disk the next one gathers; who is alone waits for nobody. Nobody waits
for the end of removed entries to be durable: that is done once a second for all of them, so a power cut may
repeat the deliveries of its last second.
Not here: what a change is written as (`queue.spool`).
"""

from __future__ import annotations

import asyncio
import contextlib

from mailserver.pool import Busy, Pool
from mailserver.queue.entry import Entry
from mailserver.queue.spool import Spool

BATCH = 256  # entries a pass
SWEEP = 1.0  # seconds for which the contents of removed entries gather


class _Change:
    """The latest wish for one entry, and everybody who waits for it."""

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.waiting: list[asyncio.Future[None]] = []


class Ledger:
    """Writes to `spool` in a thread of `pool`."""

    def __init__(self, spool: Spool, pool: Pool) -> None:
        self._spool = spool
        self._pool = pool
        self._changes: dict[str, _Change] = {}
        self._writer: asyncio.Task[None] | None = None
        self._removed: list[str] = []
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def close(self) -> None:
        """Take no change more, for another may run the queue now; end those under way. Sweep what is left,
        once; the next start does what this cannot."""
        self._closed = True
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(Busy, OSError):
                await self._pool.run(self._spool.sweep, self._removed)

    async def store(self, entry: Entry) -> None:
        """Replace an entry; durable when this returns. Raises OSError; Busy, once closed always."""
        await self._change(entry.id, entry)

    async def remove(self, entry_id: str) -> None:
        """Remove an entry: no end of the process brings it back, nor, a second later, a power cut.

        Raises OSError, Busy.
        """
        await self._change(entry_id, None)

    async def _change(self, entry_id: str, entry: Entry | None) -> None:
        if self._closed:
            raise Busy("the queue is handed over")
        change = self._changes.setdefault(entry_id, _Change())
        change.entry = entry
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        change.waiting.append(done)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        await done

    async def _write(self) -> None:
        while self._changes:
            batch = {entry_id: self._changes.pop(entry_id) for entry_id in list(self._changes)[:BATCH]}
            stored = [change.entry for change in batch.values() if change.entry is not None]
            removed = [entry_id for entry_id, change in batch.items() if change.entry is None]
            errors: dict[str, Exception] = {}
            try:
                errors.update(await self._pool.run(self._spool.apply, stored, removed))
            except (Busy, OSError) as error:
                errors = dict.fromkeys(batch, error)
            self._removed += [entry_id for entry_id in removed if entry_id not in errors]
            for entry_id, change in batch.items():
                _resolve(change.waiting, errors.get(entry_id))
        self._writer = None
        if self._removed and self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        while self._removed:
            await asyncio.sleep(SWEEP)
            removed = list(self._removed)
            with contextlib.suppress(Busy, OSError):  # try again
                await self._pool.run(self._spool.sweep, removed)
                del self._removed[: len(removed)]
        self._sweeper = None


def _resolve(waiting: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in waiting:
        if done.done():  # nobody waits any more
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

"""Changes of the spool that come together are made together; each caller hears of his own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from mailserver.durable.files import sync_directory
from mailserver.pool import Busy
from mailserver.queue.entry import Entry
from mailserver.queue.ledger import Ledger

if TYPE_CHECKING:
    from conftest import World


def test_gathered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes while a batch is under way goes with the next; the last wish for an entry counts."""
    batches = []
    real = world.spool.apply

    def apply(stored: list[Entry], removed: list[str]) -> dict[str, OSError]:
        batches.append(([entry.id for entry in stored], list(removed)))
        return real(stored, removed)

    async def story() -> None:
        ledger = Ledger(world.spool, world.pool)
        first = asyncio.create_task(ledger.remove(ids[0]))
        await asyncio.sleep(0)  # it asks
        await asyncio.sleep(0)  # the batch is under way
        rest = [ledger.remove(entry_id) for entry_id in ids[1:4]]
        changed = replace(world.spool.load(ids[4]), delay_told=True)
        await asyncio.gather(
            first, *rest, ledger.store(changed), ledger.store(changed), ledger.remove(ids[4])
        )

    monkeypatch.setattr(world.spool, "apply", apply)
    ids = [world.accept("x@far.test") for _ in range(5)]
    world.loop.run_until_complete(story())
    assert batches == [([], ids[:1]), ([], ids[1:])]
    assert world.ids() == []


def test_each_hears_of_his_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> list[BaseException | None]:
        ledger = Ledger(world.spool, world.pool)
        return await asyncio.gather(ledger.remove("A1"), ledger.remove("B1"), return_exceptions=True)

    trouble = OSError(5, "Input/output error")
    monkeypatch.setattr(world.spool, "apply", lambda stored, removed: {"B1": trouble})
    assert world.loop.run_until_complete(story()) == [None, trouble]
    world.pool.refuse = Busy("storage")
    assert [type(error) for error in world.loop.run_until_complete(story())] == [Busy, Busy]


def test_contents_go_together_a_little_later(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their envelopes' end is made durable for all of them at once; where it cannot be, they stay meanwhile."""

    async def story() -> None:
        ledger = Ledger(world.spool, world.pool)
        for entry_id in ids[:3]:
            await ledger.remove(entry_id)
        assert world.ids() == ids[3:]
        assert world.contents() == set(ids)
        await asyncio.sleep(1.5)
        assert world.contents() == set(ids), "the disk refuses"
        await asyncio.sleep(1)
        assert world.contents() == set(ids[3:])
        await ledger.remove(ids[3])
        await ledger.close()
        assert world.contents() == set(ids[4:])

    real, syncs = sync_directory, []

    def sync(path: str) -> None:
        syncs.append(world.loop.time())
        if len(syncs) == 1:
            raise OSError(5, "Input/output error")
        real(path)

    monkeypatch.setattr("mailserver.queue.spool.sync_directory", sync)
    ids = [world.accept("x@far.test", shared=True) for _ in range(5)]
    world.loop.run_until_complete(story())
    assert syncs == [1.0, 2.0, 2.5]

"""New entries that come to the queue with what they say: begun without a look into them, unless they changed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from mailserver.queue import intake
from mailserver.queue.courier import Pace
from mailserver.queue.entry import Entry, Status

if TYPE_CHECKING:
    from conftest import World


class Reads:
    """Counts the entries that are read from the disk."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ids: list[str] = []
        load = world.spool.load

        def counted(entry_id: str) -> Entry:
            self.ids.append(entry_id)
            return load(entry_id)

        monkeypatch.setattr(world.spool, "load", counted)


def come(world: World, *recipients: str) -> Entry:
    return world.spool.load(world.accept(*recipients))


def test_it_is_not_read_from_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        entry = come(world, "x@far.test", "y@near.test")
        reads = Reads(world, monkeypatch)
        for _ in range(3):
            world.runner.submit(entry.id, entry)
        await asyncio.sleep(1)
        world.runner.submit(entry.id, entry)  # once more, when it is gone
        await asyncio.sleep(1)
        assert world.ids() == []
        assert reads.ids == [entry.id]  # that last time

    world.run(story())
    assert len(world.courier.attempts) == 2


def test_what_the_disk_says_counts(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        held, removed, half = (come(world, f"{n}a@far.test", f"{n}b@far.test") for n in range(3))
        world.spool.store(replace(held, held=True))
        world.spool.remove(removed.id)
        first, second = half.recipients
        world.spool.store(replace(half, recipients=(replace(first, status=Status.RELAYED), second)))
        for entry in (held, removed, half):
            world.runner.submit(entry.id, entry)
        await asyncio.sleep(1)
        assert world.ids() == [held.id]

    world.run(story())
    assert [attempt.recipients for attempt in world.courier.attempts] == [["2b@far.test"]]


def test_the_operator_comes_first(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        held, dropped = come(world, "x@far.test"), come(world, "y@far.test")
        for entry in (held, dropped):
            world.runner.submit(entry.id, entry)
        await asyncio.gather(world.desk.hold(held.id), world.desk.drop(dropped.id))
        await asyncio.sleep(100)
        assert world.ids() == [held.id]
        await world.desk.release(held.id)
        await asyncio.sleep(1)
        assert world.ids() == []

    world.run(story())
    assert [attempt.recipients for attempt in world.courier.attempts] == [["x@far.test"]]


def test_only_so_many_are_held_in_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "FRESH", 3)

    async def story() -> None:
        await asyncio.sleep(1)
        entries = [come(world, f"u{number}@far.test") for number in range(10)]
        reads = Reads(world, monkeypatch)
        for entry in entries:
            world.runner.submit(entry.id, entry)
        await asyncio.sleep(1)
        assert reads.ids == [entry.id for entry in entries[3:]]
        entry = come(world, "late@far.test")
        reads.ids.clear()
        world.runner.submit(entry.id, entry)
        await asyncio.sleep(1)
        assert reads.ids == []

    world.run(story())
    assert len(world.courier.attempts) == 11


def test_lanes_with_a_pace_go_on(world: World) -> None:
    """A job that may start later than the queue meant to sleep is not forgotten, nor one that may sooner."""
    world.paces["far.test"] = Pace(connections=5, rate=1.0)

    async def story() -> None:
        await asyncio.sleep(1)
        for number in range(5):
            entry = come(world, f"u{number}@far.test")
            world.runner.submit(entry.id, entry)
        await asyncio.sleep(10)
        assert world.ids() == []

    world.run(story())
    times = [attempt.at for attempt in world.courier.attempts]
    assert [round(later - times[0], 3) for later in times] == [0, 1, 2, 3, 4]

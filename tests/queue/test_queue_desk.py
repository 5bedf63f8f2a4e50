"""What the operator does: look, hold, release, retry, drop, wherever an entry is just then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailserver.admin.requests import Request, perform
from mailserver.mail.reply import Reply
from mailserver.pool import Busy
from mailserver.queue.courier import Delivery, Kind, Outcome, Pace
from mailserver.queue.desk import State
from mailserver.queue.schedule import Schedule
from mailserver.queue.spool import Missing

if TYPE_CHECKING:
    from conftest import World

OK = Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", "mx.far.test")
LATER = Outcome(Kind.DEFERRED, 450, "4.2.0", "not now", "mx.far.test")
REFUSED = Outcome(Kind.FAILED, 550, "5.1.1", "no such user", "mx.far.test")
DEAD = Outcome(Kind.DEFERRED, 0, "4.4.1", "connection refused", "mx.far.test", unreachable=True)


async def slow(delivery: Delivery) -> Outcome:
    await asyncio.sleep(60)
    return LATER


def test_hold_and_release(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        await world.desk.hold(entry_id)
        await asyncio.sleep(86_400)
        assert len(world.courier.attempts) == 1
        await world.desk.release(entry_id)
        await asyncio.sleep(1)
        assert len(world.courier.attempts) == 2

    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(story())


def test_a_held_entry_stays_held_over_restarts(world: World) -> None:
    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")

    async def hold() -> None:
        await asyncio.sleep(1)
        await world.desk.hold(entry_id)

    async def release() -> None:
        await asyncio.sleep(1)
        world.courier.answer = lambda delivery: OK
        await world.desk.release(entry_id)
        await asyncio.sleep(1)

    world.run(hold())
    world.run(hours=48)
    assert len(world.courier.attempts) == 1
    world.run(release())
    assert world.ids() == []


@pytest.mark.parametrize("command", ["hold", "drop"])
def test_while_it_is_at_work(world: World, command: str) -> None:
    """The attempt under way ends; recipients that wait for their turn are not tried any more."""

    async def story() -> None:
        await asyncio.sleep(30)
        await getattr(world.desk, command)(entry_id)
        await asyncio.sleep(86_400)

    world.courier.answer = slow  # type: ignore[assignment]
    world.paces["far.test"] = Pace(connections=1)
    entry_id = world.accept(*(f"u{number}@far.test" for number in range(150)))
    world.run(story())
    assert len(world.courier.attempts) == 1
    assert world.ids() == ([entry_id] if command == "hold" else [])
    if command == "hold":
        entry = world.spool.load(entry_id)
        assert entry.held
        assert [queued.attempts for queued in entry.recipients] == [1] * 100 + [0] * 50


def test_hold_and_release_while_it_is_at_work(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(30)
        await world.desk.hold(entry_id)
        await world.desk.release(entry_id)
        await asyncio.sleep(1000)

    world.courier.answer = slow  # type: ignore[assignment]
    entry_id = world.accept("x@far.test")
    world.run(story())
    assert not world.spool.load(entry_id).held
    assert len(world.courier.attempts) > 1


@pytest.mark.parametrize("command", ["hold", "drop", "release", "retry"])
def test_while_it_is_read(world: World, command: str) -> None:
    """However the command falls into the reading of the entry, it holds."""

    async def story(steps: int) -> None:
        await asyncio.sleep(1)
        entry_id = world.accept("x@far.test")
        world.runner.submit(entry_id)
        for _ in range(steps):
            await asyncio.sleep(0)
        at_work = entry_id in world.runner.rounds
        tried = len(world.courier.attempts)
        await getattr(world.desk, command)(entry_id)
        await asyncio.sleep(200)
        if command in ("hold", "drop") and not at_work:
            assert len(world.courier.attempts) == tried
        assert (entry_id in world.ids()) == (command != "drop")
        if command == "hold":
            assert world.spool.load(entry_id).held

    for steps in range(8):
        world.courier.attempts.clear()
        world.courier.answer = lambda delivery: LATER
        world.run(story(steps))


def test_retry(world: World) -> None:
    """At once, although it is not due, and although its destination is left alone."""

    async def story() -> None:
        await asyncio.sleep(1)
        await world.desk.retry(entry_id)
        await asyncio.sleep(1)
        assert len(world.courier.attempts) == 2
        world.courier.answer = lambda delivery: OK
        await world.desk.retry(entry_id)
        await asyncio.sleep(1)

    world.courier.answer = lambda delivery: DEAD
    entry_id = world.accept("x@far.test")
    world.run(story())
    assert world.ids() == []


def test_a_retry_in_vain_is_no_step_of_the_schedule(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        for _ in range(5):
            await world.desk.retry(entry_id)
            await world.desk.retry(entry_id)  # due already
            await asyncio.sleep(1)
        (queued,) = world.spool.load(entry_id).recipients
        assert queued.attempts == 6
        first = world.schedule.intervals[0]
        assert queued.due - queued.last_attempt <= first * (1 + world.schedule.jitter)
        await asyncio.sleep(2 * first)
        (queued,) = world.spool.load(entry_id).recipients
        assert queued.attempts == 7
        assert queued.due - queued.last_attempt > 2 * first

    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(story())


def test_who_retries_all_the_time_gets_no_message_that_never_fails(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        with pytest.raises(Missing):
            for _ in range(13 * 24):
                await world.desk.retry(entry_id)
                await asyncio.sleep(150)

    world.schedule = Schedule(lifetime=12 * 3600)
    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(story())


def test_retry_all(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        await world.desk.hold(held)
        world.courier.answer = lambda delivery: OK
        for listed in await world.desk.listing(100):
            await world.desk.retry(listed.id)
        await asyncio.sleep(1)

    world.courier.answer = lambda delivery: LATER
    for number in range(30):
        world.accept(f"u{number}@d{number % 3}.test")
    held = world.accept("x@far.test")
    world.run(story())
    assert world.ids() == [held]


async def make_due(world: World, command: str, entry_id: str) -> None:
    """By a retry, or by the release of a message that was held; the disk has it so."""
    if command == "release":
        await world.desk.hold(entry_id)
    await getattr(world.desk, command)(entry_id)
    assert world.spool.load(entry_id).due <= world.clock()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("command", ["retry", "release"])
def test_what_is_due_now_is_so_for_who_runs_the_queue_next(world: World, command: str, shared: bool) -> None:
    """The rate of its destination makes it wait, and before it has gone the queue is handed over."""

    async def story() -> None:
        await asyncio.sleep(1)
        await make_due(world, command, entry_id)
        await asyncio.sleep(1)
        assert len(world.courier.attempts) == 1

    world.courier.answer = lambda delivery: LATER
    world.paces["far.test"] = Pace(rate=0.01)
    entry_id = world.accept("x@far.test", shared=shared)
    world.run(story())
    world.courier.answer = lambda delivery: OK
    world.run(asyncio.sleep(1))
    assert world.ids() == []


def test_retry_of_more_than_a_destination_has_room_for(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(60)
        for entry_id in world.ids():
            await world.desk.retry(entry_id)
        await asyncio.sleep(60)

    world.courier.answer = lambda delivery: LATER
    world.paces["far.test"] = Pace(connections=1, rate=1)
    for number in range(30):
        world.accept(f"u{number}@far.test")
    world.run(story())
    assert len(world.courier.attempts) == 60


@pytest.mark.parametrize("command", ["retry", "release"])
def test_a_report_that_is_owed_is_due_now(world: World, command: str) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        await make_due(world, command, entry_id)

    world.courier.answer = lambda delivery: REFUSED
    world.post_reply = Reply(451, "4.3.0", "not now")
    entry_id = world.accept("x@far.test")
    world.run(story())


def test_a_held_message_is_not_said_to_be_due(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        assert (await perform(world.desk, Request("retry", (held, other)))).done == 2
        await asyncio.sleep(1)
        await world.desk.hold(held)
        assert (await perform(world.desk, Request("retry", (held, other)))).done == 1
        assert world.spool.load(held).held

    world.courier.answer = lambda delivery: LATER
    held, other = world.accept("x@far.test"), world.accept("y@far.test")
    world.run(story())


@pytest.mark.parametrize(
    "commands",
    [("hold", "retry"), ("retry", "hold"), ("drop", "retry"), ("drop", "release"), ("release", "drop")],
)
def test_two_commands_at_once(world: World, commands: tuple[str, str]) -> None:
    """Neither is undone by the other's older look at the entry."""

    async def story() -> None:
        await asyncio.sleep(1)
        asked = [getattr(world.desk, command)(entry_id) for command in commands]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            assert not isinstance(result, Exception) or isinstance(result, Missing)
        await asyncio.sleep(100)

    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(story())
    if "drop" in commands:
        assert world.ids() == []
    else:
        assert world.spool.load(entry_id).held


def test_no_command_changes_the_queue_once_it_is_handed_over(world: World) -> None:
    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(asyncio.sleep(1))
    before = world.spool.load(entry_id)
    for command in ("retry", "hold", "release", "drop"):
        with pytest.raises(Busy):
            world.loop.run_until_complete(getattr(world.desk, command)(entry_id))
    assert world.spool.load(entry_id) == before


def test_drop(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        await world.desk.drop(entry_id)
        assert world.ids() == []
        await asyncio.sleep(86_400)

    world.courier.answer = lambda delivery: LATER
    entry_id = world.accept("x@far.test")
    world.run(story())
    assert len(world.courier.attempts) == 1
    assert world.posted == []


def test_drop_what_cannot_be_read(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        (listed,) = await world.desk.listing(10)
        assert listed.state is State.UNREADABLE
        await world.desk.drop(entry_id)

    entry_id = world.accept("x@far.test")
    Path(world.spool.root, "env", entry_id).write_bytes(b"?")
    world.run(story())
    assert world.ids() == []


@pytest.mark.parametrize("command", ["show", "hold", "release", "retry", "drop"])
@pytest.mark.parametrize("name", ["M999999", "../msg/M000001", ""])
def test_no_such_entry(world: World, command: str, name: str) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        with pytest.raises(Missing):
            await getattr(world.desk, command)(name)
        await asyncio.sleep(1000)

    world.courier.answer = lambda delivery: LATER
    world.accept("x@far.test")
    world.run(story())
    assert len(world.ids()) == 1


def test_listing(world: World) -> None:
    async def answer(delivery: Delivery) -> Outcome:
        if delivery.route == "slow.test":
            await asyncio.sleep(60)
        return LATER

    async def story() -> None:
        await asyncio.sleep(1)
        await world.desk.hold(held)
        listed = await world.desk.listing(10)
        assert [(line.id, line.state) for line in listed] == [
            (deferred, State.DEFERRED),
            (held, State.HELD),
            (active, State.ACTIVE),
            (waiting, State.WAITING),
        ]
        assert all(line.entry is not None and line.entry.id == line.id for line in listed)
        assert [line.id for line in await world.desk.listing(2, after=deferred)] == [held, active]
        assert await world.desk.listing(2, after=waiting) == []
        assert (await world.desk.show(active)).recipients[0].attempts == 0
        assert "not now" in (await world.desk.show(deferred)).recipients[0].reply

    world.courier.answer = answer  # type: ignore[assignment]
    world.paces["slow.test"] = Pace(connections=1, rate=0.001)
    deferred = world.accept("x@far.test")
    held = world.accept("y@far.test")
    active = world.accept("x@slow.test")
    waiting = ""
    for number in range(3):
        waiting = world.accept(f"u{number}@slow.test")
        if number < 2:
            world.spool.remove(waiting)
    world.limits = type(world.limits)(entries=1)
    world.run(story(), grace=100)


def test_destinations(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        (dead,) = [line for line in await world.desk.destinations() if line.route == "dead.test"]
        assert dead.blocked_until > world.clock()
        assert "connection refused" in dead.reason
        (busy,) = [line for line in await world.desk.destinations() if line.route == "slow.test"]
        assert (busy.running, busy.waiting, busy.parked) == (1, 1, 8)
        await asyncio.sleep(100)

    async def answer(delivery: Delivery) -> Outcome:
        if delivery.route == "dead.test":
            return DEAD
        await asyncio.sleep(10)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.paces["slow.test"] = Pace(connections=1)
    world.accept("x@dead.test")
    world.accept("x@fine.test")
    for number in range(10):
        world.accept(f"u{number}@slow.test")
    world.run(story())
    assert [line.route for line in asyncio.run(world.desk.destinations())] == ["dead.test"]

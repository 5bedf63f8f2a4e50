"""The queue at work, in virtual time: who is tried when, what is left on the disk, who waits for whom."""

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailserver import maillog
from mailserver.delivery import limits as delivery_limits
from mailserver.delivery.limits import attempt_time
from mailserver.mail.address import parse_mailbox
from mailserver.mail.envelope import Recipient
from mailserver.queue.courier import Delivery, Kind, Outcome, Pace
from mailserver.queue.desk import Listed
from mailserver.queue.entry import Status
from mailserver.queue.runner import Limits

if TYPE_CHECKING:
    from conftest import World

OK = Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", "mx.far.test")
LATER = Outcome(Kind.DEFERRED, 450, "4.2.0", "not now", "mx.far.test")
NEVER = Outcome(Kind.FAILED, 550, "5.1.1", "no such user", "mx.far.test")
DEAD = Outcome(Kind.DEFERRED, 0, "4.4.1", "connection refused", "mx.far.test", unreachable=True)

HOUR = 3600.0


def test_delivered(world: World) -> None:
    world.accept("x@far.test", "y@far.test", "z@near.test", sender="ann@here.test", body_8bit=True, envid="e")
    world.run(hours=0.01)
    assert world.ids() == []
    assert world.posted == []
    carried = {tuple(attempt.recipients): attempt.delivery for attempt in world.courier.attempts}
    assert set(carried) == {("x@far.test", "y@far.test"), ("z@near.test",)}
    delivery = carried["z@near.test",]
    assert (delivery.sender, delivery.body_8bit, delivery.envid) == (
        parse_mailbox("ann@here.test"),
        True,
        "e",
    )
    assert delivery.route == "near.test"


def test_the_courier_reads_the_content(world: World) -> None:
    read = []

    def answer(delivery: Delivery) -> Outcome:
        fd = delivery.content(0)
        read.append(os.read(fd, delivery.at_rest))
        os.close(fd)
        return OK

    world.courier.answer = answer
    world.accept("x@far.test", content=b"a: b\n\nwords\n")
    world.run(hours=0.01)
    assert read == [b"a: b\n\nwords\n"]


def test_more_recipients_than_a_host_takes(world: World) -> None:
    world.accept(*(f"u{number}@far.test" for number in range(250)))
    world.run(hours=0.01)
    assert sorted(len(attempt.recipients) for attempt in world.courier.attempts) == [50, 100, 100]
    assert world.ids() == []


def test_five_days(world: World) -> None:
    """Tried by the schedule, a notice after four hours, a report after five days, and that is all."""
    world.courier.answer = lambda delivery: LATER
    world.accept("x@far.test")
    world.run(hours=7 * 24)
    times = world.courier.times("x@far.test")
    waits = [b - a for a, b in pairwise(times)]
    for wait, meant in zip(waits, [300, 900, 1800, 3600, 7200], strict=False):
        assert 0.89 * meant <= wait <= 1.11 * meant
    assert all(0.89 * 4 * HOUR <= wait <= 1.11 * 4 * HOUR for wait in waits[5:-1])
    assert len(set(waits)) == len(waits), "no jitter"
    assert times[-1] == pytest.approx(5 * 24 * HOUR, abs=1)
    assert world.ids() == []
    notice, failure = world.posted
    assert 4 * HOUR <= notice.at <= 9 * HOUR
    assert b"Action: delayed" in notice.content
    assert failure.at == pytest.approx(5 * 24 * HOUR, abs=1)
    assert b"Action: failed" in failure.content
    assert b"Status: 4.4.7" in failure.content
    assert b"450 4.2.0 not now" in failure.content


def test_each_recipient_for_himself(world: World) -> None:
    """One is delivered, one refused, one comes through at the third attempt: each is told and tried alone."""
    tries = []

    def answer(delivery: Delivery) -> list[Outcome]:
        names = [recipient.address.local for recipient in delivery.recipients]
        tries.append(names)
        third = OK if len(tries) == 3 else LATER
        return [{"good": OK, "bad": NEVER, "slow": third}[name] for name in names]

    world.courier.answer = answer
    world.accept("good@far.test", "bad@far.test", "slow@far.test")
    world.run(hours=2)
    assert tries == [["good", "bad", "slow"], ["slow"], ["slow"]]
    (failure,) = world.posted
    assert failure.at < 1
    assert b"<bad@far.test>" in failure.content
    assert b"good@far.test" not in failure.content
    assert world.ids() == []


def test_outcomes_are_on_disk_before_the_entry_goes_on(world: World) -> None:
    """What one route brought is durable while another one still takes its time."""
    seen = {}

    async def answer(delivery: Delivery) -> Outcome:
        if delivery.route == "slow.test":
            await asyncio.sleep(100)
            seen.update({q.recipient.address.domain: q for q in world.spool.load(delivery.id).recipients})
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.accept("x@fast.test", "x@slow.test")
    world.run(hours=0.1)
    assert seen["fast.test"].status is Status.RELAYED
    assert (seen["fast.test"].reply, seen["fast.test"].remote) == ("250 2.0.0 taken", "mx.far.test")
    assert seen["slow.test"].status is Status.PENDING
    assert world.ids() == []


def test_a_dead_destination_delays_nobody(world: World) -> None:
    """Hundreds of messages wait for hosts that hang, and a hundred others get through at once."""

    async def answer(delivery: Delivery) -> Outcome:
        if str(delivery.route).startswith("dead"):
            await asyncio.sleep(300)
            return DEAD
        await asyncio.sleep(0.1)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(deliveries=20, entries=50)
    for number in range(300):
        world.accept(f"u{number}@dead.test")
    for number in range(100):
        world.accept(f"u{number}@alive{number % 5}.test")
    world.run(hours=0.2)
    alive = [attempt.at for attempt in world.courier.attempts if "alive" in str(attempt.delivery.route)]
    assert len(alive) == 100
    assert max(alive) < 5


def test_many_dead_destinations_leave_room_for_one_that_answers(world: World) -> None:
    async def answer(delivery: Delivery) -> Outcome:
        if str(delivery.route).startswith("dead"):
            await asyncio.sleep(300)
            return DEAD
        await asyncio.sleep(0.1)
        return OK

    async def story() -> float:
        await asyncio.sleep(10)
        for number in range(100):
            world.runner.submit(world.accept(f"u@dead{number}.test"))
        await asyncio.sleep(10)
        before = world.clock()
        for number in range(50):
            world.runner.submit(world.accept(f"late{number}@alive.test"))
        while len([a for a in world.courier.attempts if a.delivery.route == "alive.test"]) < 51:
            await asyncio.sleep(0.1)
        return world.clock() - before

    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(deliveries=20)
    world.accept("first@alive.test")
    took = world.run(story(), grace=1000)
    assert took is not None
    assert took < 3
    assert world.courier.most["all"] <= 20


def test_back_off_is_the_destinations(world: World) -> None:
    """Of a hundred messages one finds out that nobody is there; the others do not knock as well."""
    world.courier.answer = lambda delivery: DEAD
    for number in range(100):
        world.accept(f"u{number}@far.test")
    world.run(hours=12)
    knocks = [attempt.at for attempt in world.courier.attempts]
    assert len([at for at in knocks if at < 60]) <= 5
    assert len(knocks) <= 12 * 8, "more often than every seven or eight minutes"
    for entry_id in world.ids():
        (queued,) = world.spool.load(entry_id).recipients
        assert queued.attempts + queued.passed_over >= 6
        assert queued.attempts == len(world.courier.times(str(queued.recipient.address)))
        assert "connection refused" in queued.reply


def test_who_is_never_tried_himself_is_told_and_given_up_all_the_same(world: World) -> None:
    """Behind a dead destination a message may have no attempt of its own for days."""
    world.courier.answer = lambda delivery: DEAD
    for number in range(300):
        world.accept(f"u{number}@far.test")
    world.run(hours=9)
    entries = [world.spool.load(entry_id) for entry_id in world.ids()]
    untried = [entry for entry in entries if not entry.recipients[0].attempts]
    assert len(untried) > 100
    assert all(entry.delay_told and not entry.recipients[0].last_attempt for entry in untried)
    world.run(hours=5 * 24)
    assert world.ids() == []
    assert len(world.posted) == 600


def test_the_couriers_own_limit_comes_first(world: World) -> None:
    """A large message over a slow line: it has the time its octets take (`delivery.limits`)."""

    async def answer(delivery: Delivery) -> Outcome:
        await asyncio.sleep(attempt_time(courier, delivery.size) - 1)
        return OK

    courier = delivery_limits.Limits()
    world.courier.answer = answer  # type: ignore[assignment]
    world.accept("x@far.test", content=b"x" * (4 << 20))
    world.run(hours=6)
    assert world.ids() == []
    assert len(world.courier.attempts) == 1


def test_a_destination_that_is_back_is_served(world: World) -> None:
    world.courier.answer = lambda delivery: DEAD if world.loop.now < 2 * HOUR else OK
    for number in range(100):
        world.accept(f"u{number}@far.test")
    world.run(hours=7)
    assert world.ids() == []


def test_busy_host_is_not_a_dead_one(world: World) -> None:
    """A host that turns one of many connections away gets fewer of them, and all of the mail in time."""
    turned_away = []

    async def answer(delivery: Delivery) -> Outcome:
        if world.courier.running["far.test"] > 3:
            turned_away.append(delivery.id)
            return DEAD._replace(code=421, status="4.7.0", text="too many connections")
        await asyncio.sleep(0.5)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.paces["far.test"] = Pace(connections=10)
    for number in range(100):
        world.accept(f"u{number}@far.test")
    world.run(hours=1)
    assert turned_away
    assert world.ids() == []


def test_bounds(world: World) -> None:
    async def answer(delivery: Delivery) -> Outcome:
        await asyncio.sleep(1)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(deliveries=12)
    world.paces["one.test"] = Pace(connections=1)
    world.paces["two.test"] = Pace(connections=3)
    for number in range(30):
        for domain in ("one.test", "two.test", "three.test", "four.test"):
            world.accept(f"u{number}@{domain}")
    world.run(hours=0.1)
    most = world.courier.most
    assert most["one.test"] == 1
    assert most["two.test"] == 3
    assert most["all"] == 12
    assert world.ids() == []


def test_rate(world: World) -> None:
    world.paces["far.test"] = Pace(connections=5, rate=0.5)
    for number in range(200):
        world.accept(f"u{number}@far.test")
    world.accept("x@free.test")
    world.run(hours=1)
    times = [attempt.at for attempt in world.courier.attempts if attempt.delivery.route == "far.test"]
    assert len(times) == 200
    assert all(b - a >= 1.99 for a, b in pairwise(times))
    assert times[-1] < 420
    assert world.courier.times("x@free.test")[0] < 2


def test_parked_recipients_do_not_hold_back_the_others(world: World) -> None:
    """A message for a slow lane and a deferring host is retried there while it waits for its turn here."""
    world.paces["slow.test"] = Pace(connections=1, rate=0.001)
    tries = []

    def answer(delivery: Delivery) -> Outcome:
        if delivery.route == "far.test":
            tries.append(world.loop.now)
            return LATER if len(tries) < 3 else OK
        return OK

    world.courier.answer = answer
    for number in range(20):
        world.accept(f"u{number}@slow.test")
    world.accept("both@slow.test", "both@far.test")
    world.run(hours=7)
    assert len(tries) == 3
    assert tries[-1] < 2 * HOUR
    assert world.courier.times("both@slow.test")[0] > 5 * HOUR
    assert world.ids() == []


def test_new_mail_does_not_queue_up_behind_a_backlog(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(0.1)
        assert len(world.runner.intake.agenda) > 1000
        world.runner.submit(world.accept("new@fresh.test"))
        await asyncio.sleep(10)

    async def answer(delivery: Delivery) -> Outcome:
        await asyncio.sleep(0.1)
        return LATER

    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(entries=20)
    for number in range(1500):
        world.accept(f"u{number}@d{number % 50}.test")
    world.loop.now += 30 * HOUR
    world.run(story())
    order = [attempt.delivery.route for attempt in world.courier.attempts]
    assert order.index("fresh.test") < 200


def test_memory_is_bounded(world: World) -> None:
    async def answer(delivery: Delivery) -> Outcome:
        most.append(len(world.runner.rounds))
        await asyncio.sleep(0.01)
        return OK

    most: list[int] = []
    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(entries=20)
    for number in range(500):
        world.accept(f"u{number}@d{number % 50}.test")
    world.run(hours=0.1)
    assert world.ids() == []
    assert max(most) <= 20


def test_stop_hands_back(world: World) -> None:
    """What may have been taken has a while for its answer; the others, and what waited, are as they were."""

    async def answer(delivery: Delivery) -> Outcome:
        delivery.sent()
        await asyncio.sleep({"quick.test": 30, "endless.test": 10_000}[str(delivery.route)])
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.limits = Limits(deliveries=4)
    world.paces["endless.test"] = Pace(connections=1)
    quick = world.accept("x@quick.test")
    endless = [world.accept(f"u{number}@endless.test") for number in range(10)]
    before = [world.spool.load(entry_id) for entry_id in endless]
    world.run(asyncio.sleep(1), grace=60)
    assert world.loop.now == pytest.approx(61, abs=1)
    assert world.ids() == endless
    assert quick not in world.ids()
    assert [world.spool.load(entry_id) for entry_id in endless] == before
    world.courier.answer = lambda delivery: OK
    world.run(hours=0.01)
    assert world.ids() == []


def test_stop_waits_for_nobody_who_has_taken_nothing(world: World) -> None:
    """A host that stalls before the end of data does not keep the queue from who runs it next."""

    async def answer(delivery: Delivery) -> Outcome:
        await asyncio.sleep(10_000)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    ids = [world.accept(f"x@d{number}.test") for number in range(20)]
    before = [world.spool.load(entry_id) for entry_id in ids]
    world.run(asyncio.sleep(1), grace=600)
    assert world.loop.now == pytest.approx(1, abs=0.1)
    assert [world.spool.load(entry_id) for entry_id in ids] == before
    world.courier.answer = lambda delivery: OK
    world.run(hours=0.01)
    assert world.ids() == []


def test_an_endless_courier(world: World) -> None:
    async def answer(delivery: Delivery) -> Outcome:
        if delivery.id == first:
            await asyncio.sleep(1e9)
        return OK

    world.courier.answer = answer  # type: ignore[assignment]
    world.paces["far.test"] = Pace(connections=1)
    first = world.accept("x@far.test")
    world.accept("y@far.test")
    world.run(hours=8)
    assert world.ids() == [first]
    assert "took too long" in world.spool.load(first).recipients[0].reply


@pytest.mark.parametrize("fault", [ValueError("secret"), TimeoutError(), OSError("disk")])
def test_a_faulty_courier_defers(world: World, fault: Exception) -> None:
    def answer(delivery: Delivery) -> Outcome:
        raise fault

    world.courier.answer = answer
    entry_id = world.accept("x@far.test")
    world.run(hours=0.05)
    (queued,) = world.spool.load(entry_id).recipients
    assert (queued.status, queued.attempts) == (Status.PENDING, 1)
    assert "secret" not in queued.reply


def test_a_courier_that_forgets_a_recipient(world: World) -> None:
    world.courier.answer = lambda delivery: [OK]
    entry_id = world.accept("x@far.test", "y@far.test")
    world.run(hours=0.05)
    assert [queued.status for queued in world.spool.load(entry_id).recipients] == [Status.PENDING] * 2


def test_the_disk_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outcome that cannot be stored is kept and stored later; nobody is tried again meanwhile."""
    before = maillog.counters().get("queue.not-stored", 0)

    async def story() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(world.spool, "apply", lambda stored, removed: _refuse())
            world.runner.submit(world.accept("x@far.test"))
            world.runner.submit(world.accept("good@far.test", "bad@near.test"))
            await asyncio.sleep(60)
            assert len(world.ids()) == 2
            assert world.posted == []
        await asyncio.sleep(60)

    def _refuse() -> dict[str, OSError]:
        raise OSError(28, "No space left on device")

    world.courier.answer = lambda delivery: NEVER if delivery.route == "near.test" else OK
    world.run(story())
    assert world.ids() == []
    assert len(world.courier.attempts) == 3
    assert len(world.posted) == 1
    assert maillog.counters()["queue.not-stored"] > before


def test_the_pool_is_full(world: World) -> None:
    from mailserver.pool import Busy

    async def story() -> None:
        await asyncio.sleep(1)
        world.pool.refuse = Busy("storage")
        world.runner.submit(world.accept("x@far.test"))
        await asyncio.sleep(30)
        world.pool.refuse = None
        await asyncio.sleep(90)

    world.run(story())
    assert world.ids() == []
    assert len(world.courier.attempts) == 1


def test_entries_of_other_processes_are_found(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(30)
        world.accept("x@far.test")
        await asyncio.sleep(90)

    world.run(story())
    assert world.ids() == []


def test_clock_set_back(world: World) -> None:
    """What was planned by a clock a year ahead is not put off for a year."""
    world.skew = 365 * 24 * HOUR
    world.accept("x@far.test")
    world.skew = 0
    world.run(hours=5)
    assert world.ids() == []


def test_clock_set_back_while_running(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        world.skew = -24 * HOUR
        await asyncio.sleep(30 * HOUR)

    world.courier.answer = lambda delivery: LATER if len(world.courier.attempts) < 3 else OK
    world.accept("x@far.test")
    world.run(story())
    assert world.ids() == []


def test_clock_leaps_forward(world: World) -> None:
    """A message is not given up because a year seems to have passed: it gets its attempts."""
    world.courier.answer = lambda delivery: LATER
    world.accept("x@far.test")
    world.run(hours=1)
    world.skew = 365 * 24 * HOUR
    world.run(hours=24)
    assert len(world.ids()) == 1
    assert not [posted for posted in world.posted if b"Action: failed" in posted.content]


def test_unreadable_entries_wait_for_a_hand(world: World) -> None:
    broken = world.accept("x@far.test")
    newer = world.accept("y@far.test")
    fine = world.accept("z@far.test")
    env = Path(world.spool.root, "env")
    text = (env / broken).read_bytes()
    (env / broken).write_bytes(text[:40])
    (env / newer).write_bytes((env / newer).read_bytes().replace(b'"version":1', b'"version":9'))
    for name in (broken, newer):
        os.utime(env / name, (world.clock(), world.clock()))

    async def story() -> None:
        await asyncio.sleep(60)
        assert world.ids() == [broken, newer]
        (env / broken).write_bytes(text)
        await asyncio.sleep(600)

    world.run(story())
    assert fine not in world.ids()
    assert world.ids() == [newer]


def test_a_fifo_stops_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of an envelope or of content: others are carried and listed, and it is looked at again."""
    logged: list[tuple[str, object]] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: logged.append((name, fields.get("id"))))
    ids = [world.accept(f"{name}@far.test", shared=True) for name in "xyz"]
    for directory, entry_id in (("env", ids[0]), ("msg", ids[1])):
        path = Path(world.spool.root, directory, entry_id)
        path.unlink()
        os.mkfifo(path)
        os.utime(path, (world.clock(), world.clock()))

    async def story() -> list[Listed]:
        await asyncio.sleep(60)
        return await world.desk.listing(10)

    listed = world.run(story())
    assert listed is not None
    assert [(line.id, line.entry is None) for line in listed] == [(ids[0], True), (ids[1], False)]
    assert [attempt.recipients for attempt in world.courier.attempts] == [["z@far.test"]]
    assert {("queue-unreadable", entry_id) for entry_id in ids[:2]} <= set(logged)


def test_content_that_somebody_removed(world: World) -> None:
    entry_id = world.accept("x@far.test", shared=True)
    Path(world.spool.root, "msg", entry_id).unlink()
    world.run(hours=0.01)
    assert world.ids() == []
    assert world.courier.attempts == []
    (failure,) = world.posted
    assert b"Action: failed" in failure.content


@pytest.mark.parametrize("octets", [0, 20, 1000])
def test_content_of_another_size_is_held(world: World, monkeypatch: pytest.MonkeyPatch, octets: int) -> None:
    """Nobody gets a part of it, nobody is told a thing; an operator who puts it back releases it."""
    logged: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: logged.append(name))
    entry_id = world.accept("x@far.test", "y@near.test", shared=True)
    path = Path(world.spool.root, "msg", entry_id)
    content = path.read_bytes()
    os.truncate(path, octets)

    async def story() -> None:
        await asyncio.sleep(60)
        assert logged.count("content-damaged") == 1
        assert world.spool.load(entry_id).held
        await world.desk.release(entry_id)
        await asyncio.sleep(HOUR)
        assert logged.count("content-damaged") == 2
        assert world.spool.load(entry_id).held
        assert (world.courier.attempts, world.posted) == ([], [])
        path.write_bytes(content)
        await world.desk.release(entry_id)
        await asyncio.sleep(60)

    world.run(story())
    assert len(world.courier.attempts) == 2
    assert world.ids() == []


def test_content_that_is_cut_while_it_waits_for_a_host(world: World) -> None:
    def answer(delivery: Delivery) -> Outcome:
        os.truncate(Path(world.spool.root, "msg", entry_id), 20)
        with pytest.raises(OSError, match="size"):
            delivery.content(0)
        return LATER

    entry_id = world.accept("x@far.test", shared=True)
    world.courier.answer = answer
    world.run(hours=10)
    assert len(world.courier.attempts) == 1
    assert world.spool.load(entry_id).held


def test_envelope_that_somebody_removed(world: World) -> None:
    async def story() -> None:
        entry_id = world.accept("x@far.test")
        world.spool.remove(entry_id)
        world.runner.submit(entry_id)
        await asyncio.sleep(1)

    world.run(story())
    assert world.courier.attempts == []
    assert world.posted == []


def test_a_submitted_entry_is_tried_once(world: World) -> None:
    async def story() -> None:
        await asyncio.sleep(1)
        entry_id = world.accept("x@far.test")
        for _ in range(3):
            world.runner.submit(entry_id)
            await asyncio.sleep(0)
        world.runner.submit(entry_id)
        await asyncio.sleep(200)

    world.run(story())
    assert len(world.courier.attempts) == 1


def test_recipients_keep_their_wishes(world: World) -> None:
    wishes = Recipient(parse_mailbox("x@far.test"), frozenset({"SUCCESS", "DELAY"}), "rfc822;orig@far.test")
    world.accept(wishes, ret="HDRS", envid="QQ+2B1", smtputf8=True)
    world.run(hours=0.01)
    delivery = world.courier.attempts[0].delivery
    assert delivery.recipients == (wishes,)
    assert (delivery.ret, delivery.envid, delivery.smtputf8) == ("HDRS", "QQ+2B1", True)

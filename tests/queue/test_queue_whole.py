"""Whatever happens to the queue: every recipient ends in one way, the right one, and its sender hears of it.

The remote side counts what it took and what it refused. The queue meets hosts that fail at random, a disk
and a post that refuse, an operator, and the end of its process in the middle of work, gracefully or not.
"""

from __future__ import annotations

import asyncio
import email
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailserver.mail.envelope import Envelope
from mailserver.mail.reply import Reply
from mailserver.pool import Busy
from mailserver.queue.courier import Delivery, Kind, Outcome, Pace
from mailserver.queue.entry import Status
from mailserver.queue.runner import Limits
from mailserver.queue.spool import Missing

if TYPE_CHECKING:
    from conftest import World

OK = Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", "mx.far.test")
LATER = Outcome(Kind.DEFERRED, 450, "4.2.0", "not now", "mx.far.test")
NEVER = Outcome(Kind.FAILED, 550, "5.1.1", "no such user", "mx.far.test")
DEAD = Outcome(Kind.DEFERRED, 0, "4.4.1", "connection refused", "mx.far.test", unreachable=True)


class Outside:
    """The remote hosts and the post. `final` counts verdicts for a recipient, `told` reports of failure."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.final: dict[str, list[Kind]] = {}
        self.told: Counter[str] = Counter()
        self.dropped: set[str] = set()
        self._chance = chance
        world.courier.answer = self.answer  # type: ignore[assignment]
        world.post = self.post  # type: ignore[method-assign]

    async def answer(self, delivery: Delivery) -> list[Outcome]:
        await asyncio.sleep(self._chance.choice([0, 0, 0.1, 5, 300]))
        whole = self._chance.random()
        if whole < 0.1:
            return [DEAD] * len(delivery.recipients)
        if whole < 0.15:
            raise ValueError("a courier with a fault")
        outcomes = [self._chance.choice([OK, OK, LATER, NEVER]) for _ in delivery.recipients]
        for recipient, outcome in zip(delivery.recipients, outcomes, strict=True):
            if outcome is not LATER:
                self.final.setdefault(str(recipient.address), []).append(outcome.kind)
        return outcomes

    async def post(self, envelope: Envelope, content: bytes) -> Reply:
        await asyncio.sleep(self._chance.choice([0, 1]))
        if self._chance.random() < 0.2:
            return Reply(451, "4.3.0", "not now")
        for group in email.message_from_bytes(content).get_payload(1).get_payload()[1:]:  # type: ignore[union-attr,index]
            if group["Action"] == "failed":  # type: ignore[index,union-attr]
                self.told[str(group["Final-Recipient"]).partition(";")[2]] += 1  # type: ignore[index]
        return Reply(250, "2.0.0", "OK")

    def unsettled(self, world: World) -> int:
        """Verdicts the queue does not know of, reports it does not know to be told: what a crash may repeat."""
        open_windows = 0
        for entry_id in world.ids():
            for queued in world.spool.load(entry_id).recipients:
                name = str(queued.recipient.address)
                open_windows += queued.status is Status.PENDING and name in self.final
                open_windows += not queued.reported and name in self.told
        return open_windows


async def trouble(world: World, chance: random.Random, outside: Outside) -> None:
    """Some hours with an operator who does not know what he wants, and a disk that is full at times."""
    for _ in range(chance.randrange(1, 15)):
        long = [600, 7200] if world.pool.refuse is None else []
        await asyncio.sleep(chance.choice([0, 0.05, 1, 60, *long]))
        ids = world.ids()
        if not ids:
            return
        victim = chance.choice(ids)
        with suppress(Missing, Busy):  # gone meanwhile; the disk is full
            match chance.randrange(8):
                case 0:
                    await world.desk.hold(victim)
                case 1:
                    await world.desk.release(victim)
                case 2:
                    await world.desk.retry(victim)
                case 3:
                    for entry_id in ids:
                        await world.desk.retry(entry_id)
                case 4 if chance.random() < 0.3:
                    outside.dropped.update(
                        str(q.recipient.address) for q in world.spool.load(victim).recipients
                    )
                    await world.desk.drop(victim)
                case 5 | 6:
                    world.pool.refuse = Busy("full") if chance.random() < 0.5 else None
    world.pool.refuse = None


async def calm(world: World) -> None:
    await asyncio.sleep(1)
    for entry_id in world.ids():
        with suppress(Missing):  # settled meanwhile
            await world.desk.release(entry_id)
    for _ in range(24):
        if world.ids():
            await asyncio.sleep(2 * 3600)


@pytest.mark.parametrize("kill", [False, True])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_everybody_ends(world_maker: Callable[[], World], kill: bool, seed: int) -> None:
    world, chance = world_maker(), random.Random(seed)
    outside = Outside(world, chance)
    world.limits = Limits(deliveries=chance.choice([2, 10]), entries=chance.choice([3, 100]), rescan=3600)
    world.paces["d1.test"] = Pace(connections=1, rate=0.1)
    everybody = []
    for number in range(20):
        recipients = [f"u{number}x{n}@d{chance.randrange(4)}.test" for n in range(chance.randrange(1, 5))]
        world.accept(*recipients)
        everybody += recipients
    windows = 0
    for _ in range(6):
        if kill:
            windows += world.kill(
                trouble(world, chance, outside), chance.randrange(1, 2000)
            ) and outside.unsettled(world)
            world.pool.refuse = None
        else:
            world.run(trouble(world, chance, outside), grace=chance.choice([0, 10]))
            assert outside.unsettled(world) == 0
    for _ in range(10):
        if world.ids():
            world.run(calm(world))
    assert world.ids() == []
    repeated = 0
    for recipient in everybody:
        verdicts, told = outside.final.get(recipient, []), outside.told[recipient]
        if recipient in outside.dropped:
            continue
        assert verdicts, f"{recipient} is lost"
        assert told or Kind.FAILED not in verdicts or Kind.DELIVERED in verdicts, (
            f"nobody heard of {recipient}"
        )
        assert not told or Kind.FAILED in verdicts
        repeated += len(verdicts) - 1 + max(0, told - 1)
    assert repeated <= windows
    world.close()

"""A queue in a world of its own: virtual time, no threads, a courier that does what the test says.

The loop's clock stands still while anything can run and leaps to the next timer when nothing can, so five
days of retries take the time of their work. The spool is the real one, in memory where there is some.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from destinations import put

from mailserver import maillog
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.reply import Reply
from mailserver.pool import Pool
from mailserver.queue.courier import Courier, Delivery, Kind, Outcome, Pace, Route
from mailserver.queue.desk import Desk
from mailserver.queue.entry import Unreadable
from mailserver.queue.reports import Reports
from mailserver.queue.runner import Limits, Runner
from mailserver.queue.schedule import Schedule
from mailserver.queue.spool import Spool

T = TypeVar("T")

START = 1_700_000_000.0
CONTENT = b"Received: from far.test\nSubject: hello\nFrom: ann@here.test\n\nthe words of it\n"

OK = Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", "mx.far.test")
LATER = Outcome(Kind.DEFERRED, 450, "4.2.0", "not now", "mx.far.test")
NEVER = Outcome(Kind.FAILED, 550, "5.1.1", "no such user", "mx.far.test")
DEAD = Outcome(Kind.DEFERRED, 0, "4.4.1", "connection refused", "mx.far.test", unreachable=True)


class Killed(BaseException):
    """The process is gone."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Instead of waiting for a timer it moves its clock. After `turns` it stops dead, if that is a number."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.turns: int | None = None
        super().__init__(_Selector(self))
        self._clock_resolution = 1e-6  # a timer that is due now is due, however large the numbers are

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if self._loop.turns is not None:
            self._loop.turns -= 1
            if self._loop.turns < 0:
                raise Killed
        found = super().select(0)
        if not found and timeout is None:
            raise RuntimeError("nothing will ever happen again")
        if not found and timeout:
            self._loop.now += timeout
        return found


class Inline(Pool):
    """Does the work at once, in the loop. `refuse` is raised instead, as long as it is there."""

    def __init__(self) -> None:
        super().__init__("inline", 1, 0)
        self.refuse: Exception | None = None

    async def run(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:  # type: ignore[override]
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        return fn(*args, **kwargs)


class Attempt(NamedTuple):
    at: float  # seconds since START
    delivery: Delivery
    recipients: list[str]


Answer = Callable[[Delivery], Awaitable[Sequence[Outcome]] | Sequence[Outcome] | Outcome]


class Memory:
    """A courier that keeps a list and answers what it is told to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.attempts: list[Attempt] = []
        self.answer: Answer = lambda delivery: OK
        self.running: Counter[Route] = Counter()
        self.most: Counter[Route] = Counter()
        self._clock = clock

    async def deliver(self, delivery: Delivery) -> Sequence[Outcome]:
        recipients = [str(recipient.address) for recipient in delivery.recipients]
        self.attempts.append(Attempt(self._clock() - START, delivery, recipients))
        self.running[delivery.route] += 1
        self.most[delivery.route] = max(self.most[delivery.route], self.running[delivery.route])
        self.most["all"] = max(self.most["all"], self.running.total())
        try:
            answer = self.answer(delivery)
            if isinstance(answer, Awaitable):
                answer = await answer
        finally:
            self.running[delivery.route] -= 1
        return [answer] * len(recipients) if isinstance(answer, Outcome) else answer

    def times(self, recipient: str) -> list[float]:
        return [attempt.at for attempt in self.attempts if recipient in attempt.recipients]


class Posted(NamedTuple):
    at: float
    envelope: Envelope
    content: bytes

    @property
    def to(self) -> str:
        return str(self.envelope.recipients[0].address)


class World:
    """The queue of one test. `run` starts it, waits for a coroutine of the test, and stops it."""

    def __init__(self, root: Path) -> None:
        self.loop = VirtualLoop()
        self.random = random.Random(1)
        self.spool = Spool(str(root), self.clock)
        self.spool.prepare()
        self.pool = Inline()
        self.courier = Memory(self.clock)
        self.paces: dict[Route, Pace] = {}
        self.posted: list[Posted] = []
        self.post_reply = Reply(250, "2.0.0", "OK")
        self.postmaster: Address | None = Address("postmaster", "here.test")
        self.schedule = Schedule()
        self.limits = Limits()
        self.skew = 0.0  # what is wrong with the wall clock
        self._ids = 0

    def clock(self) -> float:
        return START + self.loop.time() + self.skew

    # -- router ----------------------------------------------------------------------------------

    def route(self, sender: Address | None, recipient: Address) -> Route:
        return recipient.domain

    def courier_for(self, route: Route) -> Courier:
        return self.courier

    def pace(self, route: Route) -> Pace:
        return self.paces.get(route, Pace())

    # -- the world around ------------------------------------------------------------------------

    async def post(self, envelope: Envelope, content: bytes) -> Reply:
        self.posted.append(Posted(self.clock() - START, envelope, content))
        return self.post_reply

    def accept(
        self,
        *recipients: str | Recipient,
        sender: str | None = "ann@here.test",
        content: bytes = CONTENT,
        shared: bool = False,
        **envelope: Any,
    ) -> str:
        """Put a message into the spool, as a commit does; its id."""
        self._ids += 1
        entry_id = f"M{self._ids:06d}"
        given = tuple(r if isinstance(r, Recipient) else Recipient(parse_mailbox(r)) for r in recipients)
        author = parse_mailbox(sender) if sender else None
        departure = self.spool.destination(
            entry_id,
            Envelope(author, given, **envelope),
            size=len(content),
            wire_size=len(content) + 5,
            shared=shared,
        )
        put(self.spool, departure, content)
        return entry_id

    def ids(self) -> list[str]:
        """What is in the spool; every envelope has its content."""
        found = sorted(entry_id for entry_id, _ in self.spool.ids())
        for entry_id in found:
            with suppress(Unreadable):
                assert self.spool.content_size(self.spool.load(entry_id)) is not None
        assert not list(Path(self.spool.root, "tmp").iterdir())
        return found

    def contents(self) -> set[str]:
        return {path.name for path in Path(self.spool.root, "msg").iterdir()}

    def build(self) -> Runner:
        reports = Reports(
            self.spool,
            self.pool,
            self.post,
            self.schedule,
            "mx.here.test",
            lambda: self.postmaster,
        )
        self.runner = Runner(
            self.spool,
            self.pool,
            self,
            reports,
            self.clock,
            schedule=self.schedule,
            limits=self.limits,
            chance=self.random.random,
        )
        self.desk = Desk(self.runner, self.spool, self.pool, dict)
        return self.runner

    def run(
        self, story: Coroutine[Any, Any, T] | None = None, *, hours: float = 0, grace: float = 60
    ) -> T | None:
        """Let the queue run for some time, and for as long as `story` takes."""

        async def tell() -> T | None:
            runner = self.build()
            runner.start()
            result = await story if story is not None else None
            await asyncio.sleep(hours * 3600)
            await runner.stop(grace)
            assert self.pool.refuse or self.contents() <= {entry_id for entry_id, _ in self.spool.ids()}
            return result

        self.spool.recover()
        asyncio.set_event_loop(self.loop)
        faults = maillog.counters().get("queue.trouble", 0)
        result = self.loop.run_until_complete(tell())
        assert maillog.counters().get("queue.trouble", 0) == faults
        return result

    def kill(self, story: Coroutine[Any, Any, None], turns: int) -> bool:
        """Like `run`, but after so many turns of the loop the process is killed; whether it came to that."""
        self.loop.turns = turns
        try:
            self.run(story)
        except Killed:
            _GRAVES.append(
                self.loop
            )  # a killed process cleans nothing up: its tasks must not even be collected
            for task in asyncio.all_tasks(self.loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _GRAVES.append(task)
            self.loop.close()
            self.loop = VirtualLoop(self.loop.now)
            return True
        self.loop.turns = None
        return False

    def close(self) -> None:
        asyncio.set_event_loop(None)
        self.loop.close()
        self.pool.close()


_GRAVES: list[object] = []


@pytest.fixture
def world_maker(memory_path: Path) -> Callable[[], World]:
    """Makes worlds, each with a place of its own."""
    numbers = itertools.count()
    return lambda: World(memory_path / f"queue{next(numbers)}")


@pytest.fixture
def world(world_maker: Callable[[], World]) -> Iterator[World]:
    world = world_maker()
    yield world
    world.close()

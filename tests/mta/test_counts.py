"""What all processes count together: each knows what another one has counted, dead or alive."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mailserver.directory import User
from mailserver.mail.quota import Quota
from mailserver.mta.allowance import Allowance
from mailserver.mta.authentication import Verified
from mailserver.mta.counts import WAYS, Counts, Rows
from mailserver.mta.guesses import Sources, TooManyGuesses

HOME, AWAY = "192.0.2.1", "198.51.100.1"


def in_a_child(work: Callable[[], object]) -> None:
    """Do it in a forked process, which is killed when it has."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_a_users_messages_count_whichever_process_took_them() -> None:
    counts = Counts()
    mine, other = (Allowance(hourly=4, counts=counts) for _ in range(2))
    in_a_child(lambda: [other.take("ann") for _ in range(3)])
    assert mine.take("ann") is None
    refusal = mine.take("ann")
    assert refusal is not None and refusal.code == 450
    mine.give_back("ann")
    in_a_child(lambda: other.take("ann"))
    assert mine.refusal("ann") is not None
    assert mine.take("bob") is None


def test_a_day_goes_on_when_the_limits_change() -> None:
    """A reload has new limits and the same counts."""
    counts = Counts()
    assert Allowance(daily=5, counts=counts).take("ann") is None
    assert Allowance(hourly=9, daily=1, counts=counts).take("ann") is not None


class Time:
    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def guess(sources: Sources, source: str, times: int) -> Coroutine[Any, Any, None]:
    async def wrong() -> None:
        for _ in range(times):
            line = sources.line(source)
            async with line.turn():
                line.failed()

    return wrong()


def test_guesses_are_slowed_whichever_process_heard_them() -> None:
    counts, time = Counts(), Time()
    sources = [Sources(time.clock, time.sleep, counts) for _ in range(4)]
    in_a_child(lambda: asyncio.run(guess(sources[0], HOME, 3)))
    asyncio.run(guess(sources[1], HOME, 1))
    assert time.slept == [1.0]
    asyncio.run(guess(sources[2], AWAY, 1))
    assert len(time.slept) == 1
    try:
        for number in range(40):  # without anybody's waiting: the line grows for all
            asyncio.run(guess(sources[number % 4], HOME, 1))
    except TooManyGuesses:
        pass
    assert max(time.slept) <= 15
    assert len(time.slept) < 12


def test_a_try_in_vain_is_known_to_all() -> None:
    counts, time = Counts(), Time()
    mine, other = (Sources(time.clock, time.sleep, counts) for _ in range(2))
    in_a_child(lambda: other.in_vain(HOME, "ann@here.test"))
    assert mine.was_in_vain(HOME, "ann@here.test")
    assert not mine.was_in_vain(AWAY, "ann@here.test")
    assert not mine.was_in_vain(HOME, "bob@here.test")
    time.now += 61
    assert not mine.was_in_vain(HOME, "ann@here.test")


def test_a_right_password_is_known_to_all() -> None:
    counts, time = Counts(), Time()
    mine, other = (Verified(300.0, time.clock, counts) for _ in range(2))
    ann = User("ann", "here.test", "hash", Quota(), True)
    in_a_child(lambda: other.add(ann, "right", HOME))
    assert mine.knows(ann, "right", HOME)
    assert not mine.knows(ann, "wrong", HOME)
    assert not mine.knows(ann, "right", AWAY)
    assert not mine.knows(User("ann", "here.test", "another hash", Quota(), True), "right", HOME)
    time.now += 301
    assert not mine.knows(ann, "right", HOME)


@given(st.lists(st.integers(0, 30), max_size=200))
def test_a_row_is_its_keys_until_others_push_it_out(keys: list[int]) -> None:
    """Among as many keys as there are ways none is forgotten, and no number is ever another key's."""
    rows, known = Rows(1, WAYS), dict[int, float]()
    for now, key in enumerate(keys, 1):
        row = rows.take(str(key), float(now))
        assert row[0] in (0.0, known.get(key, 0.0))
        if key in list(known)[-WAYS:]:
            assert row[0] == known[key]
        row[0] = float(now)
        known.pop(key, None)
        known[key] = float(now)
    for key in list(known)[-WAYS:]:
        found = rows.find(str(key))
        assert found is not None and found[0] == known[key]
    assert sum(rows.find(str(key)) is not None for key in range(31)) <= WAYS

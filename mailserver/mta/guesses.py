"""Guesses at passwords, by the network they come from: the more failed, the slower it may go on.

Failures are counted over all processes; how many stand in line at a time, by each.
No account is ever locked, which would let anybody lock anybody out; a source is slowed instead, and time
alone makes up for failures. Not here: what a guess is, and whether it is right (`authentication`).
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address

from mailserver.mta.counts import Counts, Rows

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class TooManyGuesses(Exception):
    """So many guesses from this source failed, or wait, that this one is not even looked at."""


class Line:
    """Guesses from one source stand in line: a few at a time and, the more failed, the further apart.

    The wait comes before the check, not before the answer: else one could hang up and guess on. In the row
    of `key`: no guess before, failures, when those were right.
    """

    AT_A_TIME = 4  # the rest of the pool is for others
    MOST_WAITING = 100
    LONGEST_WAIT = 15.0  # seconds; above it the guess is refused at once
    FREE = 3  # failures, for the owner's typing errors
    MOST_FAILURES = 6  # so 1, 2, 4, 8 seconds between guesses
    FORGET = 15.0  # seconds after which one failure less counts

    def __init__(self, key: str, rows: Rows, clock: Clock, sleep: Sleep) -> None:
        self._key = key
        self._rows = rows
        self._clock = clock
        self._sleep = sleep
        self._places = asyncio.Semaphore(self.AT_A_TIME)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and take it. Raises TooManyGuesses."""
        if self._waiting >= self.MOST_WAITING:
            raise TooManyGuesses
        self._wait()
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            wait = self._wait()
            if distance := self._distance():
                self._row()[0] = self._clock() + wait + distance
            if wait > 0:
                await self._sleep(wait)
            yield
        finally:
            self._places.release()

    def failed(self) -> None:
        """A guess was wrong. What was right does not make up for it: a guesser may have an account too."""
        row, now = self._row(), self._clock()
        row[1], row[2] = min(self._recent() + 1, self.MOST_FAILURES), now
        row[0] = max(row[0], now + self._distance())

    def _row(self) -> memoryview[float]:
        return self._rows.take(self._key, self._clock())

    def _wait(self) -> float:
        row = self._rows.find(self._key)
        wait = 0.0 if row is None else max(0.0, row[0] - self._clock())
        if wait > self.LONGEST_WAIT:
            raise TooManyGuesses
        return wait

    def _distance(self) -> float:
        failures = math.ceil(self._recent())
        return 0.0 if failures < self.FREE else 2.0 ** (failures - self.FREE)

    def _recent(self) -> float:
        row = self._rows.find(self._key)
        return 0.0 if row is None else max(0.0, row[1] - (self._clock() - row[2]) / self.FORGET)


class Sources:
    """The lines of the sources that guessed lately, at most `MOST`: the longest unseen is forgotten, here,
    while what it has failed stays among the `counts` of all."""

    MOST = 10_000
    SHUT = 60.0  # seconds for which a try in vain is remembered

    def __init__(self, clock: Clock, sleep: Sleep, counts: Counts | None = None) -> None:
        self._counts = counts or Counts()
        self._clock = clock
        self._sleep = sleep
        self._lines: OrderedDict[str, Line] = OrderedDict()

    def line(self, network: str) -> Line:
        line = self._lines.get(network)
        if line is None:
            line = self._lines[network] = Line(network, self._counts.guesses, self._clock, self._sleep)
            if len(self._lines) > self.MOST:
                self._lines.popitem(last=False)
        self._lines.move_to_end(network)
        return line

    def in_vain(self, network: str, user: str) -> None:
        """Somebody there said a password of `user` that is not remembered: his own, or a guess."""
        now = self._clock()
        self._counts.misses.take(f"{network} {user}", now)[0] = now + self.SHUT

    def no_guess(self, network: str, user: str) -> None:
        """It was his own, and is remembered by now."""
        row = self._counts.misses.find(f"{network} {user}")
        if row is not None:
            row[0] = 0.0

    def was_in_vain(self, network: str, user: str) -> bool:
        """Whether that was so lately: then whoever comes from there stands in line."""
        row = self._counts.misses.find(f"{network} {user}")
        return row is not None and row[0] > self._clock()


def network_of(source: str) -> str:
    """Who is meant by one source: an IPv4 address, an IPv6 /64 (what one customer has), a socket's name."""
    if ":" not in source:
        return source
    try:
        address = IPv6Address(source)
    except ValueError:
        return source
    return str(address.ipv4_mapped or address.packed[:8].hex())

"""Guesses at passwords, by the network they come from: the more failed, the slower it may go on.

No account is ever locked, which would let anybody lock anybody out; a source is slowed instead, and time
alone makes up for failures. Not here: what a guess is, and whether it is right (`authentication`).
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address

Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]


class TooManyGuesses(Exception):
    """So many guesses from this source failed, or wait, that this one is not even looked at."""


class Line:
    """Guesses from one source stand in line: a few at a time and, the more failed, the further apart.

    The wait comes before the check, not before the answer: else one could hang up and guess on.
    """

    AT_A_TIME = 4  # the rest of the pool is for others
    MOST_WAITING = 100
    LONGEST_WAIT = 15.0  # seconds; above it the guess is refused at once
    FREE = 3  # failures, for the owner's typing errors
    MOST_FAILURES = 6  # so 1, 2, 4, 8 seconds between guesses
    FORGET = 15.0  # seconds after which one failure less counts

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._places = asyncio.Semaphore(self.AT_A_TIME)
        self._waiting = 0
        self._next = clock()  # no guess before
        self._failures = 0.0
        self._counted = clock()  # when `_failures` was right

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
            self._next = self._clock() + wait + self._distance()
            if wait > 0:
                await self._sleep(wait)
            yield
        finally:
            self._places.release()

    def failed(self) -> None:
        """A guess was wrong. What was right does not make up for it: a guesser may have an account too."""
        self._failures = min(self._recent() + 1, self.MOST_FAILURES)
        self._counted = self._clock()
        self._next = max(self._next, self._clock() + self._distance())

    def _wait(self) -> float:
        wait = max(0.0, self._next - self._clock())
        if wait > self.LONGEST_WAIT:
            raise TooManyGuesses
        return wait

    def _distance(self) -> float:
        failures = math.ceil(self._recent())
        return 0.0 if failures < self.FREE else 2.0 ** (failures - self.FREE)

    def _recent(self) -> float:
        return max(0.0, self._failures - (self._clock() - self._counted) / self.FORGET)


class Sources:
    """The lines of the sources that guessed lately, at most `MOST`: the longest unseen is forgotten."""

    MOST = 10_000

    def __init__(self, clock: Clock, sleep: Sleep) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lines: OrderedDict[str, Line] = OrderedDict()

    def line(self, source: str) -> Line:
        key = network_of(source)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(self._clock, self._sleep)
            if len(self._lines) > self.MOST:
                self._lines.popitem(last=False)
        self._lines.move_to_end(key)
        return line


def network_of(source: str) -> str:
    """Who is meant by one source: an IPv4 address, an IPv6 /64 (what one customer has), a socket's name."""
    try:
        address = ip_address(source)
    except ValueError:
        return source
    if address.version == 6:
        return str(address.ipv4_mapped or address.packed[:8].hex())
    return str(address)

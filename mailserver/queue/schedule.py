"""When a message is tried again, and when the queue gives up. Pure; time and chance are arguments.

Not here: when a destination is left alone, which is its lane's business (`queue.lanes`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, chain, repeat, takewhile

import msgspec

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Schedule(msgspec.Struct, frozen=True):
    """Times in seconds. `intervals`: the waits after the first attempts, the last of them goes on for ever.

    `lifetime`: after that a message is given up (RFC 5321 §4.5.4.1: at least 4 to 5 days).
    `notice`: after that its sender hears that it takes longer, 0: never.
    `jitter`: the share by which a wait is longer or shorter by chance, 0 to 1.
    """

    intervals: tuple[float, ...] = (5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR)
    lifetime: float = 5 * DAY
    notice: float = 4 * HOUR
    jitter: float = 0.1

    @property
    def longest(self) -> float:
        """The longest wait there is."""
        return max(self.intervals) * (1 + self.jitter)

    def next_attempt(self, turns: int, arrived: float, now: float, chance: float) -> float:
        """When one that was due `turns` times is due again; `chance` is 0 to 1. It is when time is up."""
        interval = self.intervals[min(turns, len(self.intervals)) - 1]
        due = now + interval * (1 + self.jitter * (2 * chance - 1))
        end = arrived + self.lifetime
        return min(due, end) if end > now else due

    def is_over(self, turns: int, arrived: float, now: float) -> bool:
        """Whether to give up after `turns`. Not by the clock alone: it may have leapt, or been off.

        It must have been due half as often as fits into the lifetime.
        """
        return now - arrived >= self.lifetime and turns >= _planned(self) // 2

    def is_late(self, arrived: float, now: float) -> bool:
        """Whether the sender should hear that it takes longer."""
        return self.notice > 0 and now - arrived >= self.notice


@lru_cache(maxsize=16)
def _planned(schedule: Schedule) -> int:
    """How many attempts fit into the lifetime, the first one at once."""
    waits = chain(schedule.intervals, repeat(max(schedule.intervals[-1], 1.0)))
    return 1 + sum(1 for _ in takewhile(lambda at: at <= schedule.lifetime, accumulate(waits)))

"""How many messages a user may send within an hour and within a day, counted over all processes.

Both spans begin with a user's first message and are over after their time. Not here: the shared numbers
(`mta.counts`), recipients of one message (`smtp.transaction`), guesses at passwords (`mta.guesses`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

from mailserver.mail.reply import Reply
from mailserver.mta.counts import Counts

HOUR, DAY = 3600.0, 86_400.0  # seconds


class _Span(NamedTuple):
    """A limit, and the place in a row of the span's beginning; the messages since then follow it."""

    limit: int
    seconds: float
    name: str
    began: int


class Allowance:
    """The counts of all users. `hourly` and `daily` are numbers of messages, 0 for no limit; `clock` is the
    same in all processes."""

    def __init__(
        self,
        hourly: int = 0,
        daily: int = 0,
        clock: Callable[[], float] = time.monotonic,
        counts: Counts | None = None,
    ) -> None:
        spans = (_Span(hourly, HOUR, "an hour", 0), _Span(daily, DAY, "a day", 2))
        self._spans = [span for span in spans if span.limit]
        self._clock = clock
        self._rows = (counts or Counts()).messages

    def refusal(self, user: str) -> Reply | None:
        """Why `user` may not send a message now; None if he may."""
        now, row = self._clock(), self._rows.find(user) if self._spans else None
        if row is None:
            return None
        for limit, seconds, name, began in self._spans:
            left = row[began] + seconds - now
            if left > 0 and row[began + 1] >= limit:
                text = f"You may send {limit} messages {name}, try again in {_span(left)}"
                return Reply(450, "4.7.1", text)
        return None

    def take(self, user: str) -> Reply | None:
        """Count a message of `user`, or say why he may not send it."""
        if not self._spans:
            return None
        if refusal := self.refusal(user):
            return refusal
        now = self._clock()
        row = self._rows.take(user, now)
        for _, seconds, _, began in self._spans:
            if row[began + 1] < 1 or row[began] + seconds <= now:
                row[began], row[began + 1] = now, 0.0
            row[began + 1] += 1
        return None

    def give_back(self, user: str) -> None:
        """A message that was counted was not taken in."""
        row = self._rows.find(user) if self._spans else None
        if row is not None:
            for span in self._spans:
                row[span.began + 1] = max(0.0, row[span.began + 1] - 1)


def _span(seconds: float) -> str:
    if seconds > 2 * HOUR:
        return f"{math.ceil(seconds / HOUR)} hours"
    return f"{math.ceil(seconds / 60)} minutes"

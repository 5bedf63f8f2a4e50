"""How many messages a user may send within an hour and within a day, counted in this process.

Both spans begin with a user's first message and are over after their time. Not here: recipients of one
message (`smtp.transaction`), guesses at passwords (`mta.guesses`).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from mailserver.mail.reply import Reply

HOUR, DAY = 3600.0, 86_400.0  # seconds
MOST = 100_000  # users counted; of more, the one that has sent nothing for longest is forgotten


class _Count:
    """Messages in one span."""

    __slots__ = ("began", "messages")

    def __init__(self) -> None:
        self.began = -math.inf
        self.messages = 0


class Allowance:
    """The counts of all users. `hourly` and `daily` are numbers of messages, 0 for no limit."""

    def __init__(self, hourly: int = 0, daily: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._spans = [
            (limit, seconds, name)
            for limit, seconds, name in ((hourly, HOUR, "an hour"), (daily, DAY, "a day"))
            if limit
        ]
        self._clock = clock
        self._users: OrderedDict[str, list[_Count]] = OrderedDict()

    def refusal(self, user: str) -> Reply | None:
        """Why `user` may not send a message now; None if he may."""
        now = self._clock()
        for (limit, seconds, name), count in zip(self._spans, self._users.get(user, ()), strict=False):
            left = count.began + seconds - now
            if left > 0 and count.messages >= limit:
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
        for (_, seconds, _), count in zip(self._spans, self._counts(user), strict=True):
            if count.began + seconds <= now:
                count.began, count.messages = now, 0
            count.messages += 1
        return None

    def give_back(self, user: str) -> None:
        """A message that was counted was not taken in."""
        for count in self._users.get(user, ()):
            count.messages = max(0, count.messages - 1)

    def _counts(self, user: str) -> list[_Count]:
        counts = self._users.get(user)
        if counts is None:
            counts = self._users[user] = [_Count() for _ in self._spans]
            if len(self._users) > MOST:
                self._users.popitem(last=False)
        self._users.move_to_end(user)
        return counts


def _span(seconds: float) -> str:
    if seconds > 2 * HOUR:
        return f"{math.ceil(seconds / HOUR)} hours"
    return f"{math.ceil(seconds / 60)} minutes"

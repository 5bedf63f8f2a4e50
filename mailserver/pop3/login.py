"""What becomes of a login: the answers to refused ones, and LOGIN-DELAY.

Nothing here tells a known name from an unknown one. Not here: the forms of names and passwords
(`mail.sasl`), whether a password is right (`mta.authentication`), when one may be sent (`pop3.session`).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from mailserver.mta.authentication import Outcome
from mailserver.pop3 import answer
from mailserver.transport.driver import Answer

REMEMBERED_LOGINS = 100_000
"""Users whose last login is remembered for LOGIN-DELAY; of more, the oldest are forgotten."""


_REFUSALS = {
    Outcome.WRONG: answer.err("Wrong name or password", answer.AUTH),
    Outcome.BUSY: answer.err("Too many logins at once, try again", answer.SYS_TEMP),
    Outcome.UNAVAILABLE: answer.err("Login is not possible now, try again later", answer.SYS_TEMP),
    Outcome.DELAYED: answer.err("Too many failed logins, try again later", answer.SYS_TEMP),
}


def refusal(outcome: Outcome) -> Answer:
    """The answer to a login that did not come to OK. Trouble of ours is never the credentials' fault."""
    return _REFUSALS[outcome]


class LastLogins:
    """When each user logged in last, for LOGIN-DELAY (RFC 2449 §6.5)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[str, float] = OrderedDict()

    def too_soon(self, user: str, delay: float) -> bool:
        """Whether the last login of `user` is less than `delay` seconds ago."""
        last = self._times.get(user)
        return last is not None and self._clock() - last < delay

    def remember(self, user: str) -> None:
        """`user` is logged in now."""
        self._times[user] = self._clock()
        self._times.move_to_end(user)
        if len(self._times) > REMEMBERED_LOGINS:
            self._times.popitem(last=False)

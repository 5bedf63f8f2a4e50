"""What becomes of a login: the answers to refused ones, and LOGIN-DELAY.

Nothing here tells a known name from an unknown one. Not here: the forms of names and passwords
(`mail.sasl`), whether a password is right (`mta.authentication`), when one may be sent (`pop3.session`).
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

from mailserver.mta.authentication import Outcome
from mailserver.pop3 import answer
from mailserver.transport.driver import Answer

PLACES = 1 << 20  # users fall into one each; two in the same one are taken for one

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
    """When each user logged in last, for LOGIN-DELAY (RFC 2449 §6.5), in seconds of `clock`.

    Shared memory, made before processes are forked: a user is a user in all of them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times = memoryview(mmap.mmap(-1, PLACES * 8)).cast("d")  # pages nobody falls into cost nothing

    def too_soon(self, user: str, delay: float) -> bool:
        """Whether the last login of `user` is less than `delay` seconds ago."""
        last = self._times[hash(user) % PLACES]
        return last > 0 and self._clock() - last < delay

    def remember(self, user: str) -> None:
        """`user` is logged in now."""
        self._times[hash(user) % PLACES] = self._clock()

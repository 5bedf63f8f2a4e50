"""What becomes of a name and a password: SASL PLAIN's form, the answers to refused logins, LOGIN-DELAY.

Nothing here tells a known name from an unknown one. Not here: whether a password is right
(`mta.authentication`), or when a client may send one (`pop3.session`).
"""

from __future__ import annotations

import binascii
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from mailserver.mta.authentication import Outcome
from mailserver.pop3 import answer
from mailserver.transport.driver import Answer

REMEMBERED_LOGINS = 100_000
"""Users whose last login is remembered for LOGIN-DELAY; of more, the oldest are forgotten."""


class Credentials(NamedTuple):
    """A name and a password as the client gave them."""

    name: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"  # no log or traceback shows a password


class Malformed(Exception):
    """The client's response is no base64, or not in the form of its mechanism."""


def credentials(name: bytes, password: bytes) -> Credentials | None:
    """A pair of UTF-8 texts (RFC 6856 §2.1); None for any other, which is no user's."""
    try:
        return Credentials(name.decode(), password.decode())
    except UnicodeDecodeError:
        return None


def plain(response: bytes) -> Credentials | None:
    """The credentials of a SASL PLAIN response in base64 (RFC 4616 §2, RFC 5034 §4); None: nobody's.

    Acting for another user (authzid) is nobody's right. Raises Malformed.
    """
    try:
        message = binascii.a2b_base64(response, strict_mode=True)
        identity, name, password = message.split(b"\0")
    except ValueError:
        raise Malformed from None
    if not name or not password:
        raise Malformed
    return credentials(name, password) if identity in (b"", name) else None


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

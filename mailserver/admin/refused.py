"""Why an operation was not done, in words for the person who asked for it."""

from __future__ import annotations

from mailserver.config.load import ConfigError
from mailserver.config.refused import EditRefused
from mailserver.directory.entries import Exists, Malformed, Missing, Unavailable
from mailserver.mail.address import AddressError
from mailserver.pool import Busy

MOST = 1000  # characters that are told


class Refused(Exception):
    """The operation makes no sense or is not safe as it was asked for. The text is one line."""


class Forbidden(Refused):
    """The operation is not for this operator."""


EXPECTED = (Refused, ConfigError, EditRefused, Exists, Missing, Malformed, Unavailable, AddressError)
"""What an operation raises for reasons that the operator is told: the text of each is one line for him."""


def told(error: BaseException) -> str:
    """What an operator is told of an operation that failed: one line, at most `MOST` characters.

    Of a fault of this program nothing but that there was one: its text may hold what is nobody's business.
    """
    if isinstance(error, EXPECTED):
        text = str(error)
    elif isinstance(error, Busy):
        text = "too busy, try again later"
    elif isinstance(error, OSError):
        text = f"the disk refused: {error.strerror or 'no reason given'}"
    else:
        text = "it could not be done; the log says why"
    return "".join(c if c.isprintable() else " " for c in text[:MOST])

"""Mail that aliases lead away: whose name it leaves under, and where its bounces go.

Not here: which alias leads away (`mta.routing`), the form of rewritten senders (`mail.srs`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mailserver.directory import Directory
from mailserver.mail.address import Address
from mailserver.mail.srs import Srs

_DAY = 86_400


class Forwarding:
    """Senders of forwarded mail, out and back. `clock` gives UNIX time."""

    def __init__(self, directory: Directory, srs: Srs, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._srs = srs
        self._clock = clock

    def sender(self, sender: Address | None, alias: Address, *, checked: bool) -> Address | None:
        """The sender under which mail from `sender` leaves by way of `alias`. Raises Unavailable.

        None, the null sender, stays: a bounce has no bounces. A sender of ours stays where it was `checked`
        that it is his: else whoever forges it would pass for us. One that cannot be rewritten stays as well:
        mail that may be refused elsewhere is better than none.
        """
        if sender is None or (checked and self._directory.domain(sender.domain) is not None):
            return sender
        return self._srs.forward(sender, alias.domain, self._today()) or sender

    def original(self, address: Address) -> Address | None:
        """The sender that `address`, made by `sender`, stands for; None if it was not, or too long ago."""
        return self._srs.reverse(address.local, self._today())

    def _today(self) -> int:
        return int(self._clock()) // _DAY

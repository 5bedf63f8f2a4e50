"""Places of operators: so many connections in all, few before the login, and of one name a share.

Whoever has not said who he is cannot keep others from doing so: he has a part of the places, and of that part
each address another. Root and the server's own account have places elsewhere (`transport.listener`).
Not here: how many operations a name has under way (`admin.turns`).
"""

from __future__ import annotations

from collections import Counter

from mailserver.transport.gate import Gate, Limits, account_source, source_of
from mailserver.transport.listener import Peer

OF_NAME = 20  # connections of one operator or user
HANDSHAKE = 10.0  # seconds for TLS and PROXY


class Places(Gate):
    """A gate that knows who has logged in. Belongs to one process, and there to its event loop."""

    def __init__(self, most: int = 200) -> None:
        super().__init__(_limits(most))
        self._here: Counter[str | bytes] = Counter()
        self._known: Counter[str | bytes] = Counter()  # of these, who has logged in
        self._names: Counter[str] = Counter()

    def resize(self, most: int) -> None:
        """Have `most` places from now on."""
        self.limits = _limits(most)

    def enter(self, source: str | bytes) -> str | None:
        """Take a place; None, or which limit forbids it."""
        most = self.limits.connections
        if self.connections - self._known.total() >= max(1, most // 4):
            return "before-login"
        if source and self._here[source] - self._known[source] >= max(1, most // 8):
            return "before-login-per-address"
        limit = super().enter(source)
        if limit is None:
            self._here[source] += 1
        return limit

    def leave(self, source: str | bytes) -> None:
        super().leave(source)
        _less(self._here, source)

    def admit(self, peer: Peer, name: str) -> bool:
        """Whether there may be one more connection of `name`; then it is one, until `dismiss`."""
        if peer.is_owner:
            return True
        if self._names[name] >= OF_NAME:
            return False
        self._names[name] += 1
        self._known[_source(peer)] += 1
        return True

    def dismiss(self, peer: Peer, name: str) -> None:
        """One that was admitted has ended."""
        if not peer.is_owner:
            _less(self._names, name)
            _less(self._known, _source(peer))


def _limits(most: int) -> Limits:
    return Limits(most, max(1, most // 2), HANDSHAKE)


def _source(peer: Peer) -> str | bytes:
    return source_of(peer.address) if peer.uid is None else account_source(peer.uid)


def _less(counter: Counter[str] | Counter[str | bytes], key: str | bytes) -> None:
    """One less; what is none any more is forgotten."""
    counts: Counter[str | bytes] = counter  # type: ignore[assignment]
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]

"""How many connections there may be, in all and from one address. Not here: what happens to one too many."""

from __future__ import annotations

import socket
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gate lets through: connections in all, and per address (0: any number), and seconds for TLS
    and PROXY before a session begins. An IPv6 address counts as its /64; UNIX sockets count in all only."""

    connections: int
    per_address: int
    handshake_timeout: float


class Gate:
    """Counts open connections over all its listeners. `limits` may be replaced at any time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.connections = 0
        self._by_source: dict[str | bytes, int] = {}

    def enter(self, source: str | bytes) -> str | None:
        """Take a place for `source` (see `source_of`); None, or which limit forbids it."""
        if self.connections >= self.limits.connections:
            return "connections"
        if source:
            count = self._by_source.get(source, 0)
            if 0 < self.limits.per_address <= count:
                return "per-address"
            self._by_source[source] = count + 1
        self.connections += 1
        return None

    def leave(self, source: str | bytes) -> None:
        """Give the place back."""
        self.connections -= 1
        if source:
            count = self._by_source.pop(source) - 1
            if count:
                self._by_source[source] = count


def source_of(address: str) -> str | bytes:
    """What counts as one address: an IPv4 address, the first 64 bits of an IPv6 one, '' for UNIX sockets."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)[:8]
    return "" if address == "unix" else address

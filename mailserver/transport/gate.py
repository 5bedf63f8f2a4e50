"""How many connections there may be, in all and from one address. Not here: what happens to one too many."""

from __future__ import annotations

import mmap
import socket
from dataclasses import dataclass

SLOTS = 64  # processes that count at one time
BUCKETS = 16_384  # addresses fall into one each; two in the same one are counted as one


@dataclass(frozen=True, slots=True)
class Limits:
    """What a gate lets through: connections in all, and per address (0: any number), and seconds for TLS
    and PROXY before a session begins. An IPv6 address counts as its /64; UNIX sockets count in all only."""

    connections: int
    per_address: int
    handshake_timeout: float


class Gate:
    """Counts open connections over all listeners of all processes. `limits` may be replaced at any time.

    The counts are shared memory, made before the processes are forked. Each writes in its own `slot` alone
    and adds up all of them, so there is no lock that a killed process could leave behind, and its counts go
    with its slot. Two processes that count at the same instant may let one too many in.
    A slot other than 0 is used after `clear` alone, before the process is forked.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.slot = 0
        self._stride = BUCKETS + 1
        self._counts = memoryview(mmap.mmap(-1, SLOTS * self._stride * 4)).cast("I")
        self._end = memoryview(mmap.mmap(-1, 4)).cast("I")  # of the slots in use: the others are not added
        self._end[0] = self._stride

    @property
    def connections(self) -> int:
        """Open connections of all processes."""
        return sum(self._counts[BUCKETS : self._end[0] : self._stride])

    def enter(self, source: str | bytes) -> str | None:
        """Take a place for `source` (see `source_of`); None, or which limit forbids it."""
        counts, stride, limits, end = self._counts, self._stride, self.limits, self._end[0]
        if sum(counts[BUCKETS:end:stride]) >= limits.connections:
            return "connections"
        if source:
            bucket = hash(source) % BUCKETS
            if 0 < limits.per_address <= sum(counts[bucket:end:stride]):
                return "per-address"
            counts[self.slot * stride + bucket] += 1
        counts[self.slot * stride + BUCKETS] += 1
        return None

    def leave(self, source: str | bytes) -> None:
        """Give the place back."""
        self._counts[self.slot * self._stride + BUCKETS] -= 1
        if source:
            self._counts[self.slot * self._stride + hash(source) % BUCKETS] -= 1

    def clear(self, slot: int) -> None:
        """Forget what a process counted that has ended, and let another one count there."""
        start = slot * self._stride
        end = start + self._stride
        self._counts[start:end] = memoryview(bytes(self._stride * 4)).cast("I")
        self._end[0] = max(self._end[0], end)


def source_of(address: str) -> str | bytes:
    """What counts as one address: an IPv4 address, the first 64 bits of an IPv6 one, '' for UNIX sockets."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)[:8]
    return "" if address == "unix" else address


def account_source(uid: int) -> str:
    """What counts as one address among the accounts of this machine."""
    return f"uid {uid}"

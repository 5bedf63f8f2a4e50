"""How long and how much: the numbers of every courier. Times in seconds."""

from __future__ import annotations

from msgspec import Struct


class Limits(Struct, frozen=True, kw_only=True):
    """Defaults are the least a client should wait (RFC 5321 §4.5.3.2), or ours where it names none."""

    connect: float = 30.0
    tls: float = 60.0
    greeting: float = 300.0  # §4.5.3.2.1, EHLO and AUTH too
    mail: float = 300.0  # §4.5.3.2.2
    recipient: float = 300.0  # §4.5.3.2.3
    data: float = 120.0  # §4.5.3.2.4
    block: float = 180.0  # §4.5.3.2.5
    end: float = 600.0  # §4.5.3.2.6
    quit: float = 5.0
    attempt: float = 3600.0  # a whole attempt, and the time its octets take at `rate`
    rate: int = 500  # octets in a second: a host that takes fewer only holds the connection
    recipients: int = 100  # in one transaction, §4.5.3.1.8
    hosts: int = 10  # addresses tried in one attempt
    transactions: int = 2  # hosts that may break off in the midst of a transaction, in one attempt
    idle: float = 15.0  # a connection is kept for the next message
    messages: int = 100  # over one connection
    kept: int = 100  # idle connections of one courier


def attempt_time(limits: Limits, octets: int) -> float:
    """Seconds an attempt at a message may take."""
    return limits.attempt + octets / limits.rate

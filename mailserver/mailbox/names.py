"""Names of messages in a Maildir: making them and reading them.

`<unique>[,S=<octets on disk>][,W=<octets on the wire>][:2,<flags>]`. Only `unique` is stable: programs
change flags, move a message from `new` to `cur`, and may correct the sizes. No I/O here.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time
from typing import NamedTuple

MAX_UNIQUE = 70  # what POP3 allows a unique-id to be (RFC 1939 §7), so that ours are used as they are

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_")
_counter = itertools.count(1)
_CHANCE = secrets.token_hex(6)
_SIZE = re.compile(r",S=(\d{1,18})(?=[,:]|$)")
_WIRE_SIZE = re.compile(r",W=(\d{1,18})(?=[,:]|$)")
_TIME = re.compile(r"(\d{1,18})(?:\.[^.M]*M(\d{1,6}))?")


class Message(NamedTuple):
    """A message's place in a mailbox: its file name, and `subdirectory`, which is `new` or `cur`."""

    name: str
    subdirectory: str

    @property
    def unique(self) -> str:
        """The part of the name that no program changes."""
        return unique_part(self.name)

    @property
    def size(self) -> int | None:
        """Octets on disk, if the name tells."""
        return _number(_SIZE, self.name)

    @property
    def wire_size(self) -> int | None:
        """Octets with CRLF line ends, if the name tells."""
        return _number(_WIRE_SIZE, self.name)

    @property
    def flags(self) -> str:
        """Maildir flags such as `FS`; empty for a message nobody has seen."""
        return self.name.partition(":2,")[2]


def unique_part(name: str) -> str:
    """`name` without sizes and flags."""
    return name.partition(":")[0].partition(",")[0]


def with_flags(name: str, flags: str) -> str:
    """`name` with exactly `flags`, in the ASCII order that Maildir wants."""
    return f"{name.partition(':')[0]}:2,{''.join(sorted(set(flags)))}"


def delivery_order(name: str) -> str:
    """Sort key: seconds and microseconds of delivery by a message's name, then the name itself.

    A string and not a tuple of numbers, which costs a large mailbox twice the time to sort.
    """
    match = _TIME.match(name)
    if match is None:
        return "0" * 24 + name
    seconds, micros = match.groups("")
    return seconds.zfill(18) + micros.zfill(6) + name


def unique_name() -> str:
    """A name no other message has or had: `time.M<usec>P<pid>Q<counter>R<random>.<host>`.

    The counter keeps names of one process apart when the clock stands or leaps, number and random part of
    the process those of different ones. The host is cut where the name would exceed MAX_UNIQUE.
    """
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    counted = f"{seconds}.M{nanoseconds // 1000:06d}P{os.getpid()}Q{next(_counter)}"
    return f"{counted}R{_CHANCE}.{_HOST}"[:MAX_UNIQUE]


def _number(pattern: re.Pattern[str], name: str) -> int | None:
    match = pattern.search(name)
    return int(match[1]) if match else None


def _host(name: str) -> str:
    """The host name, safe in a message's name: `/`, `:`, `,` and the like as backslash and octal digits."""
    octets = os.fsencode(name)
    return "".join(chr(b) if b in _PLAIN else f"\\{b:03o}" for b in octets)


_HOST = _host(os.uname().nodename) or "localhost"

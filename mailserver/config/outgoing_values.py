"""The kinds of value of settings for mail that leaves: hosts, addresses, waits, rates, who may send as whom.

As in `values`, each is read from what a person writes and raises ValueError with the form it expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from mailserver.config.values import AccountName, DomainName, Duration, Timeout
from mailserver.delivery.relay import Host
from mailserver.mail.address import Address, AddressError, fold_local, parse_mailbox

ANYBODY = "*"

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]{1,253}):(\d{1,5})")
_SOCKET = re.compile(r"unix:(/[!-~]{1,106})")  # sun_path has 108 octets
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RATE = re.compile(r"(\d{1,7})\s*/\s*([smh])")
_SPAN = {"s": 1.0, "m": 60.0, "h": 3600.0}
_MOST_HOSTS = 20
_MOST_WAITS = 100
_HOUR = 3600.0


class RelayName(str):
    """The name of a relay, by which people, the queue and the log call it."""

    __slots__ = ()

    def __new__(cls, value: object) -> RelayName:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise ValueError("expected a name of at most 64 letters, digits and . _ -")
        return super().__new__(cls, value)


class Hosts(tuple[Host, ...]):
    """Hosts with their ports, in the order in which they are tried; a UNIX socket's path has port 0."""

    __slots__ = ()

    def __new__(cls, value: object) -> Hosts:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= _MOST_HOSTS:
            raise ValueError('expected a list of hosts with ports such as ["smtp.example.net:587"]')
        return super().__new__(cls, map(_host, value))


def _host(item: object) -> Host:
    text = item if isinstance(item, str) else ""
    if match := _SOCKET.fullmatch(text):
        return Host(match[1], 0)
    match = _HOST.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError("expected a host with its port such as smtp.example.net:587 or [2001:db8::1]:587")
    return Host(match[1].strip("[]").lower(), int(match[2]))


class Senders(tuple[str, ...]):
    """Addresses, folded, their local parts without quotes."""

    __slots__ = ()

    def __new__(cls, value: object = ()) -> Senders:
        if not isinstance(value, (list, tuple)):
            raise ValueError('expected a list of addresses such as ["ann@example.org"]')
        return super().__new__(cls, ("@".join(_address(item)) for item in value))


class Domains(tuple[str, ...]):
    """Domains in their one spelling."""

    __slots__ = ()

    def __new__(cls, value: object = ()) -> Domains:
        if not isinstance(value, (list, tuple)):
            raise ValueError('expected a list of domains such as ["example.org"]')
        return super().__new__(cls, map(DomainName, value))


class Waits(tuple[float, ...]):
    """Seconds between attempts; the last one goes on for ever."""

    __slots__ = ()

    def __new__(cls, value: object) -> Waits:
        if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= _MOST_WAITS:
            raise ValueError('expected a list of durations such as ["5m", "15m", "1h"]')
        return super().__new__(cls, map(Timeout, value))


class Lifetime(Duration):
    """How long the queue keeps trying: an hour or more, or a short trouble would bounce mail."""

    expected: ClassVar[str] = "expected a duration of at least 1h such as 5d"

    def __new__(cls, value: object) -> Lifetime:
        lifetime = super().__new__(cls, value)
        if lifetime < _HOUR:
            raise ValueError(cls.expected)
        return lifetime  # type: ignore[return-value]


class Rate(float):
    """Deliveries begun in a second, from `10/s`, `30/m`, `1000/h`; 0: no limit."""

    def __new__(cls, value: object) -> Rate:
        if isinstance(value, int) and not isinstance(value, bool) and value == 0:
            return super().__new__(cls, 0)
        match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None or not int(match[1]):
            raise ValueError("expected a rate such as 10/s, 30/m or 1000/h, or 0 for no limit")
        return super().__new__(cls, int(match[1]) / _SPAN[match[2]])


class Allowed(tuple[tuple[str, tuple[str, ...]], ...]):
    """For users, by address, their further senders: addresses, and `@domain` for all of a domain."""

    __slots__ = ()

    def __new__(cls, value: object = ()) -> Allowed:
        found = [(str(_address(user)), _patterns(senders)) for user, senders in _pairs(value)]
        return super().__new__(cls, found)


def _patterns(senders: object) -> tuple[str, ...]:
    if not isinstance(senders, (list, tuple)):
        raise ValueError('expected lists such as "ann@example.org" = ["info@example.net", "@example.com"]')
    return tuple(map(_pattern, senders))


def _pattern(item: object) -> str:
    if isinstance(item, str) and item.startswith("@"):
        return f"@{DomainName(item[1:])}"
    return str(_address(item))


class Vouched(tuple[tuple[str, Address | None], ...]):
    """For accounts of this machine, by name, as whom their programs send; None: as anybody here."""

    __slots__ = ()

    def __new__(cls, value: object = ()) -> Vouched:
        found = [(AccountName(account), _sender(user)) for account, user in _pairs(value)]
        return super().__new__(cls, found)


def _sender(user: object) -> Address | None:
    return None if user == ANYBODY else _address(user)


def _pairs(value: object) -> Iterable[tuple[object, object]]:
    if value == ():
        return ()
    if not isinstance(value, dict):
        raise ValueError("expected a [table]")
    return value.items()


def _address(item: object) -> Address:
    try:
        address = parse_mailbox(item if isinstance(item, str) else "")
    except AddressError:
        raise ValueError("expected an address such as ann@example.org") from None
    return Address(fold_local(address.local), address.domain)

"""The kinds of value a setting can have, each read from what a person writes in TOML.

Each class takes the text (or number) of the file and raises ValueError with the form it expects, so that
a default in the model reads like the file: `Size("50M")`. Not here: which setting has which kind (`model`).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import ClassVar

from mailserver.mail.address import AddressError, canonical_domain
from mailserver.mail.quota import parse_size
from mailserver.transport.endpoint import EndpointError, parse

_DURATION = re.compile(r"(\d{1,9})\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_MINIMUM_CONTENT = 64 * 1024


class Size(int):
    """Octets, from `500K`, `50M`, `1G` or a plain number."""

    def __new__(cls, value: object) -> Size:
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValueError("expected a size such as 500K, 50M or 1G")
        return super().__new__(cls, parse_size(value))


class MessageSize(Size):
    """The size of a message: every server takes 64K at least (RFC 5321 §4.5.3.1.7)."""

    def __new__(cls, value: object) -> MessageSize:
        size = super().__new__(cls, value)
        if size < _MINIMUM_CONTENT:
            raise ValueError("expected a size such as 50M, at least 64K")
        return size  # type: ignore[return-value]


class Duration(float):
    """Seconds, from `500ms`, `10s`, `5m`, `2h`, `30d`, `2w`; a plain whole number means seconds."""

    expected: ClassVar[str] = "expected a duration such as 10s, 5m, 2h or 30d"

    def __new__(cls, value: object) -> Duration:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return super().__new__(cls, value)
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(cls.expected)
        return super().__new__(cls, int(match.group(1)) * _SECONDS[match.group(2)])


class Timeout(Duration):
    """A duration longer than nothing: a time-out of 0 would end every session at once."""

    expected: ClassVar[str] = "expected a duration over 0 such as 10s, 5m or 2h"

    def __new__(cls, value: object) -> Timeout:
        duration = super().__new__(cls, value)
        if not duration:
            raise ValueError(cls.expected)
        return duration  # type: ignore[return-value]


class DomainName(str):
    """A domain in its one spelling: lower case, A-labels."""

    __slots__ = ()

    def __new__(cls, value: object) -> DomainName:
        try:
            return super().__new__(cls, canonical_domain(value if isinstance(value, str) else ""))
        except AddressError:
            raise ValueError("expected a domain name such as mail.example.org") from None


class Delimiter(str):
    """The character between a user's name and a detail (`ann+shop`); empty: no such addresses."""

    __slots__ = ()

    def __new__(cls, value: object) -> Delimiter:
        if not isinstance(value, str) or (value and value not in {"+", "-", "_", "=", "#", "~", "!"}):
            raise ValueError('expected "+" or one of - _ = # ~ !, or "" for none')
        return super().__new__(cls, value)


class PathText(str):
    """A path; a relative one counts from the configuration directory."""

    __slots__ = ()

    def __new__(cls, value: object) -> PathText:
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ValueError("expected a path")
        return super().__new__(cls, value)


class AccountName(str):
    """A user or group of the machine: a name or a number."""

    __slots__ = ()

    def __new__(cls, value: object) -> AccountName:
        text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.$-]{0,31}", text):
            raise ValueError("expected the name or number of an account of this machine")
        return super().__new__(cls, text)


class EndpointText(str):
    """A place to listen at, in the one spelling that `transport.endpoint.parse` gives back."""

    __slots__ = ()

    def __new__(cls, value: object) -> EndpointText:
        try:
            return super().__new__(cls, parse(value if isinstance(value, str) else ""))
        except EndpointError as error:
            raise ValueError(str(error)) from None


class Networks(tuple[IPv4Network | IPv6Network, ...]):
    """Addresses and networks of IPv4 and IPv6."""

    __slots__ = ()

    def __new__(cls, value: object = ()) -> Networks:
        if not isinstance(value, (list, tuple)):
            raise ValueError('expected a list of addresses or networks such as ["127.0.0.1", "10.0.0.0/8"]')
        return super().__new__(cls, [_network(item) for item in value])


def _network(item: object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(item if isinstance(item, str) else "")
    except ValueError:
        raise ValueError("expected an address or network such as 127.0.0.1 or 10.0.0.0/8") from None

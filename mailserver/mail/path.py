"""The arguments of MAIL and RCPT: a path in angle brackets and its ESMTP parameters.

Paths are read by one positive grammar (RFC 5321 §4.1.2, RFC 6531 §3.3). What an address means is decided
elsewhere; the old ways of asking for a relay are recognised here because they are syntax.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mailserver.mail.address import (
    PATH_OCTETS,
    Address,
    AddressError,
    canonical_domain,
    canonical_literal,
    scan_local,
)

PARAMETERS = 16  # no client needs more; each is looked at
_SIMPLE = re.compile(r"<([A-Za-z0-9_+=-]+(?:\.[A-Za-z0-9_+=-]+)*)@([A-Za-z0-9.-]+)>")
_ROUTE = re.compile(r"@[^:,<>@\s]+(?:,@[^:,<>@\s]+)*:")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[^\x00-\x20=\x7f\ud800-\udfff]+")

Parameters = dict[str, str | None]


class PathError(ValueError):
    """Not a path or not parameters."""


class Foreign(NamedTuple):
    """A forward path whose syntax asks for another host: an address literal or a second @."""

    text: str


class Postmaster(NamedTuple):
    """`<postmaster>` without a domain (RFC 5321 §4.1.1.3)."""

    local: str = "postmaster"


def reverse_path(argument: str) -> tuple[Address | None, Parameters]:
    """`FROM:`'s argument: the sender, None for the null sender `<>`. Raises PathError."""
    text, parameters = _split(argument)
    if text == "<>":
        return None, parameters
    found = _path(text)
    if isinstance(found, Address):
        return found, parameters
    raise PathError("not a reverse path")


def forward_path(argument: str) -> tuple[Address | Postmaster | Foreign, Parameters]:
    """`TO:`'s argument: an address, the bare postmaster, or a request for another host. Raises PathError."""
    text, parameters = _split(argument)
    if text[1:-1].lower() == "postmaster":
        return Postmaster(), parameters
    found = _path(text)
    if isinstance(found, Address) and found.domain.startswith("["):
        return Foreign(text), parameters
    return found, parameters


def _split(argument: str) -> tuple[str, Parameters]:
    """Separate `<path>` from `KEY=value` parameters."""
    argument = argument.strip(" ")
    if not argument.startswith("<"):
        raise PathError("no <")
    end = _quoted_end(argument) if '"' in argument else argument.find(">") + 1
    if not end:
        raise PathError("no >")
    return argument[:end], _parameters(argument[end:]) if end < len(argument) else {}


def _quoted_end(argument: str) -> int:
    """Where a path ends whose quoted local part may hold spaces and brackets; 0 if it does not."""
    quoted = escaped = False
    for index, char in enumerate(argument):
        if escaped:
            escaped = False
        elif quoted and char == "\\":
            escaped = True
        elif char == '"':
            quoted = not quoted
        elif char == ">" and not quoted:
            return index + 1
    return 0


def _parameters(text: str) -> Parameters:
    if not text.startswith(" "):
        raise PathError("no space after the path")
    words = text.split()
    if len(words) > PARAMETERS:
        raise PathError("too many parameters")
    found: Parameters = {}
    for word in words:
        keyword, equals, value = word.partition("=")
        name = keyword.upper()
        if not _KEYWORD.fullmatch(keyword) or name in found or (equals and not _VALUE.fullmatch(value)):
            raise PathError("bad parameter")
        found[name] = value if equals else None
    return found


def _path(text: str) -> Address | Foreign:
    try:
        if match := _SIMPLE.fullmatch(text):
            local, domain = match.groups()
            if len(local) <= 64:
                return Address(local, canonical_domain(domain))
        if len(text.encode()) > PATH_OCTETS:
            raise PathError("path over 256 octets")
        inner = text[1:-1]
        if route := _ROUTE.match(inner):
            inner = inner[route.end() :]  # RFC 5321 §4.1.1.3, Appendix C: the route is ignored
        local, at = scan_local(inner, 0)
        if inner[at : at + 1] != "@":
            raise PathError("no @")
        rest = inner[at + 1 :]
        if "@" in rest:
            return Foreign(text)
        canonical = canonical_literal if rest.startswith("[") else canonical_domain
        return Address(local, canonical(rest))
    except (AddressError, UnicodeError) as error:
        raise PathError("not a path") from error

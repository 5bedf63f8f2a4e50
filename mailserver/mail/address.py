"""Mail addresses: parsed once, by a positive grammar, into a local part and a canonical domain.

Not here: whether the address exists (`directory`), where its mail goes (`mta.routing`), or how its name
is spelled on disk (`directory.names`). Header addresses (RFC 5322) are never parsed by this server.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

import idna

LOCAL_OCTETS = 64  # RFC 5321 §4.5.3.1.1
RETURN_OCTETS = 240  # of a rewritten sender (SRS), which holds another address
DOMAIN_OCTETS = 255  # RFC 5321 §4.5.3.1.2
PATH_OCTETS = 256  # RFC 5321 §4.5.3.1.3

# RFC 5321 §4.1.2 Atom, with RFC 6531 §3.3 UTF8-non-ascii; the characters of surrogateescape are left out.
# Said by what is left out, here and elsewhere: a class of most of Unicode takes 2 to 4 ms to compile.
_ATEXT = r'[^\x00-\x20"(),.:;<>@\[\\\]\x7f\ud800-\udfff]'
_DOT_STRING = re.compile(rf"{_ATEXT}+(?:\.{_ATEXT}+)*")
_QUOTED = re.compile(r'"((?:[^\x00-\x1f"\\\x7f\ud800-\udfff]|\\[ -~])*)"')
_REWRITTEN = re.compile(r"SRS[01][=+-]", re.IGNORECASE)
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_A_DOMAIN = re.compile(rf"(?=.{{1,{DOMAIN_OCTETS}}}\Z){_LABEL}(?:\.{_LABEL})*")


class AddressError(ValueError):
    """The text is no address in the grammar of RFC 5321 §4.1.2 / RFC 6531 §3.3."""


class Address(NamedTuple):
    """A mailbox: `local` without quotes and as the client wrote it, `domain` a lower-case A-label name.

    The domain of a sender may be an address literal as well, in brackets.
    `str()` gives the text for the wire and for header fields, with the local part quoted where it must be.
    """

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{quote_local(self.local)}@{self.domain}"


@lru_cache(maxsize=1024)
def quote_local(local: str) -> str:
    """`local` as it stands before the @: bare if it is a dot-string, else a quoted string."""
    if _DOT_STRING.fullmatch(local):
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def fold_local(local: str) -> str:
    """The key of a local part: compatibility-free normal form (NFC), case folded; `ANN` and `ann` are one."""
    if local.isascii():
        return local.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local).casefold())


@lru_cache(maxsize=4096)
def canonical_domain(text: str) -> str:
    """The one spelling of a domain: lower-case A-labels (RFC 5891), so U-label and A-label are one domain.

    Raises AddressError for address literals, empty labels, labels over 63 octets and names over 255.
    """
    if text.isascii():
        name = text.lower()
        if not _A_DOMAIN.fullmatch(name):
            raise AddressError("not a domain name")
        if "xn--" not in name:
            return name
    try:
        name = idna.encode(text, uts46=True, std3_rules=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressError("not a domain name") from error
    if not _A_DOMAIN.fullmatch(name):  # IDNA lets a name end in a dot
        raise AddressError("not a domain name")
    return name


def canonical_literal(text: str) -> str:
    """The one spelling of an address literal (RFC 5321 §4.1.3), in its brackets. Raises AddressError."""
    inner = text[1:-1]
    try:
        if text != f"[{inner}]" or "%" in inner:  # a zone is for this machine alone, and no part of a literal
            raise ValueError
        if inner.lower().startswith("ipv6:"):
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:])}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise AddressError("not an address literal") from None


def is_path(address: Address) -> bool:
    """Whether an address, wherever it was kept, is one that a client could have given in a path."""
    local, domain = address
    quoted = quote_local(local)
    try:
        if scan_local(quoted, 0) != (local, len(quoted)):
            return False
        if domain.startswith("["):
            return bool(canonical_literal(domain))  # which spelling Python gives it has changed with 3.13
        return canonical_domain(domain) == domain
    except (AddressError, UnicodeError):
        return False


def display_domain(name: str) -> str:
    """An A-label name as people read it (U-labels); the name itself where it cannot be decoded."""
    try:
        return idna.decode(name)
    except (idna.IDNAError, UnicodeError):
        return name


def is_rewritten(local: str) -> bool:
    """Whether a local part claims to be a sender that a forwarder rewrote (`mail.srs`), whoever it was."""
    return _REWRITTEN.match(local) is not None


def parse_mailbox(text: str) -> Address:
    """`local@domain`, dot-string or quoted, without angle brackets. Raises AddressError."""
    address, rest = scan_mailbox(text, 0)
    if rest != len(text):
        raise AddressError("text after the address")
    return address


def scan_mailbox(text: str, start: int) -> tuple[Address, int]:
    """Read one mailbox from `text[start:]`; returns it and where it ends. Raises AddressError."""
    local, at = scan_local(text, start)
    if text[at : at + 1] != "@":
        raise AddressError("no @ after the local part")
    end = at + 1
    while end < len(text) and text[end] not in "> \t":
        end += 1
    domain = canonical_domain(text[at + 1 : end])
    return Address(local, domain), end


def scan_local(text: str, start: int) -> tuple[str, int]:
    """Read a local part, quoted or not, of at most 64 octets, or 240 by SRS. Raises AddressError."""
    if match := _DOT_STRING.match(text, start):
        local = match.group()
    elif match := _QUOTED.match(text, start):
        local = re.sub(r"\\(.)", r"\1", match.group(1))
    else:
        raise AddressError("no local part")
    if not local or len(local.encode()) > (RETURN_OCTETS if is_rewritten(local) else LOCAL_OCTETS):
        raise AddressError("local part of 0 or too many octets")
    return local, match.end()

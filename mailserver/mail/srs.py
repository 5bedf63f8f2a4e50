"""The sender rewriting scheme: a forwarded message's sender in our domain, and the way back for bounces.

    SRS0=<mac>=<day>=<domain>=<local>            stands for local@domain, for VALID days
    SRS1=<mac>=<first forwarder>=<rest of SRS0>  stands for the address the first forwarder made

so the rules a sender's domain publishes about its hosts (SPF) hold for forwarded mail too. The code is
valid only with the secret, so nobody else can make an address that this server relays to. Codes and stamps
survive a change of case on their way. Not here: which mail is forwarded (`mta.routing`), the secret's file.
"""

from __future__ import annotations

import base64
import hmac
import re

from mailserver.mail.address import (
    PATH_OCTETS,
    Address,
    AddressError,
    canonical_domain,
    fold_local,
    is_rewritten,
)

VALID = 21  # days in which a bounce may come back: more than any queue keeps trying
SECRET_OCTETS = 16  # at least

_DAYS = 1024  # what two characters count
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_SRS0 = re.compile(r"SRS0=([a-z2-7]{8})=([a-z2-7]{2})=([^=]+)=(.+)", re.IGNORECASE | re.DOTALL)
_SRS1 = re.compile(r"SRS1[=+-]([^=]*)=([^=]+)=([=+-].+)", re.IGNORECASE | re.DOTALL)  # others' too


class Srs:
    """Rewriting under one secret, of at least SECRET_OCTETS. Days are counted since 1970."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_OCTETS:
            raise ValueError(f"the secret has less than {SECRET_OCTETS} octets")
        self._secret = secret

    def forward(self, sender: Address, domain: str, day: int) -> Address | None:
        """The sender in `domain` that stands for `sender`; None if there can be none, or none so long."""
        if sender.domain.startswith("["):
            return None
        found = Address(self._shortened(sender) or self._complete(sender, day), domain)
        return found if len(f"<{found}>".encode()) <= PATH_OCTETS else None

    def reverse(self, local: str, day: int) -> Address | None:
        """The address a local part made by `forward` stands for; None if it was not, or too long ago."""
        try:
            if match := _SRS0.fullmatch(local):
                code, stamp, domain, original = match.groups()
                if self._is_right(code, "0", stamp, domain, original) and _is_recent(stamp, day):
                    return Address(original, canonical_domain(domain))
            elif match := _SRS1.fullmatch(local):
                code, domain, rest = match.groups()
                if self._is_right(code, "1", domain, rest):
                    return Address(f"SRS0{rest}", canonical_domain(domain))
        except AddressError:
            pass
        return None

    def _complete(self, sender: Address, day: int) -> str:
        stamp = _stamp(day)
        return f"SRS0={self._code('0', stamp, *sender[::-1])}={stamp}={sender.domain}={sender.local}"

    def _shortened(self, sender: Address) -> str | None:
        """For a sender that another forwarder rewrote: the middle ones are left out of the way back."""
        if sender.local[:4].upper() == "SRS0" and is_rewritten(sender.local):
            first, rest = sender.domain, sender.local[4:]
        elif (match := _SRS1.fullmatch(sender.local)) and _is_domain(match[2]):
            _, first, rest = match.groups()
        else:
            return None
        return f"SRS1={self._code('1', first, rest)}={first}={rest}"

    def _code(self, *parts: str) -> str:
        text = "\0".join(fold_local(part) for part in parts)
        digest = hmac.digest(self._secret, text.encode(), "sha256")
        return base64.b32encode(digest[:5]).decode().lower()

    def _is_right(self, code: str, *parts: str) -> bool:
        return hmac.compare_digest(code.lower().encode(), self._code(*parts).encode())


def _is_domain(text: str) -> bool:
    try:
        return bool(canonical_domain(text))
    except AddressError:
        return False


def _stamp(day: int) -> str:
    high, low = divmod(day % _DAYS, 32)
    return _BASE32[high] + _BASE32[low]


def _is_recent(stamp: str, day: int) -> bool:
    high, low = (_BASE32.index(character) for character in stamp.lower())
    age = (day - (high * 32 + low)) % _DAYS
    return age <= VALID or age == _DAYS - 1  # made by a clock that is ahead

"""What clients send to log in: SASL PLAIN (RFC 4616) and the older LOGIN, in base64, as values.

Not here: whether a password is right (`mta.authentication`), the dialogue around it (`smtp`, `pop3`).
"""

from __future__ import annotations

import binascii
from typing import NamedTuple

RESPONSE_OCTETS = 12_288  # RFC 4954 §4, RFC 5034 §4: a line within AUTH, CRLF included


class Credentials(NamedTuple):
    """A name and a password as the client gave them."""

    name: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(...)"  # no log or traceback shows a password


class Malformed(Exception):
    """The client's response is no base64, or not in the form of its mechanism."""


def credentials(name: bytes, password: bytes) -> Credentials | None:
    """A pair of UTF-8 texts (RFC 4616 §2, RFC 6856 §2.1); None for any other, which is no user's."""
    try:
        return Credentials(name.decode(), password.decode())
    except UnicodeDecodeError:
        return None


def decode(response: bytes) -> bytes:
    """The octets of a response in base64. Raises Malformed."""
    try:
        return binascii.a2b_base64(response, strict_mode=True)
    except ValueError:
        raise Malformed from None


def plain(response: bytes) -> Credentials | None:
    """The credentials of a PLAIN response in base64 (RFC 4616 §2); None: nobody's.

    Acting for another user (authzid) is nobody's right. Raises Malformed.
    """
    identity, *pair = decode(response).split(b"\0")
    if len(pair) != 2 or not all(pair):
        raise Malformed
    name, password = pair
    return credentials(name, password) if identity in (b"", name) else None

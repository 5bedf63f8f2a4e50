"""Trace headers: what the server writes on top of a message, and what it reads there to see a loop.

All parts are checked atoms or values of this server; nothing a client sent is copied unchecked.
Header fields of the message itself are never parsed, only counted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from functools import lru_cache

from mailserver.mail.address import Address

_UNSAFE = re.compile(r"[^A-Za-z0-9.:_\[\]-]")
_RECEIVED = re.compile(rb"\nreceived[ \t]*:")  # it begins with a literal and heeds no case: much quicker
_DELIVERED_TO = re.compile(rb"^delivered-to[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE | re.MULTILINE)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def count_received(header: bytes | bytearray) -> int:
    """How many Received fields a header has (LF line ends)."""
    return len(_RECEIVED.findall(b"\n" + header.lower()))


def was_delivered_to(header: bytes | bytearray, addresses: Collection[Address], delimiter: str = "") -> bool:
    """Whether a header (LF line ends) has a Delivered-To field of one of `addresses`.

    However other servers have folded it, put it in brackets, or kept the tag that begins with `delimiter`.
    """
    found = {_bare(value.decode(errors="replace")) for value in _DELIVERED_TO.findall(header)}
    if delimiter:
        found |= {
            f"{local.partition(delimiter)[0]}@{domain}"
            for local, _, domain in (address.rpartition("@") for address in found)
        }
    return any(str(address).casefold() in found for address in addresses)


def _bare(value: str) -> str:
    return "".join(value.split()).removeprefix("<").removesuffix(">").casefold()


def received(
    *, hello: str, peer: str, by: str, protocol: str, message_id: str, recipient: Address | None, now: float
) -> str:
    """A Received field (RFC 5321 §4.4), LF line ends; `peer` an IP address or `unix`, `now` in UNIX time."""
    whom = "" if recipient is None else f"\n\tfor <{recipient}>"
    return (
        f"Received: from {_client(hello, peer)}\n"
        f"\tby {by} with {protocol} id {message_id}{whom}; {rfc5322_date(int(now))}\n"
    )


def return_path(sender: Address | None) -> str:
    """The Return-Path field (RFC 5321 §4.4), written at final delivery."""
    return f"Return-Path: <{sender or ''}>\n"


def without_return_path(content: bytes) -> bytes:
    """The beginning of stored content as it may leave: Return-Path is for mailboxes (RFC 5321 §4.4).

    Only ours can stand in front: Received is above all that a client sent.
    """
    return content.partition(b"\n")[2] if content.startswith(b"Return-Path: ") else content


def delivered_to(address: Address) -> str:
    """The Delivered-To field: which mailbox this copy went into (Postfix, qmail)."""
    return f"Delivered-To: {address}\n"


@lru_cache(maxsize=4)
def rfc5322_date(now: int) -> str:
    """A date-time of RFC 5322 §3.3 in UTC, the same in every locale."""
    t = time.gmtime(now)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year}"
        f" {t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} +0000"
    )


@lru_cache(maxsize=256)
def _client(hello: str, peer: str) -> str:
    name = _UNSAFE.sub("?", hello)[:255] or "unknown"
    if ":" in peer:
        return f"{name} ([IPv6:{peer}])"
    return f"{name} ([{peer}])" if peer[:1].isdigit() else f"{name} ({peer})"

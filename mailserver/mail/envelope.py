"""The envelope: who sent a message and to whom, with the delivery-status wishes of RFC 3461.

Values only. What is done with the wishes is the queue's and the couriers' business.
"""

from __future__ import annotations

import re

import msgspec

from mailserver.mail.address import Address
from mailserver.mail.path import Parameters

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")  # RFC 3461 §4
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]+")
_NOTIFY = frozenset({"SUCCESS", "FAILURE", "DELAY"})


class ParameterError(ValueError):
    """A parameter has a value its RFC forbids."""


class Recipient(msgspec.Struct, frozen=True):
    """One accepted RCPT: the address as given, NOTIFY and ORCPT (RFC 3461 §4.1, §4.2) as given."""

    address: Address
    notify: frozenset[str] = frozenset()
    original: str | None = None


class Envelope(msgspec.Struct, frozen=True):
    """`sender` None is the null sender; `ret` and `envid` as in RFC 3461 §4.3 and §4.4.

    `forwarded_by` is the domain of the alias that sends the message on; empty where none does.
    """

    sender: Address | None
    recipients: tuple[Recipient, ...] = ()
    body_8bit: bool = False
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None
    forwarded_by: str = ""


def envelope_wishes(parameters: Parameters) -> tuple[str | None, str | None]:
    """Take RET and ENVID out of MAIL's parameters. Raises ParameterError."""
    ret = _take(parameters, "RET")
    if ret is not None and ret.upper() not in ("FULL", "HDRS"):
        raise ParameterError("RET is FULL or HDRS")
    envid = _take(parameters, "ENVID")
    if envid is not None and (len(envid) > 100 or not _XTEXT.fullmatch(envid)):
        raise ParameterError("ENVID is xtext of 1 to 100 characters")
    return ret.upper() if ret else None, envid


def recipient_wishes(parameters: Parameters) -> tuple[frozenset[str], str | None]:
    """Take NOTIFY and ORCPT out of RCPT's parameters. Raises ParameterError."""
    notify = _take(parameters, "NOTIFY")
    wishes = notify.upper().split(",") if notify is not None else []
    if wishes != ["NEVER"] and (not _NOTIFY.issuperset(wishes) or len(set(wishes)) != len(wishes)):
        raise ParameterError("NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY")
    original = _take(parameters, "ORCPT")
    if original is not None:
        kind, _, address = original.partition(";")
        if len(original) > 500 or not _ADDRESS_TYPE.fullmatch(kind) or not address or not _orcpt(address):
            raise ParameterError("ORCPT is type;xtext of at most 500 characters")
    return frozenset(wishes), original


def original_recipient(address: Address) -> str:
    """ORCPT for mail to `address` that goes on to another one (RFC 3461 §4.2, RFC 6533 §3)."""
    text = str(address)
    if not text.isascii():
        return f"utf-8;{embedded(text, utf8=True)}"
    return "rfc822;" + "".join(c if c >= "!" and c not in "+=" else f"+{ord(c):02X}" for c in text)


def embedded(text: str, *, utf8: bool = False) -> str:
    """An address as utf-8-addr-xtext or, with `utf8`, utf-8-addr-unitext (RFC 6533 §3)."""
    return "".join(
        c if ("!" <= c <= "~" and c not in "\\+=") or (utf8 and not c.isascii()) else f"\\x{{{ord(c):02X}}}"
        for c in text
    )


def is_xtext(text: str) -> bool:
    """Whether `text` is in the form of RFC 3461 §4."""
    return _XTEXT.fullmatch(text) is not None


def _orcpt(text: str) -> bool:
    return is_xtext(text) or not text.isascii()  # RFC 6533 §3: utf-8-addr-xtext


def _take(parameters: Parameters, name: str) -> str | None:
    if name not in parameters:
        return None
    value = parameters.pop(name)
    if value is None:
        raise ParameterError(f"{name} needs a value")
    return value

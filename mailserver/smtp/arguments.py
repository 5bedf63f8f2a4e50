"""What the arguments of MAIL and RCPT ask for, or the reply that refuses them. Pure, so it is remembered.

The same senders and recipients come again and again: reading them anew was a fifth of MAIL and RCPT.
Not here: the grammar of paths (`mail.path`) and of wishes (`mail.envelope`); what is granted (`transaction`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, ParameterError, envelope_wishes, is_xtext, recipient_wishes
from mailserver.mail.path import Foreign, Parameters, PathError, Postmaster, forward_path, reverse_path
from mailserver.mail.reply import Reply
from mailserver.smtp import replies

REMEMBERED = 1024  # arguments of each command; none is longer than a command

_DIGITS = re.compile(r"[0-9]{1,20}")


class Opening(NamedTuple):
    """MAIL: an envelope without recipients, and how many octets will come (0: it does not say)."""

    envelope: Envelope
    size: int


class Wanted(NamedTuple):
    """RCPT: to whom, and NOTIFY and ORCPT as `mail.envelope.Recipient` has them."""

    target: Address | Postmaster | Foreign
    notify: frozenset[str]
    original: str | None


@lru_cache(maxsize=REMEMBERED)
def of_mail(argument: str, extended: bool, lmtp: bool, submission: bool) -> Opening | Reply:
    """What follows MAIL; `extended`: the client said EHLO."""
    if argument[:5].upper() != "FROM:":
        return replies.MAIL_SYNTAX
    try:
        sender, parameters = reverse_path(argument[5:])
        if not argument.isascii() and "SMTPUTF8" not in parameters:
            return replies.NEEDS_SMTPUTF8  # RFC 6531 §3.5
        if parameters and not extended:
            return replies.UNKNOWN_PARAMETER
        opening = _opening(sender, parameters, lmtp=lmtp, submission=submission)
    except PathError:
        return replies.MAIL_SYNTAX
    except ParameterError:
        return replies.BAD_PARAMETER
    return replies.UNKNOWN_PARAMETER if parameters else opening


def _opening(sender: Address | None, parameters: Parameters, *, lmtp: bool, submission: bool) -> Opening:
    """Take what is known out of MAIL's parameters. Raises ParameterError."""
    size = parameters.pop("SIZE", "0") or ""
    if not _DIGITS.fullmatch(size):
        raise ParameterError("SIZE is a number")  # RFC 1870 §3
    body = (parameters.pop("BODY", "7BIT") or "").upper()
    if body not in ("7BIT", "8BITMIME"):
        raise ParameterError("BODY is 7BIT or 8BITMIME")
    utf8 = "SMTPUTF8" in parameters
    if parameters.pop("SMTPUTF8", None) is not None:
        raise ParameterError("SMTPUTF8 has no value")
    ret, envid = (None, None) if lmtp else envelope_wishes(parameters)
    if submission and not _is_identity(parameters.pop("AUTH", "<>")):
        raise ParameterError("AUTH is xtext")
    envelope = Envelope(sender, body_8bit=body == "8BITMIME", smtputf8=utf8, ret=ret, envid=envid)
    return Opening(envelope, int(size))


def _is_identity(value: str | None) -> bool:
    """Whether a value is one of AUTH= (RFC 4954 §5). It is not believed: who is logged in is known."""
    return value is not None and (value == "<>" or is_xtext(value))


@lru_cache(maxsize=REMEMBERED)
def of_rcpt(argument: str, extended: bool, lmtp: bool) -> Wanted | Reply:
    """What follows RCPT."""
    if argument[:3].upper() != "TO:":
        return replies.RCPT_SYNTAX
    try:
        target, parameters = forward_path(argument[3:])
        wishes = parameters and not lmtp
        notify, original = recipient_wishes(parameters) if wishes else (frozenset[str](), None)
    except PathError:
        return replies.RCPT_SYNTAX
    except ParameterError:
        return replies.BAD_PARAMETER
    if parameters or ((notify or original) and not extended):
        return replies.UNKNOWN_PARAMETER
    return Wanted(target, notify, original)

"""The parameters of MAIL and RCPT: what the host offers, what the message needs, what the sender wished.

SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET, ENVID, NOTIFY and ORCPT (RFC 3461, RFC 6533).
Content is never converted: what a host cannot take as it is, it does not get (RFC 6152 §3, RFC 6531 §3.2).
"""

from __future__ import annotations

from mailserver.delivery.attempt import Attempt
from mailserver.delivery.replies import failed
from mailserver.delivery.session import Session
from mailserver.mail.envelope import Recipient
from mailserver.mail.reply import Reply


async def unfit(session: Session, attempt: Attempt) -> Reply | None:
    """Why this host cannot take this message for anyone; None if it can.

    Raises OSError, Busy and LookupError: the message cannot be read now.
    """
    delivery = attempt.delivery
    limit = session.extensions.get("SIZE", "")
    if (
        limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < delivery.size
    ):  # RFC 1870 §3: 0 is no limit
        return failed("3.4", f"the message has {delivery.size} octets, the host takes {int(limit[:20])}")
    if not _takes_utf8(session):
        if delivery.sender is not None and not str(delivery.sender).isascii():
            return failed("6.7", "the sender's address is not ASCII, and the host offers no SMTPUTF8")
        if delivery.smtputf8 and await attempt.content.has_8bit_header():
            return failed("6.9", "the header is not ASCII, and the host offers no SMTPUTF8")
    if not session.offers("8BITMIME") and await attempt.content.has_8bit():
        return failed("6.3", "the message has 8-bit content, and the host offers no 8BITMIME")
    return None


def unfit_recipient(session: Session, recipient: Recipient) -> Reply | None:
    """Why this host cannot be given this address; None if it can."""
    if _is_ascii(recipient) or _takes_utf8(session):
        return None
    return failed("6.7", "the recipient's address is not ASCII, and the host offers no SMTPUTF8")


def mail(session: Session, attempt: Attempt, numbers: list[int]) -> str:
    """The MAIL command for the recipients of these numbers."""
    delivery = attempt.delivery
    words = [f"MAIL FROM:<{delivery.sender if delivery.sender is not None else ''}>"]
    if session.offers("SIZE"):
        words.append(f"SIZE={delivery.size}")
    utf8 = _takes_utf8(session) and _needs_utf8(attempt, numbers)
    if session.offers("8BITMIME") and (delivery.body_8bit or utf8):
        words.append("BODY=8BITMIME")
    if utf8:
        words.append("SMTPUTF8")
    if session.offers("DSN"):
        words += [f"RET={delivery.ret}"] if delivery.ret else []
        words += [f"ENVID={delivery.envid}"] if delivery.envid else []
    return " ".join(words)


def rcpt(session: Session, recipient: Recipient) -> str:
    """The RCPT command."""
    words = [f"RCPT TO:<{recipient.address}>"]
    if session.offers("DSN"):
        words += [f"NOTIFY={','.join(sorted(recipient.notify))}"] if recipient.notify else []
        words += [f"ORCPT={_original(recipient.original)}"] if recipient.original else []
    return " ".join(words)


def _takes_utf8(session: Session) -> bool:
    return session.offers("SMTPUTF8") and session.offers("8BITMIME")  # RFC 6531 §3.1: never one alone


def _needs_utf8(attempt: Attempt, numbers: list[int]) -> bool:
    delivery = attempt.delivery
    return (
        delivery.smtputf8
        or not str(delivery.sender).isascii()
        or not all(_is_ascii(attempt.recipient(number)) for number in numbers)
    )


def _is_ascii(recipient: Recipient) -> bool:
    return str(recipient.address).isascii()


def _original(text: str) -> str:
    """ORCPT in the form that every host takes: utf-8-addr-xtext (RFC 6533 §3)."""
    return "".join(c if c.isascii() else f"\\x{{{ord(c):X}}}" for c in text)

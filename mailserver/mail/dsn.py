"""Delivery status notifications: what became of a message, told to its sender (RFC 3464, RFC 6522, RFC 6533).

A report has three parts: words for people, fields for programs, and the message it is about, whole or its
header alone. Pure: values go in, content at rest (LF line ends) comes out. All that remote hosts said is
cleaned and folded here, so that nothing of it becomes a field or a part of the report.
Not here: who gets a report and when (`queue.reports`).
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from mailserver.mail.address import Address
from mailserver.mail.envelope import Recipient, embedded
from mailserver.mail.trace import rfc5322_date


class Action(Enum):
    """What was done about a recipient (RFC 3464 §2.3.3)."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


class Fate(NamedTuple):
    """One recipient of the report. `status` by RFC 3463; `reply`: what `remote` said, code first, or without
    a code our own reason; times in UNIX time, `retry_until` for a recipient that is delayed."""

    recipient: Recipient
    action: Action
    status: str
    reply: str = ""
    remote: str = ""
    last_attempt: float = 0.0
    retry_until: float = 0.0

    @property
    def host(self) -> str:
        """The host that said it; empty where none did, or its name is none."""
        return self.remote if _CODE.match(self.reply) and _MTA.fullmatch(self.remote) else ""


class Report(NamedTuple):
    """All a report says. `name` is unique and goes into its Message-ID; `sender` writes it to `recipient`.

    `original`: the message at rest, or its beginning; `whole`: it is all there and to be returned in full.
    `misdirected`: it goes to the postmaster, for the message's own sender is nobody or not to be reached.
    """

    name: str
    hostname: str
    sender: Address
    recipient: Address
    now: float
    arrived: float
    fates: tuple[Fate, ...]
    original: bytes
    whole: bool
    envid: str | None = None
    smtputf8: bool = False
    misdirected: bool = False


class Letter(NamedTuple):
    """A report as a message: content at rest, and what its envelope has to say about it."""

    content: bytes
    body_8bit: bool
    smtputf8: bool


_SUBJECTS = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed (it is not lost)",
}
_SUCCESS = "Your message was delivered"
_MISDIRECTED = "A message could neither be delivered nor returned"

_WORDS = {
    Action.FAILED: "could not be delivered; it will not be tried again",
    Action.DELAYED: "could not be delivered yet; it will be tried again until {until}",
    Action.DELIVERED: "was delivered",
    Action.RELAYED: "was handed on to a host that does not report further",
    Action.EXPANDED: "was delivered to a list of addresses, which may not report further",
}

_MTA = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_CODE = re.compile(r"[2-5][0-9]{2}(?![0-9.])")  # of a reply that a host gave
_XTEXT = re.compile(r"\+([0-9A-F]{2})")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3
_FOLD = 200  # characters of a line a remote reply is folded to


def compose(report: Report) -> Letter:
    """The report as a message."""
    original = report.original if report.whole else header_of(report.original)
    utf8 = report.smtputf8 and not (_addresses(report).isascii() and header_of(original).isascii())
    parts = [
        _part("text/plain; charset=utf-8", "Notification", _words(report)),
        _part(_kind("delivery-status", utf8), "Delivery report", _fields(report, utf8)),
        _part(_returned(report.whole, utf8), "Message" if report.whole else "Message header", original),
    ]
    boundary = _boundary(report.name, parts)
    line = b"--" + boundary.encode()
    body = b"".join(line + b"\n" + part + b"\n" for part in parts) + line + b"--\n"
    content = _header(report, boundary, body.isascii()).encode() + b"\n" + body
    return Letter(content, not content.isascii(), utf8)


def header_of(content: bytes) -> bytes:
    """The header of a message at rest, its empty line left out; of a part of one, its whole lines."""
    if content.startswith(b"\n"):
        return b""
    end = content.find(b"\n\n")
    return content[: (end if end >= 0 else content.rfind(b"\n")) + 1]


def _header(report: Report, boundary: str, ascii_only: bool) -> str:
    lines = [
        f"From: Mail delivery <{report.sender}>",
        f"To: <{report.recipient}>",
        f"Subject: {_subject(report)}",
        f"Date: {rfc5322_date(int(report.now))}",
        f"Message-ID: <{report.name}@{report.hostname}>",
        "Auto-Submitted: auto-replied",  # RFC 3834 §5: no answering machine answers this
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\n\tboundary="{boundary}"',
    ]
    if not ascii_only:
        lines.append("Content-Transfer-Encoding: 8bit")
    return "".join(f"{line}\n" for line in lines)


def _subject(report: Report) -> str:
    if report.misdirected:
        return _MISDIRECTED
    actions = {fate.action for fate in report.fates}
    return next((text for action, text in _SUBJECTS.items() if action in actions), _SUCCESS)


def _part(kind: str, description: str, body: bytes) -> bytes:
    encoding = "" if body.isascii() else "Content-Transfer-Encoding: 8bit\n"
    return f"Content-Type: {kind}\nContent-Description: {description}\n{encoding}\n".encode() + body


def _kind(name: str, utf8: bool) -> str:
    return f"message/global-{name}" if utf8 else f"message/{name}"


def _returned(whole: bool, utf8: bool) -> str:
    if whole:
        return "message/global" if utf8 else "message/rfc822"
    return "message/global-headers" if utf8 else "text/rfc822-headers"


def _boundary(name: str, parts: list[bytes]) -> str:
    """A line that stands in none of the parts."""
    boundary, number = f"=_{name}", 0
    while any(boundary.encode() in part for part in parts):
        number += 1
        boundary = f"=_{name}_{number}"
    return boundary


def _addresses(report: Report) -> str:
    originals = [fate.recipient.original or "" for fate in report.fates]
    return "".join([str(report.recipient), *originals, *(str(f.recipient.address) for f in report.fates)])


# -- for people ----------------------------------------------------------------------------------


def _words(report: Report) -> bytes:
    date = rfc5322_date(int(report.arrived))
    subject = "a message" if report.misdirected else "your message"
    lines = [f"This is the mail server {report.hostname}, about {subject} of", f"{date}.", ""]
    for fate in report.fates:
        lines += [f"<{fate.recipient.address}>"]
        until = rfc5322_date(int(fate.retry_until))
        lines += textwrap.wrap(_WORDS[fate.action].format(until=until) + ".", 72, initial_indent="    ")
        lines += _said(fate)
        lines.append("")
    if report.misdirected:
        lines += ["Its sender could not be told, so that this report came to the postmaster."]
    return "".join(f"{line}\n" for line in lines).encode()


def _said(fate: Fate) -> list[str]:
    if not fate.reply or fate.action not in (Action.FAILED, Action.DELAYED):
        return []
    speaker = "The reason"
    if _MTA.fullmatch(fate.remote):
        speaker = f"The host {fate.remote} said" if fate.host else f"The reason, at the host {fate.remote}"
    reply = textwrap.wrap(_clean(fate.reply), 72, initial_indent="        ", subsequent_indent="        ")
    return [f"    {speaker}:", *reply]


# -- for programs --------------------------------------------------------------------------------


def _fields(report: Report, utf8: bool) -> bytes:
    groups = [_message_fields(report), *(_recipient_fields(fate, utf8) for fate in report.fates)]
    text = "\n".join("".join(f"{line}\n" for line in group) for group in groups)
    return text.encode()


def _message_fields(report: Report) -> Iterator[str]:
    if report.envid:
        yield f"Original-Envelope-Id: {_xtext(report.envid)}"
    yield f"Reporting-MTA: dns; {report.hostname}"
    yield f"Arrival-Date: {rfc5322_date(int(report.arrived))}"


def _recipient_fields(fate: Fate, utf8: bool) -> Iterator[str]:
    if fate.recipient.original:
        kind, _, text = fate.recipient.original.partition(";")
        yield f"Original-Recipient: {_typed(kind, _xtext(text), utf8)}"
    yield f"Final-Recipient: {_typed('rfc822', str(fate.recipient.address), utf8)}"
    yield f"Action: {fate.action.value}"
    yield f"Status: {fate.status}"
    if fate.host:  # RFC 3464 §2.3.5: who reported it to us, so nobody who could not be reached
        yield f"Remote-MTA: dns; {fate.host}"
    if fate.reply:
        reply = _clean(fate.reply)
        reply = reply if utf8 else reply.encode("ascii", "replace").decode()
        kind = "smtp" if _CODE.match(reply) else "x-unix"
        yield from textwrap.wrap(f"Diagnostic-Code: {kind}; {reply}", _FOLD, subsequent_indent="    ")
    if fate.last_attempt:
        yield f"Last-Attempt-Date: {rfc5322_date(int(fate.last_attempt))}"
    if fate.action is Action.DELAYED:
        yield f"Will-Retry-Until: {rfc5322_date(int(fate.retry_until))}"


def _typed(kind: str, address: str, utf8: bool) -> str:
    """An address with its type, which is the sender's own word (RFC 3464 §2.3.1); one that is not ASCII in
    the form the report can carry (RFC 6533 §3)."""
    if kind.lower() == "utf-8":
        address = _EMBEDDED.sub(lambda match: _character(match[1]) or match[0], address)
    elif address.isascii():
        return f"{kind};{address}"
    else:
        kind = "utf-8"
    return f"{kind};{address if utf8 else embedded(address)}"


def _character(digits: str) -> str:
    code = int(digits, 16)
    return chr(code) if code < 0x110000 and _clean(chr(code)) == chr(code) else ""


def _xtext(text: str) -> str:
    """Decoded xtext (RFC 3461 §4); as it is, where it would hide characters no field may hold."""
    if any(not " " <= chr(int(digits, 16)) <= "~" for digits in _XTEXT.findall(text)):
        return text
    return _XTEXT.sub(lambda match: chr(int(match[1], 16)), text)


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()

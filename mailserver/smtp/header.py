"""The header of a submitted message: what RFC 6409 §8 lets the first server add, and Bcc taken out.

Only names of fields are looked at, and whether there is a value; values stay as they came. Works on the
header alone, LF line ends. Not here: trace fields (`mail.trace`), gathering the header (`smtp.content`).
"""

from __future__ import annotations

import re

from mailserver.mail.address import Address
from mailserver.mail.trace import rfc5322_date

_FIELDS = re.compile(rb"(?:[!-9;-~]+[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*)*")
_BCC = re.compile(rb"^(?:resent-)?bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)
_EMPTY = re.compile(
    rb"^(?:date|message-id|from)[ \t]*:[ \t]*\n(?:[ \t]+\n)*(?![ \t])", re.IGNORECASE | re.MULTILINE
)


class MalformedHeader(ValueError):
    """A line before the first empty one belongs to no field."""


def completed(header: bytes, *, now: float, message_id: str, author: Address) -> bytes:
    """`header` as it may leave: with Date, Message-ID and From, and without Bcc.

    `header` is what stands before the first empty line. The first line of a mailbox file's message goes.
    Raises MalformedHeader where any other line is no field: readers differ in where such a header ends, so
    a Bcc below would be text to some.
    """
    if header.startswith(b"From "):
        header = header.partition(b"\n")[2]
    if not _FIELDS.fullmatch(header):
        raise MalformedHeader
    fields = _EMPTY.sub(b"", _BCC.sub(b"", header))
    missing = {
        b"Date": rfc5322_date(int(now)),
        b"Message-ID": message_id,
        b"From": str(author),
    }
    added = b"".join(
        b"%s: %s\n" % (name, value.encode()) for name, value in missing.items() if not _has(fields, name)
    )
    return added + fields


def _has(fields: bytes, name: bytes) -> bool:
    return re.search(rb"^%s[ \t]*:" % name, fields, re.IGNORECASE | re.MULTILINE) is not None

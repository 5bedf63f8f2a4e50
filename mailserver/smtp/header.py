"""The header of a submitted message: what RFC 6409 §8 lets the first server add, and Bcc taken out.

Only names of fields are looked at; their values stay as they came. Works on the header alone, LF line ends.
Not here: trace fields (`mail.trace`), gathering the header (`smtp.content`).
"""

from __future__ import annotations

import re

from mailserver.mail.address import Address
from mailserver.mail.trace import rfc5322_date

_NO_FIELD = re.compile(rb"^(?![!-9;-~]+[ \t]*:|[ \t])", re.MULTILINE)  # or the end
_BCC = re.compile(rb"^(?:resent-)?bcc[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


def completed(header: bytes, *, now: float, message_id: str, author: Address) -> bytes:
    """`header` as it may leave: with Date, Message-ID and From, and without Bcc.

    `header` is what stands before the first empty line. Where a line in it is no field, the text begins
    there, and an empty line is put before it: otherwise the text would be taken for fields.
    """
    fields, text = _parted(header)
    fields = _BCC.sub(b"", fields)
    missing = {
        b"Date": rfc5322_date(int(now)),
        b"Message-ID": message_id,
        b"From": str(author),
    }
    added = b"".join(
        b"%s: %s\n" % (name, value.encode()) for name, value in missing.items() if not _has(fields, name)
    )
    return added + fields + (b"\n" + text if text else b"")


def _parted(header: bytes) -> tuple[bytes, bytes]:
    """The fields, and from the first line that belongs to none what is text."""
    if header[:1] in (b" ", b"\t"):
        return b"", header
    match = _NO_FIELD.search(header)
    end = match.start() if match else len(header)
    return header[:end], header[end:]


def _has(fields: bytes, name: bytes) -> bool:
    return re.search(rb"^%s[ \t]*:" % name, fields, re.IGNORECASE | re.MULTILINE) is not None

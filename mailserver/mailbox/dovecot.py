"""Reading `dovecot-uidlist`, Dovecot's list of a Maildir's messages, version 3. It is never written here.

    3 V<uid validity> N<next uid> G<guid>
    <uid> [<key><value> ...] :<name without flags>

Keys of interest: `P`, the unique id that POP3 clients were told, if it is not made of the uid; `W`, the
size on the wire. A file that is huge, cut or damaged: what can be read counts, the rest is skipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from mailserver.mailbox.names import unique_part
from mailserver.mailbox.tree import read_lines

FILE = "dovecot-uidlist"

_HEADER = re.compile(rb"3(?: \S+)*? V(\d{1,10})(?: |$)")
_RECORD = re.compile(rb"(\d{1,10}) ((?:[!-9;-~]\S* +)*):([^/\0]{1,255})")


class Listed(NamedTuple):
    """One message in the list. `uidl` is what Dovecot's POP3 server says by default."""

    unique: str
    uidl: str
    wire_size: int | None


def listed(mailbox: str) -> Iterator[Listed]:
    """The messages in the mailbox's list by uid; none if there is no list. Raises OSError."""
    lines = read_lines(os.path.join(mailbox, FILE))
    try:
        header = _HEADER.match(next(lines, b""))
    except FileNotFoundError:
        return
    if header:
        validity = int(header[1])
        yield from (message for line in lines if (message := _parse(line, validity)))


def wire_sizes(mailbox: str) -> dict[str, int]:
    """Sizes on the wire by the unique part of the name, as far as the list has them. Raises OSError."""
    return {m.unique: m.wire_size for m in listed(mailbox) if m.wire_size is not None}


def _parse(line: bytes, validity: int) -> Listed | None:
    record = _RECORD.fullmatch(line)
    if record is None:
        return None
    fields = {field[:1]: field[1:] for field in record[2].split()}
    told = fields.get(b"P", b"").decode("ascii", "replace")
    size = fields.get(b"W", b"")
    return Listed(
        unique_part(os.fsdecode(record[3])),
        told or f"{int(record[1]):08x}{validity:08x}",
        int(size) if size.isdigit() and len(size) < 19 else None,
    )

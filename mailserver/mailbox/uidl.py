"""The unique ids that POP3 clients are told (RFC 1939 §7): the same for a message's whole life.

A message's id is the unique part of its name, or a hash of that where POP3 would not allow it. Mail that
came here from Dovecot keeps the ids its clients know: at the first POP3 login, and only then, the ids in
`dovecot-uidlist` are adopted and recorded in `pop3-uidl`. From then on that file and the names count, so a
Dovecot that serves the same mailbox later changes nothing.

    pop3-uidl 1
    <unique id> <unique part of the name>
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mailserver.durable import files
from mailserver.mailbox import dovecot, trouble
from mailserver.mailbox.snapshot import pieces
from mailserver.mailbox.tree import read_lines

if TYPE_CHECKING:
    from mailserver.mailbox.maildir import Maildir

FILE = "pop3-uidl"
HEADER = b"pop3-uidl 1\n"
SPARE = 1000  # recorded ids of vanished messages that are not worth rewriting the file

_ALLOWED = re.compile(r"[!-~]{1,70}")  # RFC 1939 §7: one to 70 characters, 0x21 to 0x7E
_NOT_ALLOWED = re.compile(r"/(?![!-.0-~]{1,70}(?:/|\Z))")  # somewhere among unique parts, a slash before each


def unique_ids(maildir: Maildir, uniques: Sequence[str]) -> Sequence[str]:
    """The unique ids of messages whose names have these unique parts, no two alike. Raises OSError."""
    recorded = _read(maildir.path)
    if recorded is None:
        recorded = _adopt(maildir.path)
    elif len(recorded) > 2 * len(uniques) + SPARE:
        _forget(maildir, recorded)
    return _distinct(uniques, recorded)


def _distinct(uniques: Sequence[str], recorded: dict[str, str]) -> Sequence[str]:
    """Recorded ids first: a name that happens to look like another message's recorded id is hashed."""
    taken = set(recorded.values())
    if taken.isdisjoint(uniques) and not any(map(_NOT_ALLOWED.search, pieces(uniques))):
        return [recorded.get(unique, unique) for unique in uniques] if recorded else uniques
    ids = []
    for unique in uniques:
        if (uidl := recorded.get(unique)) is None:
            uidl = _own(unique)
            while uidl in taken:
                uidl = _hash(uidl)
            taken.add(uidl)
        ids.append(uidl)
    return ids


def _own(unique: str) -> str:
    return unique if _ALLOWED.fullmatch(unique) else _hash(unique)


def _hash(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=20).hexdigest()


def _adopt(mailbox: str) -> dict[str, str]:
    """Take over what Dovecot's clients know. Where two messages had one id, the first keeps it for ever."""
    recorded: dict[str, str] = {}
    taken: set[str] = set()
    for message in dovecot.listed(mailbox):
        uidl = message.uidl if _ALLOWED.fullmatch(message.uidl) else _hash(message.uidl)
        while uidl in taken:
            uidl = _hash(uidl + message.unique)
        taken.add(uidl)
        recorded[message.unique] = uidl
    _record(mailbox, recorded)
    return recorded


def _forget(maildir: Maildir, recorded: dict[str, str]) -> None:
    """Drop the ids of messages that are gone, by a second look: a scan may miss one that is renamed."""
    present = set(maildir.snapshot().uniques)
    _record(maildir.path, {unique: uidl for unique, uidl in recorded.items() if unique in present})


def _read(mailbox: str) -> dict[str, str] | None:
    """Recorded ids by unique part; None where nothing was ever recorded. Raises OSError."""
    recorded: dict[str, str] = {}
    taken: set[str] = set()
    try:
        for line in read_lines(os.path.join(mailbox, FILE)):
            if line == HEADER.rstrip():
                continue
            uidl, _, unique = os.fsdecode(line).partition(" ")
            if unique and unique not in recorded and uidl not in taken and _ALLOWED.fullmatch(uidl):
                recorded[unique] = uidl
                taken.add(uidl)
    except FileNotFoundError:
        return None
    return recorded


def _record(mailbox: str, recorded: dict[str, str]) -> None:
    """Write the file. A full disk is no reason to keep anybody from reading and deleting mail."""
    lines = "".join(f"{uidl} {unique}\n" for unique, uidl in recorded.items())
    try:
        files.replace(os.path.join(mailbox, FILE), HEADER + os.fsencode(lines))
    except OSError as error:
        trouble.log("uidl-not-recorded", mailbox, error)

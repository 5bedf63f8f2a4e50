"""The inside of a user's mailbox for its operator: a summary, and deleted mail listed, restored, purged.

Not here: who the user is (`accounts`), how Trash works (`mailbox.trash`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email import policy
from email.errors import MessageError
from email.header import decode_header
from email.parser import HeaderParser

from mailserver.admin.accounts import Accounts
from mailserver.admin.entries import MailboxSummary, TrashEntry, TrashResult
from mailserver.admin.refused import Refused
from mailserver.mail.address import Address
from mailserver.mailbox import quota
from mailserver.mailbox.maildir import Gone, Maildir
from mailserver.mailbox.trash import Trash, Trashed
from mailserver.mailbox.tree import TRASH, open_regular, opened

_HEADER = 64 * 1024  # octets of a message read for sender and subject
_SHOWN = 200  # characters of each


def summary(accounts: Accounts, address: Address) -> MailboxSummary:
    """Raises Missing, Unavailable, OSError."""
    user, maildir = accounts.user(address)
    trashed = Trash(maildir).list()
    used = quota.usage(maildir, user.quota)
    unread = sum("S" not in message.flags for message in maildir.scan())
    return MailboxSummary(
        user.address,
        maildir.path,
        used.messages,
        unread,
        used.storage,
        *user.quota,
        len(trashed),
        sum(message.size for message in trashed),
    )


def list_trash(accounts: Accounts, address: Address) -> list[TrashEntry]:
    """Deleted mail, newest first. Raises Missing, Unavailable, OSError."""
    _, maildir = accounts.user(address)
    return [_entry(maildir, trashed) for trashed in Trash(maildir).list()]


def restore(accounts: Accounts, address: Address, ids: Sequence[str] | None) -> TrashResult:
    """Put deleted messages back into the mailbox, all for None.

    Raises Refused for an id that is not there, before anything is moved, and after all others are for one
    that cannot be restored; Missing, Unavailable, OSError.
    """
    user, maildir = accounts.user(address)
    trash = Trash(maildir)
    restored, problems = 0, []
    for trashed in _chosen(trash, ids):
        try:
            trash.restore(trashed.unique)
            restored += 1
        except Gone:
            problems.append(f"{_id(trashed)} is in the Trash no more")
        except FileExistsError:
            problems.append(f"{_id(trashed)} is in the mailbox already")
    if problems:  # none of which keeps the others in Trash
        raise Refused(f"{problems[0]}; {len(problems)} not restored, {restored} restored")
    return TrashResult(user.address, restored=restored)


def purge(
    accounts: Accounts, address: Address, ids: Sequence[str] | None, older_than: float | None
) -> TrashResult:
    """Remove deleted messages for good: those of `ids`, or all that lie there for `older_than` seconds.

    Raises Refused for an id that is not there, and after all others are removed for one that cannot be;
    Missing, Unavailable, OSError.
    """
    user, maildir = accounts.user(address)
    trash = Trash(maildir)
    chosen = trash.list(older_than) if ids is None else _chosen(trash, ids)
    purged, problems = 0, []
    for trashed in chosen:
        try:
            purged += trash.remove(trashed)
        except OSError as error:
            problems.append(f"{_id(trashed)} cannot be removed: {error.strerror}")
    if problems:
        raise Refused(f"{problems[0]}; {len(problems)} not removed, {purged} removed")
    return TrashResult(user.address, purged=purged)


def _chosen(trash: Trash, ids: Sequence[str] | None) -> Iterator[Trashed]:
    found = {_id(trashed): trashed for trashed in trash.list()}
    unknown = sorted(set(ids or ()) - found.keys())
    if unknown:
        raise Refused(f"no message {unknown[0]} in the Trash")
    yield from (found[chosen] for chosen in (dict.fromkeys(ids) if ids is not None else found))


def _id(trashed: Trashed) -> str:
    """The unique part of its name; other programs put octets there that nobody can show or type."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in trashed.unique)


def _entry(maildir: Maildir, trashed: Trashed) -> TrashEntry:
    deleted = datetime.fromtimestamp(trashed.trashed_at, UTC).isoformat(timespec="seconds")
    text = _header(maildir, trashed.name).decode(errors="replace")  # RFC 6532 §3: UTF-8 as it is
    header = HeaderParser(policy=policy.compat32).parsestr(text)
    sender, subject = (_words(header.get(name)) for name in ("From", "Subject"))
    return TrashEntry(_id(trashed), deleted, trashed.size, sender, subject)


def _header(maildir: Maildir, name: str) -> bytes:
    """The header of a message in Trash; empty where it cannot be read, for it is listed all the same."""
    for subdirectory in ("cur", "new"):
        try:
            with opened(maildir.path, TRASH, subdirectory) as trash:
                fd = open_regular(name, trash)
        except OSError:
            continue
        with os.fdopen(fd, "rb") as file:
            return file.read(_HEADER).replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return b""


def _words(value: object) -> str:
    """A header field as people read it; text of whatever origin, so never believed to be well-formed."""
    try:
        text = "".join(_part(*found) for found in decode_header(str(value or "")[: 4 * _SHOWN]))
    except (LookupError, ValueError, MessageError):
        text = str(value)
    return "".join(c if c.isprintable() else " " for c in text)[:_SHOWN]


def _part(part: str | bytes, charset: str | None) -> str:
    """A part of a field as `decode_header` gives it, which escapes what stands beside encoded words."""
    if isinstance(part, str):
        return part
    return part.decode(charset or "raw-unicode-escape", errors="replace")

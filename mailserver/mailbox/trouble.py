"""Trouble with a mailbox, for the mail log: which mailbox, and the system's word for what is wrong."""

from __future__ import annotations

import errno

from mailserver import maillog


def label(mailbox: str) -> str:
    """A mailbox in the log: the last two parts of its path, which are domain and user."""
    return "/".join(mailbox.rstrip("/").split("/")[-2:])


def log(event: str, mailbox: str, error: OSError) -> None:
    """One line, with the error's name such as ENOSPC; no path and no system text."""
    maillog.event(event, mailbox=label(mailbox), reason=errno.errorcode.get(error.errno or 0, "unknown"))

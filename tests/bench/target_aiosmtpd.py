"""aiosmtpd with a synced Maildir: the level of the library alone, without a mail server around it. No POP3."""

from __future__ import annotations

import os
import sys

import mailboxes
from target import MAILBOXES, Target, user


class Aiosmtpd(Target):
    """aiosmtpd_maildir.py as a server."""

    name = "aiosmtpd"
    protocols = frozenset({"smtp"})

    def configure(self) -> None:
        for number in range(MAILBOXES):
            mailboxes.make(self.maildir(number), self.owner)

    def commands(self) -> list[list[str]]:
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "aiosmtpd_maildir.py")
        return [[sys.executable, program, os.path.join(self.state, "mail"), str(self.smtp_port)]]

    def maildir(self, number: int) -> str:
        return os.path.join(self.state, "mail", user(number))

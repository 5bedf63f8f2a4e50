"""A bare sketch of such a server: what the machine gives at most, with the same syncs and no features."""

from __future__ import annotations

import os
import sys

import mailboxes
from target import MAILBOXES, Target, user


class Sketch(Target):
    """sketch.py as a server."""

    name = "sketch"
    cells = ("in-", "pop3")

    def configure(self) -> None:
        os.mkdir(os.path.join(self.state, "staging"))
        for number in range(MAILBOXES):
            mailboxes.make(self.maildir(number), self.owner)

    def commands(self) -> list[list[str]]:
        program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sketch.py")
        places = [os.path.join(self.state, place) for place in ("mail", "staging")]
        return [[sys.executable, program, *places, str(self.smtp_port), str(self.pop3_port)]]

    def maildir(self, number: int) -> str:
        return os.path.join(self.state, "mail", user(number))

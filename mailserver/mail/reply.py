"""SMTP replies: the only form in which text reaches an SMTP or LMTP client.

Every reply has an enhanced status code (RFC 2034, RFC 3463) whose class is the reply's own, except where
the RFCs forbid one: the greeting, the answers to HELO and EHLO, and the 3xx "go on" replies.
Not here: POP3's answers (`pop3.session`), or when a reply is given (`smtp.transaction`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class Reply(NamedTuple):
    """`code` 200 to 599, `status` such as `5.1.1` or empty, `text` of one or more lines."""

    code: int
    status: str
    text: str

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    @lru_cache(maxsize=512)  # noqa: B019 - a value, and no cache is kept with it
    def encode(self) -> bytes:
        """The reply on the wire, CRLF included. Control characters never pass."""
        status = f"{self.status} " if self.status else ""
        if self.text.isascii() and self.text.isprintable():  # one line, as most are
            return f"{self.code} {status}{self.text}\r\n".encode()
        lines = [_UNSAFE.sub("?", line) for line in self.text.split("\n")]
        marks = ["-"] * (len(lines) - 1) + [" "]
        wire = [f"{self.code}{mark}{status}{line}\r\n" for mark, line in zip(marks, lines, strict=True)]
        return "".join(wire).encode()

    def __str__(self) -> str:
        return f"{self.code} {self.status} {self.text}".replace("  ", " ")

"""Handing a message to a server in an SMTP dialogue over a connected socket: for all recipients, or for none.

Not here: whose socket it is (`ways`).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from mailserver.cli.sendmail.failed import Code, Failed
from mailserver.mail.envelope import Envelope

PATIENCE = 300.0  # seconds for each reply
_LINE = 4096  # octets of a reply line
_LINES = 100  # of a reply
_REPLY = re.compile(r"(\d{3})([ -]?)(?:(\d\.\d{1,3}\.\d{1,3}) ?)?(.*)")
_CODES = {"5.7.1": Code.NO_PERMISSION, "5.7.0": Code.NO_PERMISSION, "5.3.4": Code.DATA, "5.6.0": Code.DATA}


class Reply(NamedTuple):
    """The last line of a reply, and all of its texts."""

    code: int
    status: str
    texts: tuple[str, ...]


class Client:
    """A dialogue on `sock`. Raises Failed for every refusal, and for a server that goes away."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self._sock = sock
        self._file = sock.makefile("rb")

    def send(self, envelope: Envelope, octets: Iterable[bytes]) -> None:
        """Hand a message over; when this returns, the server has it durably."""
        with contextlib.closing(self._file):
            self._expect(self._reply(), 220)
            self._command(f"EHLO {os.uname().nodename or 'localhost'}", 250)
            self._command(f"MAIL FROM:<{envelope.sender or ''}>{_parameters(envelope)}", 250)
            for recipient in envelope.recipients:
                notify = f" NOTIFY={','.join(sorted(recipient.notify))}" if recipient.notify else ""
                about = f"{recipient.address}: "
                self._command(f"RCPT TO:<{recipient.address}>{notify}", 250, about)
            self._command("DATA", 354)
            self._content(octets)
            self._expect(self._reply(), 250)
            with contextlib.suppress(Failed):
                self._command("QUIT", 221)

    def _content(self, octets: Iterable[bytes]) -> None:
        try:
            for block in octets:
                self._sock.sendall(block)
        except TimeoutError:
            raise _gone("takes nothing more") from None
        except OSError:
            return  # it hung up: what it has said about it is read next

    def _command(self, line: str, code: int, about: str = "") -> Reply:
        if not line.isprintable():
            raise Failed(Code.USAGE, "control characters in an address")
        with contextlib.suppress(OSError):  # likewise
            self._sock.sendall(line.encode() + b"\r\n")
        return self._expect(self._reply(), code, about)

    def _reply(self) -> Reply:
        texts: list[str] = []
        while len(texts) < _LINES:
            try:
                line = self._file.readline(_LINE)
            except OSError:
                raise _gone("does not answer") from None
            match = _REPLY.fullmatch(line.decode(errors="replace").rstrip("\r\n"))
            if match is None or not line.endswith(b"\n"):
                raise _gone("went away")
            texts.append(match[4])
            if match[2] != "-":
                return Reply(int(match[1]), match[3] or "", tuple(texts))
        raise _gone("says too much")

    def _expect(self, reply: Reply, code: int, about: str = "") -> Reply:
        if reply.code == code:
            return reply
        said = " ".join(part for part in (str(reply.code), reply.status, reply.texts[-1]) if part)
        raise Failed(_code(reply), about + said)


def _parameters(envelope: Envelope) -> str:
    words = [
        "BODY=8BITMIME" if envelope.body_8bit else "",
        "SMTPUTF8" if envelope.smtputf8 else "",
        f"RET={envelope.ret}" if envelope.ret else "",
        f"ENVID={envelope.envid}" if envelope.envid else "",
    ]
    return "".join(f" {word}" for word in words if word)


def _code(reply: Reply) -> Code:
    if not 500 <= reply.code <= 599:
        return Code.TEMPORARY
    if reply.status.startswith("5.1."):
        return Code.NO_USER
    return _CODES.get(reply.status, Code.UNAVAILABLE)


def _gone(what: str) -> Failed:
    return Failed(Code.TEMPORARY, f"the server {what}")

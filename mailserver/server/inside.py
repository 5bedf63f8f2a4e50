"""Inside a worker: the socket on which the console's process asks who is connected, and ends sessions.

A request and an answer are a line of JSON each. The socket lies in a directory of the server's own account.
Not here: who may ask (`admin.administration`), asking all workers (`running`).
"""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct

from mailserver import maillog
from mailserver.admin.server import SessionEntry
from mailserver.transport.connections import Connections, Entry

LISTED = 1000  # sessions of one answer


class Question(Struct, frozen=True):
    """What is asked: sessions after a number, the end of the one with `number`, or counters."""

    do: Literal["sessions", "close", "counters"]
    number: int = 0


class Reply(Struct, frozen=True):
    """What came of it; `last` is the number after which sessions are to be asked for, 0 for no more."""

    sessions: tuple[SessionEntry, ...] = ()
    last: int = 0
    found: bool = False
    counters: dict[str, int] = {}


class Inside:
    """Answers for the connections of this process; `patience` is what a session that ends may take."""

    def __init__(self, connections: Connections, patience: float) -> None:
        self._connections = connections
        self._patience = patience

    async def obey(self, line: bytes) -> bytes:
        """Raises msgspec.DecodeError for what is no question."""
        return msgspec.json.encode(self.reply(_question.decode(line))) + b"\n"

    def reply(self, question: Question) -> Reply:
        if question.do == "close":
            return Reply(found=self._connections.end(question.number, self._patience))
        if question.do == "counters":
            return Reply(counters=maillog.counters())
        found = [entry for entry in self._connections if entry.number > question.number][:LISTED]
        last = found[-1].number if len(found) == LISTED else 0
        return Reply(tuple(map(session_entry, found)), last)


def session_entry(entry: Entry) -> SessionEntry:
    """A connection of this process as an operator sees it."""
    protocol, peer, user, secure = entry.connection.about()
    since = datetime.fromtimestamp(entry.since, UTC).isoformat(timespec="seconds")
    return SessionEntry(f"{os.getpid()}-{entry.number}", protocol, peer, user, since, secure, os.getpid())


def number_of(session_id: str) -> tuple[int, int]:
    """The process and the number in it. Raises ValueError."""
    process, number = (int(part) for part in session_id.split("-"))
    return process, number


class Sockets:
    """Where workers are asked: `<pid>.sock` in a directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, pid: int) -> str:
        return os.path.join(self._directory, f"{pid}.sock")

    def all(self) -> dict[int, str]:
        """By process; those that have just ended may be there, too."""
        with contextlib.suppress(OSError):
            names = (name.removesuffix(".sock") for name in os.listdir(self._directory))
            return {int(name): self.path(int(name)) for name in names if name.isascii() and name.isdigit()}
        return {}

    def forget(self, pid: int) -> None:
        """Remove the socket of a process that has ended."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(pid))


_question = msgspec.json.Decoder(Question)
decode_reply = msgspec.json.Decoder(Reply).decode

"""What a running server does for its operators, as a port; and its stand-in where none runs.

Not here: the running server (`mailserver.server`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import NoReturn, Protocol

from msgspec import Struct

from mailserver.admin.refused import Refused
from mailserver.admin.requests import Answer, Request

NO_SERVER = "no server is running"


class SessionEntry(Struct, frozen=True):
    """Somebody connected: `user` is who logged in, empty before; `since` when the connection began."""

    id: str
    protocol: str
    peer: str
    user: str
    since: str
    secure: bool
    process: int


class ServerStatus(Struct, frozen=True):
    """A running server: its processes, connections of all, the configuration's number in the history."""

    version: str
    pid: int
    since: str
    workers: int
    connections: int
    queued: int
    deferred: int
    configuration: int


class Server(Protocol):
    """A running server, or not a `running` one. Raises Refused where it cannot."""

    running: bool

    async def reload(self) -> None:
        """Have everything serve with what the files say now. Returns when it does; Refused: why not."""

    async def stop(self, *, drain: bool) -> None:
        """Begin to stop: sessions get the configured time, or with `drain` all they need."""

    async def sessions(self) -> list[SessionEntry]:
        """Who is connected, over all processes."""

    async def close_session(self, session_id: str) -> None:
        """End a session, politely where it is idle. Refused: there is none."""

    async def status(self) -> ServerStatus:
        """How it does, over all processes."""

    async def counters(self) -> dict[str, int]:
        """Counters since each process began, summed up."""

    def events(self) -> AsyncIterator[str]:
        """The lines of the log from now on; lines are left out for a reader who is too slow."""

    def ask_queue(self, request: Request) -> Awaitable[Answer]:
        """Carry a request to the queue."""


class NoServer:
    """No server runs: the files can be worked on, nothing else."""

    running = False

    async def reload(self) -> None:
        _refuse()

    async def stop(self, *, drain: bool) -> None:
        _refuse()

    async def sessions(self) -> list[SessionEntry]:
        _refuse()

    async def close_session(self, session_id: str) -> None:
        _refuse()

    async def status(self) -> ServerStatus:
        _refuse()

    async def counters(self) -> dict[str, int]:
        _refuse()

    def events(self) -> AsyncIterator[str]:
        _refuse()

    async def ask_queue(self, request: Request) -> Answer:
        _refuse()


def _refuse() -> NoReturn:
    raise Refused(NO_SERVER)

"""Operations on the running server: sessions, state, log as it is written, reload and stop.

Not here: how it is done (`admin.server`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from mailserver.admin.entries import Counter, LogLine
from mailserver.admin.operation import Kind, Operation, Parameter
from mailserver.admin.roles import Role
from mailserver.admin.server import ServerStatus, SessionEntry

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_EVERY = 2.0  # seconds between two states of a server that is watched
_READS = frozenset({Role.AUDITOR})

SESSION = Kind("ID", str, listed=("session list", "id"))


async def list_sessions(call: Call) -> list[SessionEntry]:
    return await call.server.sessions()


async def close_session(call: Call, id: str) -> None:
    await call.server.close_session(id)


async def status(call: Call) -> ServerStatus:
    return await call.server.status()


async def watch_status(call: Call) -> AsyncIterator[ServerStatus]:
    while True:
        yield await call.server.status()
        await asyncio.sleep(_EVERY)


async def counters(call: Call) -> list[Counter]:
    return [Counter(name, value) for name, value in sorted((await call.server.counters()).items())]


async def events(call: Call) -> AsyncIterator[LogLine]:
    async for line in call.server.events():
        yield LogLine(line)


async def reload(call: Call) -> None:
    await call.server.reload()


async def drain(call: Call) -> None:
    await call.server.stop(drain=True)


async def stop(call: Call) -> None:
    await call.server.stop(drain=False)


OPERATIONS = (
    Operation("session list", "Who is connected.", list_sessions, roles=_READS),
    Operation("session close", "End a session.", close_session, (Parameter("id", SESSION),), changes=True),
    Operation("status", "How the server does.", status, roles=_READS),
    Operation(
        "status --watch", "How the server does, again and again.", watch_status, roles=_READS, stream=True
    ),
    Operation(
        "counters",
        "What the processes that run now have counted; a changed configuration begins new ones.",
        counters,
        roles=_READS,
    ),
    Operation("events", "The lines of the log from now on.", events, roles=_READS, stream=True),
    Operation("reload", "Serve with what the files say now.", reload, changes=True),
    Operation("drain", "Stop, when the sessions that go on have ended.", drain, changes=True, destroys=True),
    Operation("stop", "Stop; sessions have the configured time to end.", stop, changes=True, destroys=True),
)

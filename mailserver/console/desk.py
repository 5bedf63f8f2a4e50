"""What every front end gets: the administration, who may use it, and a register of who is connected.

A front end offers `factory(desk) -> Callable[[Peer], asyncio.BaseProtocol]`; the process of the consoles
binds listeners, and makes a protocol for each connection. The protocol adds itself to `desk.connections`
when the connection is made, and discards itself when all is cleaned up; there `about()` tells who it is.
Not here: what is spoken (`control`, `telnet`, `broker`), the process (`server.console`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mailserver.admin.administration import Administration
from mailserver.admin.roles import Operator
from mailserver.console.places import Places
from mailserver.transport.backlog import Backlog
from mailserver.transport.connections import Connections


class Operators(Protocol):
    """Who may administer."""

    async def authenticate(self, name: str, password: str, source: str) -> Operator | None:
        """The operator with this password, or None. Raises Busy: it was not looked at."""

    def of_uid(self, uid: int) -> Operator | None:
        """The operator that a process of this user is without a password, on a UNIX socket."""


class Settings(Protocol):
    """The `[console]` table."""

    @property
    def python(self) -> bool:
        """Whether an owner gets a Python prompt."""

    @property
    def idle_timeout(self) -> float:
        """Seconds an operator may be silent."""


@dataclass(frozen=True)
class FrontDesk:
    """Made once in the life of the process; configurations come and go beneath it."""

    administration: Administration
    operators: Operators
    settings: Callable[[], Settings]
    """The table now in force."""
    connections: Connections
    places: Places = field(default_factory=Places)
    """Of telnet and Perspective Broker."""
    local_places: Places = field(default_factory=Places)
    """Of the control socket."""
    backlog: Backlog = field(default_factory=Backlog)

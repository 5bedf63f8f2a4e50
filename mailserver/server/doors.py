"""Where operators come in: the control socket, and the listeners for telnet and Perspective Broker.

They are bound by the console's process, as the user it is, and follow the configuration: whoever is connected
stays. Not here: what is spoken there (`mailserver.console`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from mailserver import maillog
from mailserver.config.load import twisted_trouble
from mailserver.config.model import Config, Listener
from mailserver.console import control
from mailserver.console.desk import FrontDesk
from mailserver.console.places import HANDSHAKE, Places
from mailserver.server.channel import Told
from mailserver.transport import listener as transport
from mailserver.transport.endpoint import Endpoint, EndpointError, parse
from mailserver.transport.gate import Gate, Limits
from mailserver.transport.tls import Certificates

Factory = Callable[[transport.Peer], asyncio.BaseProtocol]
OPEN_MODE = 0o666  # who may is decided by the account of the process; the directory lets in whom it lets in


def _telnet(desk: FrontDesk) -> Factory:
    from mailserver.console import telnet  # Twisted, for this process alone, and only if it is wanted

    return telnet.factory(desk)


def _broker(desk: FrontDesk) -> Factory:
    from mailserver.console import broker

    return broker.factory(desk)


FRONT_ENDS = {"telnet": _telnet, "pb": _broker}


class Doors:
    """The listeners of this process. All methods are of its event loop."""

    def __init__(
        self,
        desk: FrontDesk,
        certificates: Certificates,
        inherited: Mapping[str, Sequence[int]],
        mail: Collection[str] = (),
    ) -> None:
        self._desk = desk
        self._certificates = certificates
        self._inherited = inherited
        self._mail = set(mail)  # endpoints that are the mail's
        self._owners = Gate(Limits(0, 0, HANDSHAKE))
        self._control: transport.Listener | None = None
        self._open: dict[Listener, transport.Listener] = {}

    @property
    def endpoints(self) -> str:
        """Where it listens for telnet and Perspective Broker, with blanks between; for the log."""
        return " ".join(at.endpoint for at in self._open)

    async def open_control(self, path: str) -> None:
        """Where commands of this machine come in; a line in the log where that cannot be."""
        endpoint = Endpoint("unix", path, mode=OPEN_MODE)
        listener = self._listener(endpoint, control.factory(self._desk), self._desk.local_places)
        if problem := await _start(listener):
            maillog.event("listener-failed", problem=problem)
        else:
            self._control = listener

    async def follow(self, config: Config) -> list[str]:
        """Open what the configuration has, close what it has no more. Returns what could not be opened.

        It may be newer than what is in force. What the mail still has is opened when it was told to be free.
        """
        most = config.console.connections
        self._owners.limits = Limits(most, 0, HANDSHAKE)
        self._desk.places.resize(most)
        self._desk.local_places.resize(most)
        wanted = [at for at in config.listeners if at.protocol in FRONT_ENDS and not at.paused]
        for at in self._open.keys() - set(wanted):
            self._open.pop(at).close()
        free = [at for at in wanted if at not in self._open and at.endpoint not in self._mail]
        problems = [await self._open_at(at) for at in free]
        return [problem for problem in problems if problem]

    def heed(self, told: Told) -> None:
        """Let go of endpoints that become the mail's; whoever came in by them stays."""
        if told.changed or told.mail:  # what was to become the mail's may not have
            self._mail = set(told.mail)
        self._mail.update(told.leave)
        for at in [at for at in self._open if at.endpoint in told.leave]:
            self._open.pop(at).close()

    async def _open_at(self, at: Listener) -> str:
        try:
            factory = FRONT_ENDS[at.protocol](self._desk)
        except ImportError as error:
            problem = f"{at.endpoint}: {at.protocol} {twisted_trouble(error)}"
        else:
            listener = self._listener(parse(at.endpoint), factory, self._desk.places, at.proxy_from)
            problem = await _start(listener, self._inherited)
            if not problem:
                if at.endpoint in self._mail:  # since a moment ago
                    listener.close()
                else:
                    self._open[at] = listener
                return ""
        maillog.event("listener-failed", problem=problem)
        return problem

    def _listener(
        self,
        endpoint: Endpoint,
        factory: Factory,
        places: Places,
        proxy_from: Sequence[transport.Network] = (),
    ) -> transport.Listener:
        certificates = self._certificates if endpoint.tls else None
        return transport.Listener(
            endpoint,
            factory,
            gate=places,
            certificates=certificates,
            proxy_from=proxy_from,
            owners=self._owners,
        )

    def close(self) -> None:
        """Let nobody in any more."""
        for listener in (*self._open.values(), *([self._control] if self._control else [])):
            listener.close()


async def _start(listener: transport.Listener, inherited: Mapping[str, Sequence[int]] | None = None) -> str:
    """Bind and accept; returns why that cannot be."""
    try:
        await asyncio.to_thread(listener.open, inherited)
    except (EndpointError, OSError) as error:
        return str(error)
    listener.start()
    return ""

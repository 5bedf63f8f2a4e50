"""The console's listeners and the mail's: an endpoint that changes hands is free when the other takes it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mailserver import maillog
from mailserver.config.model import Listener
from mailserver.config.values import EndpointText
from mailserver.console.places import Places
from mailserver.server import doors
from mailserver.server.channel import Told
from mailserver.server.doors import Doors
from mailserver.transport import listener as transport
from mailserver.transport.tls import Certificates

LIMIT = 20.0


@pytest.fixture
def place() -> Iterator[tuple[str, int]]:
    """An endpoint and its port, held but not listened at."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        yield f"tcp:127.0.0.1:{sock.getsockname()[1]}", sock.getsockname()[1]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **_: seen.append(name))
    return seen


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doors.FRONT_ENDS, "telnet", lambda desk: lambda peer: asyncio.Protocol())


def configuration(*endpoints: str) -> Any:
    listeners = [Listener(protocol="telnet", endpoint=EndpointText(endpoint)) for endpoint in endpoints]
    return SimpleNamespace(console=SimpleNamespace(connections=10), listeners=listeners)


@contextlib.contextmanager
def opened() -> Iterator[Doors]:
    desk: Any = SimpleNamespace(places=Places(), local_places=Places())
    made = Doors(desk, Certificates(""), {})
    try:
        yield made
    finally:
        made.close()


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_what_the_mail_still_has_is_opened_when_it_is_free(place: tuple[str, int], events: list[str]) -> None:
    """The file may be newer than what is in force: it was changed again while this change was followed."""
    endpoint, port = place

    async def main() -> None:
        with opened() as made:
            with socket.create_server(("127.0.0.1", port)):
                made.heed(Told(changed=True, mail=(endpoint,)))
                assert await made.follow(configuration(endpoint)) == []
            made.heed(Told(leave=(endpoint,)))
            made.heed(Told(problem="workers could not begin", mail=("tcp:*:25",)))
            assert await made.follow(configuration(endpoint)) == []
            assert listens(port)
            assert events == []

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_what_becomes_the_mails_while_it_is_opened_is_let_go(
    place: tuple[str, int], events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, port = place
    real = transport.Listener.open

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with opened() as made:

            def open_late(listener: transport.Listener, *arguments: Any) -> None:
                real(listener, *arguments)
                loop.call_soon_threadsafe(made.heed, Told(leave=(endpoint,)))

            monkeypatch.setattr(transport.Listener, "open", open_late)
            assert await made.follow(configuration(endpoint)) == []
            assert not listens(port)
            assert events == []

    asyncio.run(asyncio.wait_for(main(), LIMIT))


def test_what_somebody_else_has_is_told(place: tuple[str, int], events: list[str]) -> None:
    endpoint, port = place

    async def main() -> None:
        with opened() as made, socket.create_server(("127.0.0.1", port)):
            [problem] = await made.follow(configuration(endpoint))
            assert "in use" in problem
            assert events == ["listener-failed"]

    asyncio.run(asyncio.wait_for(main(), LIMIT))

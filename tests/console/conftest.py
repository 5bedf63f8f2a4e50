"""What the tests of the telnet console share: an office, the log as a list, a conversation at a listener."""

from __future__ import annotations

import asyncio

import pytest
from telnet_client import TelnetClient

from mailserver import maillog
from mailserver.mta import guesses


@pytest.fixture
def office(tmp_path, monkeypatch):
    perspectives = pytest.importorskip("perspectives", reason="the extra `console` is not installed")
    monkeypatch.setattr(guesses.Line, "FREE", 1000)
    office = perspectives.Office(tmp_path)
    yield office
    office.pool.close()


@pytest.fixture
def events(monkeypatch):
    """Events logged, as (name, fields)."""
    seen = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
    return seen


@pytest.fixture
def play(office):
    """Play a conversation with clients at the office's telnet listener; then nobody is connected."""
    from mailserver.console import telnet

    def play(*conversations, endpoint="tcp:127.0.0.1:0", **settings):
        async def talk(place, conversation):
            async with await TelnetClient.to(place, **settings) as client:
                await conversation(client)

        async def whole():
            unhandled = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            with office.listening(endpoint, telnet) as listener:
                place = listener.port or listener.endpoint.target
                async with asyncio.timeout(30):
                    await asyncio.gather(*(talk(place, conversation) for conversation in conversations))
                    await office.connections.wait_empty()
            assert unhandled == []

        asyncio.run(whole())

    return play

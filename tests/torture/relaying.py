"""A server that takes submitted mail and hands it to smarthosts, which are the test's, for torture by kills."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import serving
from remote_host import Taken
from torture.clients import whole_id
from torture.running import Server

DRAIN_SECONDS = 60.0
SENDER = "user0@example.test"
SETTINGS = """
[[listener]]
protocol = "submission"
endpoint = "unix:{socket}"

[[listener]]
protocol = "submission"
endpoint = "tls:127.0.0.1:{tls}"

[submission]
messages_per_hour = 0
messages_per_day = 0
"""
RELAY = """
[[relay]]
name = "{name}"
hosts = ["127.0.0.1:{port}"]
tls = "opportunistic"
connections = 20
{whose}
"""


class Relaying(NamedTuple):
    """Where it takes mail in, a socket and a port with TLS, and the ports of its smarthosts by name."""

    server: Server
    socket: Path
    tls: int
    smarthosts: dict[str, int]


@contextlib.contextmanager
def relaying(root: Path, routes: Mapping[str, str]) -> Iterator[Relaying]:
    """Not started; at the end stopped, and nothing may be left of it.

    `routes` are the smarthosts, each with the line that says whose mail it gets.
    """
    ports = serving.Ports()
    socket, tls = root / "submission", ports.take()
    smarthosts = {name: ports.take() for name in routes}
    relays = [RELAY.format(name=name, port=port, whose=routes[name]) for name, port in smarthosts.items()]
    server = Server(root, more=SETTINGS.format(socket=socket, tls=tls) + "".join(relays))
    try:
        yield Relaying(server, socket, tls, smarthosts)
        server.stop()
    finally:
        if server.started and server.process.poll() is None:
            server.kill()
        ports.close()
    server.assert_no_bugs()
    assert server.staged() == []


async def drained(server: Server) -> None:
    """Wait until the queue is empty."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while left := server.queued():
        assert time.monotonic() < deadline, f"{len(left)} messages were not sent again"
        await asyncio.sleep(0.05)


def arrived(message: Taken) -> str:
    """The id of a message as the smarthost has it, which has to be whole."""
    mail_id = whole_id(message.wire.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
    assert mail_id, f"the smarthost got a torn message:\n{message.wire[:300]!r}"
    return mail_id

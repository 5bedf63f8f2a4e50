"""Operators at the telnet of a started server: over UNIX socket, loopback and TLS, while mail comes in."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Iterator
from typing import NamedTuple

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

import serving
from telnet_client import TelnetClient


class Begun(NamedTuple):
    site: serving.Site
    server: serving.Server
    smtp: int
    telnet: int
    tls: int

    @property
    def socket(self) -> str:
        return str(self.site.root / "telnet.sock")

    def send(self, recipient: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=serving.LIMIT) as client:
            client.sendmail("a@client.test", [recipient], "Subject: x\n\ny\n")


@pytest.fixture
def begun() -> Iterator[Begun]:
    with serving.site() as site:
        ports = [site.ports.take() for _ in range(3)]
        listeners = [
            ("smtp", f"tcp:127.0.0.1:{ports[0]}"),
            ("telnet", f"tcp:127.0.0.1:{ports[1]}"),
            ("telnet", f"tls:127.0.0.1:{ports[2]}"),
            ("telnet", f"unix:{site.root}/telnet.sock"),
        ]
        site.configure(listeners, top="workers = 1\n")
        site.write("operators/owen", f"{serving.HASH}\nrole = owner\n")
        with site.serve() as server:
            at = server.event("console-serving")["listeners"].split()
            assert at == [endpoint for protocol, endpoint in listeners if protocol == "telnet"]
            yield Begun(site, server, *ports)


def test_an_owner_administers_while_mail_comes_in(begun):
    async def conversation():
        async with await TelnetClient.to(begun.socket) as client:
            await client.until("owner> $")
            client.enter("user add carol@example.test")
            for question in ("Password: $", "Password again: $"):
                await client.until(question)
                client.enter("horse battery staple")
            await client.until("> $")
            await asyncio.to_thread(begun.send, "carol@example.test")
            shown = await client.ask("mailbox show carol@example.test")
            assert ["messages", "1"] in [line.split() for line in shown]
            shown = await client.ask("session list")
            assert any(" telnet " in line for line in shown)
            client.enter("events")
            async with asyncio.timeout(10):
                while not any(audit["operation"] == "events" for audit in begun.server.events("audit")):
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(begun.send, "ann@example.test")
            await client.until_shown("event=received.*to=ann@example.test")
            client.type("\x03")
            await client.until("> $")
            assert await client.ask("reload") == ["the server serves with what the files say"]
            shown = await client.ask("status")
            assert ["workers", "1"] in [line.split() for line in shown]
            client.enter("status --watch")
            await client.until_shown(r"version +pid")
            client.type("\x03")
            await client.until("> $")

    asyncio.run(conversation())


def test_over_tls_and_loopback_with_a_password(begun):
    trusted = ssl.create_default_context(cafile=str(begun.site.certificate))

    async def conversation(port, tls):
        async with await TelnetClient.to(port, ssl=tls) as client:
            await client.log_in("owen", serving.PASSWORD)
            assert (await client.ask("domain list"))[1].split()[0] == "example.test"
        async with await TelnetClient.to(port, ssl=tls) as client:
            await client.log_in("ann@example.test", serving.PASSWORD)
            assert await client.ask("domain list") == ["no such command"]

    asyncio.run(conversation(begun.telnet, None))
    asyncio.run(conversation(begun.tls, trusted))


def test_the_server_stops_and_says_goodbye_to_operators(begun):
    async def conversation():
        async with await TelnetClient.to(begun.socket) as client:
            await client.until("owner> $")
            client.enter("stop")
            await client.until("Type yes to go on: $")
            client.enter("yes")
            await client.until_closed()

    asyncio.run(conversation())
    begun.server.event("stopped")


def test_the_python_prompt_is_switched_on_and_off_while_it_serves(begun):
    listeners = [("telnet", f"unix:{begun.socket}")]

    async def conversation():
        async with await TelnetClient.to(begun.socket) as client:
            await client.until("owner> $")
            assert await client.ask("python") == ["no such command"]
            begun.site.settings(listeners, "[console]\npython = true\n", top="workers = 1\n")
            assert await client.ask("reload") == ["the server serves with what the files say"]
            await client.ask("python", ">>> $")
            shown = await client.ask('(await perform("status")).workers', ">>> $")
            assert shown == ["1"]

    asyncio.run(conversation())
    assert begun.server.event("python")["operator"]

"""No Twisted reactor is imported in the process of the consoles, whatever operators do there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

PROGRAM = """
import asyncio, pathlib, sys

from perspectives import Office
from serving import PASSWORD
from telnet_client import TelnetClient
from twisted.spread import pb

from mailserver.console import broker, telnet
from mailserver.transport.connections import Connections
from mailserver.transport.listener import Peer
from mailserver.transport.twisted import Bounds, Hosted

async def by_telnet(place):
    async with await TelnetClient.to(place) as client:
        await client.log_in("owen", PASSWORD)
        await client.ask("domain list")
        await client.ask("dom\\tli\\t")
        client.enter("events")
        client.type("\\x03")
        await client.until_shown("> events\\n.*> $")
        await client.ask("python", ">>> $")
        print((await client.ask("6 * 7", ">>> $"))[-1])
        client.enter("exit()")
        await client.until("owner> $")
        client.enter("logout")
        await client.until_closed()

async def by_broker(place):
    loop, factory = asyncio.get_running_loop(), pb.PBClientFactory()
    peer = Peer("127.0.0.1", place, None, False)
    hosted = lambda: Hosted("pb", factory, peer, bounds=Bounds(idle=60), connections=Connections())
    transport, _ = await loop.create_connection(hosted, "127.0.0.1", place)
    root = await factory.getRootObject().asFuture(loop)
    me = await root.callRemote("authenticate", "owen", PASSWORD).asFuture(loop)
    domains = await me.callRemote("domains").asFuture(loop)
    print(len(await domains.callRemote("list").asFuture(loop)))
    transport.close()

async def main():
    office = Office(pathlib.Path(sys.argv[1]))
    office.console.python = True
    with office.listening("tcp:127.0.0.1:0", telnet) as one, office.listening("tcp:127.0.0.1:0", broker) as two:
        await by_telnet(one.port)
        await by_broker(two.port)
        await office.connections.wait_empty()
    office.pool.close()

asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith("twisted.internet.") and "reactor" in name))
"""


def test_a_telnet_and_a_broker_dialogue(tmp_path):
    paths = os.pathsep.join(path for path in sys.path if path)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (result.stdout, result.stderr) == ("42\n2\n[]\n", "")

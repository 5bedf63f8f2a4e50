"""A reload while hosts stall: the new queue begins at once, and nothing of the old one is lost or comes twice."""

from __future__ import annotations

import asyncio
import signal
import smtplib
import time
from collections.abc import Iterator

import pytest
import serving
from remote_host import STALL, USUAL, RemoteHost, Script

LIMITS = '[limits]\ndrain_timeout = "5m"\n'
RELAY = '[[relay]]\nname = "{name}"\nhosts = ["127.0.0.1:{port}"]\ntls = "none"\nrecipient_domains = ["{name}.test"]\n'
PATIENCE = 60  # seconds until the test gives up; a fifth of what the old queue might wait


@pytest.fixture
def site() -> Iterator[serving.Site]:
    with serving.site() as made:
        yield made


def send(port: int, to: str) -> None:
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("ann@example.test", f"{to}@example.test", f"Subject: {to}\r\n\r\nx\r\n")


@pytest.mark.parametrize("step", ["greeting", "EHLO", "RCPT", "DATA"])
def test_hosts_that_stall_do_not_hold_up_the_next_queue(site: serving.Site, step: str) -> None:
    ports = serving.Ports()
    port = ports.take()

    async def wait(host: RemoteHost) -> None:
        while host.open < 5:
            await asyncio.sleep(0.02)

    async def story() -> float:
        script: Script = {step: [*[STALL] * 5, USUAL[step]]}  # type: ignore[list-item]
        async with RemoteHost(script) as slow, RemoteHost() as well:
            relays = RELAY.format(name="slow", port=slow.port) + RELAY.format(name="well", port=well.port)
            site.configure([("smtp", f"tcp:127.0.0.1:{port}")], LIMITS + relays)
            for name in ("slow", "well"):
                site.write(f"domains/example.test/aliases/{name}", f"x@{name}.test\n")
            with await asyncio.to_thread(site.serve) as server:
                for _ in range(5):
                    await asyncio.to_thread(send, port, "slow")
                await wait(slow)
                server.signal(signal.SIGHUP)
                await asyncio.to_thread(server.event, "reloaded")
                began = time.monotonic()
                await asyncio.to_thread(send, port, "well")
                await well.received()
                took = time.monotonic() - began
                while len(slow.messages) < 5:
                    await asyncio.sleep(0.02)
                assert len(well.messages) == 1
                return took

    async def bounded() -> float:
        async with asyncio.timeout(PATIENCE):
            return await story()

    ports.close()
    print(f"{step}: {asyncio.run(bounded()):.2f} seconds from the reload to the next delivery")

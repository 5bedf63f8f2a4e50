"""`relay list` says what keeps a relay from taking mail, as long as it does."""

from __future__ import annotations

import asyncio
import json
import smtplib
from collections.abc import Iterator

import pytest
import serving
from remote_host import RemoteHost, Script

LOGIN = "250-remote.test\n250 AUTH PLAIN"
RELAY = """[[relay]]
name = "out"
hosts = ["127.0.0.1:{port}"]
tls = "none"
user = "us"
secret_file = "secrets/out"
default = true
"""


@pytest.fixture
def site() -> Iterator[serving.Site]:
    with serving.site() as made:
        yield made


def test_a_refused_login_is_listed_until_it_is_taken(site: serving.Site) -> None:
    ports = serving.Ports()
    port = ports.take()
    script: Script = {"EHLO": LOGIN, "AUTH": ["535 5.7.8 no", "235 2.7.0 welcome"]}

    def send() -> None:
        with smtplib.SMTP("127.0.0.1", port) as client:
            client.sendmail("bob@example.test", "away@example.test", "Subject: x\r\n\r\nx\r\n")

    def trouble() -> str:
        listed = site.run("relay", "list", "--json")
        assert listed.returncode == 0, listed.stderr
        (relay,) = json.loads(listed.stdout)
        return str(relay["trouble"])

    async def story() -> None:
        async with RemoteHost(script) as host:
            site.configure([("smtp", f"tcp:127.0.0.1:{port}")], RELAY.format(port=host.port))
            site.write("domains/example.test/aliases/away", "x@elsewhere.test\n")
            site.write("secrets/out", "pass word\n")
            (site.config / "secrets" / "out").chmod(0o600)
            assert await asyncio.to_thread(trouble) == "", "nothing is known before a server runs"
            with await asyncio.to_thread(site.serve) as server:
                assert await asyncio.to_thread(trouble) == ""
                await asyncio.to_thread(send)
                await asyncio.to_thread(server.event, "relay-trouble")
                assert "check the user's name and the secret file" in await asyncio.to_thread(trouble)
                await asyncio.to_thread(site.run, "queue", "retry", "--all")
                await host.received()
                while await asyncio.to_thread(trouble):
                    await asyncio.sleep(0.05)

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await story()

    ports.close()
    asyncio.run(bounded())

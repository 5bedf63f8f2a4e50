"""Without a relay: a started server asks real name servers where mail for a domain goes, and takes it there.

What the names mean, one by one, is in `tests/delivery/test_real_names.py`. Here is what a user sees of it: mail
arrives, waits in the queue, or comes back with the reason.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import re
import smtplib
import ssl
from pathlib import Path

import name_servers
import pytest
import serving
import trustme
from remote_host import RemoteHost

# The server with another resolver, another port 25 and another opinion of which addresses are its own.
ELSEWHERE = """
import sys
from functools import partial
from mailserver.cli import main
from mailserver.delivery import ways
from mailserver.server import outgoing
names, port = int(sys.argv.pop(1)), int(sys.argv.pop(1))
outgoing.DnsResolver = partial(outgoing.DnsResolver, [("127.0.0.1", names)])
ways.DirectMx = partial(ways.DirectMx, port=port, ours=lambda address: address == "127.0.0.99")
main()
"""
ZONES = {
    "there.test": """\
open 60 IN MX 10 mx
alone 60 IN A 127.0.0.1
second 60 IN MX 10 nowhere
second 60 IN MX 20 mx
alias 60 IN CNAME open
null 60 IN MX 0 .
us 60 IN MX 10 here
here 60 IN A 127.0.0.99
mx 60 IN A 127.0.0.1
""",
    "broken.test": "@ 60 IN NONSENSE\n",
    "signed.test": "bad 60 IN MX 10 mx\nmx 60 IN A 127.0.0.1\n_{port}._tcp.mx 60 IN TLSA 3 1 1 {digest}\n",
}
EXPECTED = {
    "open.there.test": ("delivered", "2.0.0"),
    "alone.there.test": ("delivered", "2.0.0"),
    "second.there.test": ("delivered", "2.0.0"),
    "alias.there.test": ("delivered", "2.0.0"),
    "null.there.test": ("failed", "5.1.10"),
    "us.there.test": ("failed", "5.4.6"),
    "nothing.there.test": ("failed", "5.1.2"),
    "broken.test": ("deferred", "4.4.3"),
    "bad.signed.test": ("deferred", "4.7.5"),
}
TLS = {"EHLO": "250-remote.test\n250 STARTTLS"}


def domains(outcome: str) -> set[str]:
    return {domain for domain, (kind, _) in EXPECTED.items() if kind == outcome}


@pytest.fixture
def context() -> ssl.SSLContext:
    """Of a host that proves nothing."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("remote.test").configure_cert(made)
    return made


def test_mail_goes_where_the_names_say(context: ssl.SSLContext) -> None:
    port = name_servers.free_port()
    zones = {zone: text.format(port=port, digest="00" * 32) for zone, text in ZONES.items()}

    async def whole() -> RemoteHost:
        async with RemoteHost(TLS, tls=context, wants_port=port) as host:
            await asyncio.to_thread(user_and_operator, site, names.validator, port)
            return host

    with name_servers.names(zones, frozenset({"signed.test"})) as names, serving.site() as site:
        host = asyncio.run(whole())
        reports = [email.message_from_bytes(one, policy=email.policy.default) for one in site.messages("ann")]
    assert sorted(rcpt for message in host.messages for rcpt in message.rcpts) == sorted(
        f"RCPT TO:<x@{domain}>" for domain in domains("delivered")
    )
    assert host.commands.count("STARTTLS") == host.connections
    told = re.compile(r"Final-Recipient: rfc822; ?x@(\S+)\n.*?Status: (\S+)\n", re.DOTALL)
    found = {told.findall(str(report))[0] for report in reports}
    assert found == {(domain, EXPECTED[domain][1]) for domain in domains("failed")}


def user_and_operator(site: serving.Site, names: int, port: int) -> None:
    """Submit to every domain, and look at the log and at the queue."""
    socket = site.root / "submission.sock"
    site.configure([("submission", f"unix:{socket}")])
    command = (*serving.PYTHON, "-c", ELSEWHERE, str(names), str(port))
    with site.serve(command=command) as server:
        for domain in EXPECTED:
            submit(socket, f"x@{domain}")
        for domain, (kind, status) in EXPECTED.items():
            told = server.says(rf"event=delivery id=\S+ to=x@{re.escape(domain)} .*")[0]
            assert f" outcome={kind} " in told
            assert f"{status} " in told
        for _ in domains("failed") | domains("delivered"):
            server.event("settled")
        listed = json.loads(site.run("queue", "list", "--json").stdout)
    waiting = {recipient for one in listed for recipient in one["recipients"]}
    assert waiting == {f"x@{domain}" for domain in domains("deferred")}


def submit(socket: Path, to: str) -> None:
    """A message of Ann's, by a process that may send as anybody here."""
    client = smtplib.LMTP(str(socket), timeout=serving.LIMIT)
    client.ehlo_msg = "ehlo"
    with client:
        client.sendmail("ann@example.test", [to], "Subject: hello\r\n\r\nHello.\r\n")

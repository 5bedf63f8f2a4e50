"""Straight to mail exchangers by real name servers: Knot has the zones, Unbound says what is signed."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import name_servers
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from deliveries import delivery
from remote_host import RemoteHost

from mailserver.delivery.limits import Limits
from mailserver.delivery.mta_sts import Policies
from mailserver.delivery.mx import DirectMx
from mailserver.delivery.policy_hosts import PolicyHosts
from mailserver.delivery.security import Authorities
from mailserver.delivery.session import Manner
from mailserver.pool import Pool
from mailserver.queue.courier import Outcome
from mailserver.transport.resolver import DnsResolver

TLS = {"EHLO": "250-remote.test\n250 STARTTLS"}
ZONES = {
    "plain.test": """\
open 60 IN MX 10 mx
alone 60 IN A 127.0.0.1
null 60 IN MX 0 .
dangling 60 IN MX 10 nowhere
us 60 IN MX 10 here
here 60 IN A 127.0.0.99
alias 60 IN CNAME open
second 60 IN MX 10 nowhere
second 60 IN MX 20 mx
mx 60 IN A 127.0.0.1
promise 60 IN MX 10 mx
_mta-sts.promise 60 IN TXT "v=STSv1; id=1;"
mta-sts.promise 60 IN A 127.0.0.1
""",
    "broken.test": "@ 60 IN NONSENSE\n",
    "bogus.test": "@ 60 IN MX 10 mx.plain.test.\n",
}
SIGNED = """\
good 60 IN MX 10 mx-good
bad 60 IN MX 10 mx-bad
mx-good 60 IN A 127.0.0.1
mx-bad 60 IN A 127.0.0.1
_{port}._tcp.mx-good 60 IN TLSA 3 1 1 {good}
_{port}._tcp.mx-bad 60 IN TLSA 3 1 1 {bad}
"""


class World(NamedTuple):
    """Name servers, a host's port and certificate, the port of a web server, and who is trusted."""

    servers: name_servers.Names
    port: int
    context: ssl.SSLContext
    web_port: int
    authorities: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    path = tmp_path_factory.mktemp("names")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path / "ca.pem"))
    issued = ca.issue_cert("mx.plain.test", "mta-sts.promise.plain.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    port = name_servers.free_port()
    signed = SIGNED.format(port=port, good=hashlib.sha256(key).hexdigest(), bad="00" * 32)
    with name_servers.names(
        {**ZONES, "signed.test": signed}, frozenset({"signed.test"}), frozenset({"bogus.test"})
    ) as servers:
        yield World(servers, port, context, name_servers.free_port(), path / "ca.pem")


async def send(world: World, path: Path, to: str) -> Outcome:
    pool = Pool("test", 2, 20)
    names = DnsResolver([("127.0.0.1", world.servers.validator)])
    authorities = Authorities(pool, str(world.authorities))
    courier = DirectMx(
        names,
        Policies(names, PolicyHosts(names, authorities, world.web_port)),
        authorities,
        Manner("here.test", Limits(connect=2)),
        pool,
        ours=lambda address: address == "127.0.0.99",
        port=world.port,
    )
    (outcome,) = await courier.deliver(delivery(path, f"ann@{to}"))
    await courier.close()
    pool.close()
    return outcome


@pytest.mark.parametrize(
    ("domain", "kind", "status"),
    [
        ("open.plain.test", "delivered", "2.0.0"),
        ("alone.plain.test", "delivered", "2.0.0"),
        ("alias.plain.test", "delivered", "2.0.0"),
        ("second.plain.test", "delivered", "2.0.0"),
        ("good.signed.test", "delivered", "2.0.0"),
        ("bad.signed.test", "deferred", "4.7.5"),
        ("null.plain.test", "failed", "5.1.10"),
        ("dangling.plain.test", "failed", "5.4.4"),
        ("us.plain.test", "failed", "5.4.6"),
        ("nothing.plain.test", "failed", "5.1.2"),
        ("broken.test", "deferred", "4.4.3"),
        ("bogus.test", "deferred", "4.4.3"),
    ],
)
def test_domains(world: World, tmp_path: Path, domain: str, kind: str, status: str) -> None:
    async def whole() -> None:
        async with RemoteHost(TLS, tls=world.context, wants_port=world.port) as host:
            outcome = await send(world, tmp_path, domain)
            assert (outcome.kind.value, outcome.status) == (kind, status)
            assert len(host.messages) == (kind == "delivered")
            assert ("STARTTLS" in host.commands) == (host.connections > 0)

    asyncio.run(whole())


@pytest.mark.parametrize("tls", [True, False])
def test_a_promise_of_mta_sts(world: World, tmp_path: Path, tls: bool) -> None:
    async def policy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        writer.write(b"version: STSv1\nmode: enforce\nmx: mx.plain.test\nmax_age: 86400\n")
        await writer.drain()
        writer.close()

    async def whole() -> None:
        web = await asyncio.start_server(policy, "127.0.0.1", world.web_port, ssl=world.context)
        async with web, RemoteHost(TLS if tls else {}, tls=world.context, wants_port=world.port) as host:
            outcome = await send(world, tmp_path, "promise.plain.test")
            assert (outcome.kind.value, outcome.status) == (
                ("delivered", "2.0.0") if tls else ("deferred", "4.7.4")
            )
            assert len(host.messages) == tls

    asyncio.run(whole())

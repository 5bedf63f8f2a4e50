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
us 60 IN MX 10 here
here 60 IN A 127.0.0.99
mx 60 IN A 127.0.0.1
; hosts that are no use, and others
dangling 60 IN MX 10 nowhere
second 60 IN MX 10 nowhere
second 60 IN MX 20 mx
closed 60 IN MX 10 nobody
closed 60 IN MX 20 mx
best 60 IN MX 20 nobody
best 60 IN MX 10 mx
nobody 60 IN A 127.0.0.2
both 60 IN MX 10 mx-both
mx-both 60 IN AAAA ::1
mx-both 60 IN A 127.0.0.1
text 60 IN TXT "no mail here"
; aliases
alias 60 IN CNAME open
alias-alone 60 IN CNAME alone
alias-of-alias 60 IN CNAME alias
alias-nowhere 60 IN CNAME nowhere
alias-null 60 IN CNAME null
to-alias 60 IN MX 10 mx-alias
mx-alias 60 IN CNAME mx
circle 60 IN CNAME circles
circles 60 IN CNAME circle
; answers that fail
half 60 IN MX 10 mx.broken.test.
half 60 IN MX 20 mx
all 60 IN MX 10 mx.broken.test.
all 60 IN MX 20 nowhere
; TLSA in a zone that is not signed
careless 60 IN MX 10 mx-careless
mx-careless 60 IN A 127.0.0.1
_{port}._tcp.mx-careless 60 IN TLSA 3 1 1 {other}
; MTA-STS
promise 60 IN MX 10 mx
_mta-sts.promise 60 IN TXT "v=STSv1; id=1;"
mta-sts.promise 60 IN A 127.0.0.1
""",
    "broken.test": "@ 60 IN NONSENSE\n",
    "bogus.test": "@ 60 IN MX 10 mx.plain.test.\nmx 60 IN A 127.0.0.1\n_{port}._tcp.mx 60 IN TLSA 3 1 1 {key}\n",
    "signed.test": """\
good 60 IN MX 10 mx-good
mx-good 60 IN A 127.0.0.1
_{port}._tcp.mx-good 60 IN TLSA 3 1 1 {key}
whole 60 IN MX 10 mx-whole
mx-whole 60 IN A 127.0.0.1
_{port}._tcp.mx-whole 60 IN TLSA 3 0 2 {certificate}
authority 60 IN MX 10 mx-authority
mx-authority 60 IN A 127.0.0.1
_{port}._tcp.mx-authority 60 IN TLSA 2 1 1 {authority}
stranger 60 IN MX 10 mx-stranger
mx-stranger 60 IN A 127.0.0.1
_{port}._tcp.mx-stranger 60 IN TLSA 2 1 1 {authority}
bad 60 IN MX 10 mx-bad
mx-bad 60 IN A 127.0.0.1
_{port}._tcp.mx-bad 60 IN TLSA 3 1 1 {other}
several 60 IN MX 10 mx-several
mx-several 60 IN A 127.0.0.1
_{port}._tcp.mx-several 60 IN TLSA 3 1 1 {other}
_{port}._tcp.mx-several 60 IN TLSA 3 1 1 {key}
alias 60 IN CNAME good
to-alias 60 IN MX 10 mx-alias
mx-alias 60 IN CNAME mx-good
none 60 IN MX 10 mx-none
mx-none 60 IN A 127.0.0.1
unusable 60 IN MX 10 mx-unusable
mx-unusable 60 IN A 127.0.0.1
_{port}._tcp.mx-unusable 60 IN TLSA 1 1 1 {other}
lost 60 IN MX 10 mx-lost
mx-lost 60 IN A 127.0.0.1
_{port}._tcp.mx-lost 60 IN CNAME _{port}._tcp.mx.bogus.test.
outside 60 IN MX 10 mx-careless.plain.test.
""",
}


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
    issued = ca.issue_cert("mx.plain.test", "mta-sts.promise.plain.test", "mx-authority.signed.test")
    chain = issued.private_key_and_cert_chain_pem.bytes() + ca.cert_pem.bytes()
    (path / "chain.pem").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "chain.pem")
    leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    port = name_servers.free_port()
    values = {
        "port": port,
        "key": key_digest(leaf),
        "certificate": hashlib.sha512(leaf.public_bytes(Encoding.DER)).hexdigest(),
        "authority": key_digest(x509.load_pem_x509_certificate(ca.cert_pem.bytes())),
        "other": "00" * 32,
    }
    zones = {zone: text.format(**values) for zone, text in ZONES.items()}
    with name_servers.names(zones, frozenset({"signed.test"}), frozenset({"bogus.test"})) as servers:
        yield World(servers, port, context, name_servers.free_port(), path / "ca.pem")


def key_digest(certificate: x509.Certificate) -> str:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


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


DELIVERED = ("delivered", "2.0.0")
NO_ADDRESS, NO_DOMAIN, NO_MAIL = ("failed", "5.4.4"), ("failed", "5.1.2"), ("failed", "5.1.10")
NO_ANSWER, NO_PROOF, NO_TLS = ("deferred", "4.4.3"), ("deferred", "4.7.5"), ("deferred", "4.7.4")


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("open.plain.test", DELIVERED),
        ("alone.plain.test", DELIVERED),
        ("null.plain.test", NO_MAIL),
        ("us.plain.test", ("failed", "5.4.6")),
        ("nothing.plain.test", NO_DOMAIN),
        ("text.plain.test", NO_ADDRESS),
        # hosts that are no use, and others
        ("dangling.plain.test", NO_ADDRESS),
        ("second.plain.test", DELIVERED),
        ("closed.plain.test", DELIVERED),
        ("both.plain.test", DELIVERED),
        # aliases
        ("alias.plain.test", DELIVERED),
        ("alias-alone.plain.test", DELIVERED),
        ("alias-of-alias.plain.test", DELIVERED),
        ("alias-nowhere.plain.test", NO_DOMAIN),
        ("alias-null.plain.test", NO_MAIL),
        ("to-alias.plain.test", DELIVERED),
        ("circle.plain.test", NO_ANSWER),
        # SERVFAIL: of a zone that is not served, of one whose signatures are wrong, of a host
        ("broken.test", NO_ANSWER),
        ("bogus.test", NO_ANSWER),
        ("half.plain.test", DELIVERED),
        ("all.plain.test", NO_ANSWER),
        # TLSA
        ("good.signed.test", DELIVERED),
        ("whole.signed.test", DELIVERED),
        ("authority.signed.test", DELIVERED),
        ("several.signed.test", DELIVERED),
        ("alias.signed.test", DELIVERED),
        ("to-alias.signed.test", DELIVERED),
        ("none.signed.test", DELIVERED),
        ("unusable.signed.test", DELIVERED),
        ("bad.signed.test", NO_PROOF),
        ("stranger.signed.test", NO_PROOF),
        ("lost.signed.test", NO_PROOF),
        ("careless.plain.test", DELIVERED),
        ("outside.signed.test", DELIVERED),
    ],
)
def test_domains(world: World, tmp_path: Path, domain: str, expected: tuple[str, str]) -> None:
    async def whole() -> None:
        async with RemoteHost(TLS, tls=world.context, wants_port=world.port) as host:
            outcome = await send(world, tmp_path, domain)
            assert (outcome.kind.value, outcome.status) == expected
            assert len(host.messages) == (expected == DELIVERED)
            assert ("STARTTLS" in host.commands) == (host.connections > 0)

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("open.plain.test", DELIVERED),
        ("none.signed.test", DELIVERED),
        ("careless.plain.test", DELIVERED),
        ("good.signed.test", NO_TLS),
        ("unusable.signed.test", NO_TLS),
    ],
)
def test_domains_whose_host_offers_no_tls(
    world: World, tmp_path: Path, domain: str, expected: tuple[str, str]
) -> None:
    async def whole() -> None:
        async with RemoteHost(wants_port=world.port) as host:
            outcome = await send(world, tmp_path, domain)
            assert (outcome.kind.value, outcome.status) == expected
            assert len(host.messages) == (expected == DELIVERED)

    asyncio.run(whole())


def test_the_best_host_comes_first(world: World, tmp_path: Path) -> None:
    async def whole() -> None:
        async with (
            RemoteHost(wants_port=world.port) as best,
            RemoteHost(address="127.0.0.2", wants_port=world.port) as other,
        ):
            for domain, host in (("best.plain.test", best), ("closed.plain.test", other)):
                for n in range(1, 4):
                    assert (await send(world, tmp_path, domain)).kind.value == "delivered"
                    assert len(host.messages) == n

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

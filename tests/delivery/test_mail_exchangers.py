"""Which hosts get a domain's mail, which of them may be spoken with, and what TLS must prove."""

from __future__ import annotations

import asyncio
import hashlib
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from deliveries import delivery
from fake_names import TROUBLE, FakeNames
from remote_host import HANGUP, RemoteHost, Script

from mailserver.delivery.limits import Limits
from mailserver.delivery.mta_sts import Policies, PolicyError
from mailserver.delivery.mx import DirectMx
from mailserver.delivery.ourselves import is_ours
from mailserver.delivery.security import Authorities
from mailserver.delivery.session import Manner
from mailserver.pool import Pool
from mailserver.queue.courier import Outcome
from mailserver.transport.resolver import Tlsa

LIMITS = Limits(connect=1, greeting=1, tls=1, mail=1, recipient=1, data=1, end=1, quit=1)
TLS = "250-remote.test\n250 STARTTLS"


class World:
    """Hosts on 127.0.0.x at one port, names for them, an authority, and a courier to try them with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = FakeNames()
        self.ca = trustme.CA()
        self.child = self.ca.create_child_ca()
        self.ca.cert_pem.write_to_path(str(path / "ca.pem"))
        self.hosts: list[RemoteHost] = []
        self.port = 0
        self.ours = {"127.0.0.99"}
        self.policy: bytes | None = None
        self.fetched = 0

    async def host(self, name: str, script: Script | None = None, **more: Any) -> RemoteHost:
        """One more host, called `name`."""
        number = len(self.hosts) + 1
        host = RemoteHost(script or {}, address=f"127.0.0.{number}", wants_port=self.port, **more)
        await host.__aenter__()
        self.port = host.port
        self.hosts.append(host)
        self.names.hosts[name] = [host.address]
        return host

    def certificate(self, name: str, ca: trustme.CA | None = None) -> tuple[ssl.SSLContext, x509.Certificate]:
        issued = (ca or self.ca).issue_cert(name)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        return context, x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())

    def publish_policy(self, mode: str, *hosts: str, id: str = "1") -> None:
        self.names.txts["_mta-sts.there.test"] = [f"v=STSv1; id={id};"]
        lines = ["version: STSv1", f"mode: {mode}", "max_age: 86400", *(f"mx: {host}" for host in hosts)]
        self.policy = "\r\n".join(lines).encode()

    async def fetch(self, domain: str) -> bytes:
        self.fetched += 1
        if self.policy is None:
            raise PolicyError("none")
        return self.policy

    def sign(self, *names: str) -> None:
        self.names.secure.update(names)

    def publish_tlsa(self, host: str, *records: Tlsa, secure: bool = True) -> None:
        name = f"_{self.port}._tcp.{host}"
        self.names.tlsas[name] = records
        if secure:
            self.sign("there.test", host, name)

    async def send(self) -> Outcome:
        pool = Pool("test", 2, 20)
        courier = DirectMx(
            self.names,
            Policies(self.names, self.fetch),
            Authorities(pool, str(self.path / "ca.pem")),
            Manner("here.test", LIMITS),
            pool,
            ours=self.ours.__contains__,
            port=self.port or 9,
            chance=random.Random(1),
        )
        (outcome,) = await courier.deliver(delivery(self.path))
        await courier.close()
        pool.close()
        return outcome


def play(path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def whole() -> None:
        world = World(path)
        try:
            await test(world)
        finally:
            for host in world.hosts:
                await host.__aexit__()

    asyncio.run(whole())


def result(outcome: Outcome) -> tuple[str, str]:
    return outcome.kind.value, outcome.status


TAKEN = ("delivered", "2.0.0")


def test_the_lowest_preference_first(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        second, first = await world.host("b.test"), await world.host("a.test")
        world.names.mxs["there.test"] = [(20, "b.test"), (10, "a.test")]
        outcome = await world.send()
        assert result(outcome) == TAKEN
        assert outcome.remote == f"a.test[127.0.0.2]:{world.port}"
        assert (first.connections, second.connections) == (1, 0)

    play(tmp_path, test)


@pytest.mark.parametrize(
    "script", [{"greeting": "421 busy"}, {"greeting": "554 no"}, {"EHLO": HANGUP}, {"MAIL": HANGUP}]
)
def test_the_next_one_when_the_first_is_of_no_use(tmp_path: Path, script: Script) -> None:
    async def test(world: World) -> None:
        await world.host("a.test", script)
        await world.host("b.test")
        world.names.mxs["there.test"] = [(20, "b.test"), (10, "a.test")]
        assert result(await world.send()) == TAKEN

    play(tmp_path, test)


def test_a_refusal_of_the_message_is_not_tried_elsewhere(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.host("a.test", {"RCPT": "450 4.2.0 greylisted"})
        other = await world.host("b.test")
        world.names.mxs["there.test"] = [(20, "b.test"), (10, "a.test")]
        assert result(await world.send()) == ("deferred", "4.2.0")
        assert other.connections == 0

    play(tmp_path, test)


def test_equal_preferences_share_the_load(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        hosts = [await world.host(f"{name}.test") for name in "abcd"]
        world.names.mxs["there.test"] = [(10, f"{name}.test") for name in "abcd"]
        chance = random.Random(7)
        first = set()
        for _ in range(40):
            courier = DirectMx(
                world.names,
                None,
                None,
                Manner("here.test", LIMITS),
                None,
                chance=chance,  # type: ignore[arg-type]
            )
            first.add((await courier._exchangers("there.test")).values[0].host)
        assert len(first) == len(hosts)

    play(tmp_path, test)


def test_without_mx_the_domain_is_the_host(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.host("there.test")
        assert result(await world.send()) == TAKEN

    play(tmp_path, test)


@pytest.mark.parametrize(
    ("mxs", "expected"),
    [
        (None, ("failed", "5.1.2")),
        (TROUBLE, ("deferred", "4.4.3")),
        ([(0, "")], ("failed", "5.1.10")),
        ([], ("failed", "5.4.4")),
        ([(10, "nowhere.test")], ("failed", "5.4.4")),
        ([(10, "192.0.2.1"), (20, "not a name"), (20, "\\000.test")], ("failed", "5.4.4")),
        ([(10, "nowhere.test"), (20, "trouble.test")], ("deferred", "4.4.3")),
        ([(10, "trouble.test"), (20, "nowhere.test")], ("deferred", "4.4.3")),
        ([(10, "here.test")], ("failed", "5.4.6")),
        ([(10, "alias-of-us.test"), (20, "open.test")], ("failed", "5.4.6")),
    ],
    ids=str,
)
def test_domains_without_a_usable_host(tmp_path: Path, mxs: Any, expected: tuple[str, str]) -> None:
    async def test(world: World) -> None:
        if mxs is not None:
            world.names.mxs["there.test"] = mxs
        world.names.hosts["trouble.test"] = TROUBLE
        world.names.hosts["here.test"] = ["127.0.0.50"]
        world.names.hosts["alias-of-us.test"] = ["127.0.0.50", "127.0.0.99"]
        opened = await world.host("open.test")
        outcome = await world.send()
        assert result(outcome) == expected
        assert outcome.code == 0
        if expected[1] in ("5.1.2", "5.1.10", "5.4.6"):
            assert outcome.remote == ""
        assert outcome.unreachable is (expected[0] == "deferred")
        assert opened.connections == 0

    play(tmp_path, test)


def test_a_backup_exchanger_hands_on_to_better_ones_only(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        best = await world.host("best.test", {"greeting": "421 4.3.2 later"})
        worse = await world.host("worse.test")
        world.names.mxs["there.test"] = [
            (10, "best.test"),
            (20, "here.test"),
            (20, "worse.test"),
            (30, "worse.test"),
        ]
        world.names.hosts["here.test"] = ["127.0.0.99"]
        assert result(await world.send()) == ("deferred", "4.3.2")
        assert (best.connections, worse.connections) == (1, 0)

    play(tmp_path, test)


def test_the_null_mx_beside_others_counts_for_nothing(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.host("a.test")
        world.names.mxs["there.test"] = [(0, ""), (10, "a.test")]
        assert result(await world.send()) == TAKEN

    play(tmp_path, test)


def test_fifty_exchangers_are_not_all_tried(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        host = await world.host("a.test", {"greeting": "421 4.3.2 busy"})
        for number in range(50):
            world.names.hosts[f"mx{number}.test"] = ["127.0.0.1"] * 50
        world.names.mxs["there.test"] = [(10, f"mx{number}.test") for number in range(50)]
        assert result(await world.send()) == ("deferred", "4.3.2")
        assert host.connections == LIMITS.hosts
        assert len([name for name in world.names.asked if name.startswith("mx")]) == 10

    play(tmp_path, test)


@pytest.mark.parametrize("greeting", ["554 5.7.1 we do not like you", "521 5.3.2 no mail here"])
def test_hosts_that_never_take_mail(tmp_path: Path, greeting: str) -> None:
    async def test(world: World) -> None:
        await world.host("a.test", {"greeting": greeting})
        await world.host("b.test", {"greeting": greeting})
        world.names.mxs["there.test"] = [(10, "a.test"), (20, "b.test")]
        assert result(await world.send()) == ("failed", greeting.split()[1])
        world.names.hosts["nobody.test"] = ["127.0.0.77"]
        world.names.mxs["there.test"].append((30, "nobody.test"))
        assert result(await world.send()) == ("deferred", "4.4.1"), "that one may come back"

    play(tmp_path, test)


def test_the_addresses_of_a_host_in_turn(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.host("a.test")
        world.names.hosts["a.test"] = ["::1", "127.0.0.77", "127.0.0.1"]
        world.names.mxs["there.test"] = [(10, "a.test")]
        outcome = await world.send()
        assert (result(outcome), outcome.remote) == (TAKEN, f"a.test[127.0.0.1]:{world.port}")

    play(tmp_path, test)


# TLS


def test_tls_where_it_is_offered(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        context, _ = world.certificate("somebody.else", trustme.CA())
        host = await world.host("there.test", {"EHLO": TLS}, tls=context)
        assert result(await world.send()) == TAKEN
        assert host.commands[:3] == ["EHLO here.test", "STARTTLS", "EHLO here.test"]

    play(tmp_path, test)


def test_clear_text_where_tls_is_broken_and_nothing_was_promised(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        host = await world.host("there.test", {"EHLO": TLS}, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        assert result(await world.send()) == TAKEN
        assert host.connections == 2

    play(tmp_path, test)


@pytest.mark.parametrize(
    ("mode", "pattern", "certificate", "expected"),
    [
        ("enforce", "mx.there.test", "mx.there.test", TAKEN),
        ("enforce", "*.there.test", "mx.there.test", TAKEN),
        ("enforce", "*.there.test", "*.there.test", TAKEN),
        ("enforce", "other.test", "mx.there.test", ("deferred", "4.7.5")),
        ("enforce", "*.test", "mx.there.test", ("deferred", "4.7.5")),
        ("enforce", "mx.there.test", "other.test", ("deferred", "4.7.5")),
        ("enforce", "mx.there.test", None, ("deferred", "4.7.4")),
        ("testing", "other.test", "other.test", TAKEN),
        ("none", "other.test", None, TAKEN),
    ],
)
def test_mta_sts(
    tmp_path: Path, mode: str, pattern: str, certificate: str | None, expected: tuple[str, str]
) -> None:
    async def test(world: World) -> None:
        context = world.certificate(certificate)[0] if certificate else None
        host = await world.host("mx.there.test", {"EHLO": TLS} if certificate else {}, tls=context)
        world.names.mxs["there.test"] = [(10, "mx.there.test")]
        world.publish_policy(mode, pattern)
        outcome = await world.send()
        assert result(outcome) == expected
        assert outcome.unreachable is (expected != TAKEN)
        assert len(host.messages) == (expected == TAKEN)

    play(tmp_path, test)


def test_mta_sts_leads_to_the_host_that_keeps_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        false = await world.host("a.there.test", {"EHLO": TLS}, tls=world.certificate("x.test")[0])
        true = await world.host("b.there.test", {"EHLO": TLS}, tls=world.certificate("b.there.test")[0])
        world.names.mxs["there.test"] = [(10, "a.there.test"), (20, "b.there.test")]
        world.publish_policy("enforce", "*.there.test")
        assert result(await world.send()) == TAKEN
        assert (len(false.messages), len(true.messages)) == (0, 1)

    play(tmp_path, test)


def tlsa(certificate: x509.Certificate, usage: int, selector: int, matching: int) -> Tlsa:
    if selector:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        data = certificate.public_bytes(Encoding.DER)
    if matching:
        data = (hashlib.sha256 if matching == 1 else hashlib.sha512)(data).digest()
    return Tlsa(usage, selector, matching, data)


def dane(
    path: Path,
    records: Callable[[World, x509.Certificate], list[Tlsa]],
    *,
    name: str = "mx.there.test",
    **more: Any,
) -> tuple[str, str]:
    """What becomes of a message to a host with these TLSA records; its certificate is for `name`."""
    found: list[Outcome] = []

    async def test(world: World) -> None:
        context, certificate = world.certificate(name, world.child)
        host = await world.host("mx.there.test", {"EHLO": TLS}, tls=context)
        world.names.mxs["there.test"] = [(10, "mx.there.test")]
        world.publish_tlsa("mx.there.test", *records(world, certificate), **more)
        found.append(await world.send())
        assert len(host.messages) == (result(found[0]) == TAKEN)

    play(path, test)
    return result(found[0])


def authority(world: World) -> x509.Certificate:
    return x509.load_pem_x509_certificate(world.ca.cert_pem.bytes())


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_dane_the_certificate_itself(tmp_path: Path, selector: int, matching: int) -> None:
    got = dane(tmp_path, lambda _, leaf: [tlsa(leaf, 3, selector, matching)], name="any.name")
    assert got == TAKEN, "neither its name nor its issuer matter (RFC 7672 §3.1.1)"


def test_dane_one_of_several(tmp_path: Path) -> None:
    assert dane(tmp_path, lambda world, leaf: [tlsa(authority(world), 3, 1, 1), tlsa(leaf, 3, 1, 1)]) == TAKEN


def test_dane_mismatch(tmp_path: Path) -> None:
    assert dane(tmp_path, lambda world, _: [tlsa(authority(world), 3, 1, 1)]) == ("deferred", "4.7.5")


@pytest.mark.parametrize(("selector", "matching"), [(0, 0), (0, 1), (1, 1), (1, 2)])
@pytest.mark.parametrize("name", ["mx.there.test", "there.test"])
def test_dane_an_authority(tmp_path: Path, selector: int, matching: int, name: str) -> None:
    got = dane(tmp_path, lambda world, _: [tlsa(issuer(world), 2, selector, matching)], name=name)
    assert got == TAKEN


def issuer(world: World) -> x509.Certificate:
    """The intermediate authority, which the host sends with its certificate."""
    return x509.load_pem_x509_certificate(world.child.cert_pem.bytes())


def test_dane_an_authority_of_another_name(tmp_path: Path) -> None:
    got = dane(tmp_path, lambda world, _: [tlsa(issuer(world), 2, 1, 1)], name="other.test")
    assert got == ("deferred", "4.7.5")


def test_dane_an_authority_that_did_not_issue_it(tmp_path: Path) -> None:
    stranger = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
    assert dane(tmp_path, lambda *_: [tlsa(stranger, 2, 0, 0)]) == ("deferred", "4.7.5")


def forged(world: World, path: Path) -> ssl.SSLContext:
    """A certificate for the host, signed with the key of another certificate that is no authority's."""
    customer = world.child.issue_cert("customer.test")
    signer = x509.load_pem_x509_certificate(customer.cert_chain_pems[0].bytes())
    signer_key = load_pem_private_key(customer.private_key_pem.bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.there.test")]))
        .issuer_name(signer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(signer.not_valid_before_utc)
        .not_valid_after(signer.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mx.there.test")]), critical=False)
        .sign(signer_key, hashes.SHA256())  # type: ignore[arg-type]
    )
    chain = [certificate.public_bytes(Encoding.PEM), *(pem.bytes() for pem in customer.cert_chain_pems)]
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "forged.pem").write_bytes(b"".join([secret, *chain]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "forged.pem")
    return context


def test_dane_whoever_has_a_certificate_is_no_authority(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        host = await world.host("mx.there.test", {"EHLO": TLS}, tls=forged(world, tmp_path))
        world.names.mxs["there.test"] = [(10, "mx.there.test")]
        world.publish_tlsa("mx.there.test", tlsa(issuer(world), 2, 1, 1))
        assert result(await world.send()) == ("deferred", "4.7.5")
        assert host.messages == []

    play(tmp_path, test)


@pytest.mark.parametrize("record", [Tlsa(1, 1, 1, b"x" * 32), Tlsa(3, 7, 1, b"x"), Tlsa(3, 1, 9, b"x")])
def test_dane_without_a_usable_record_is_tls_all_the_same(tmp_path: Path, record: Tlsa) -> None:
    assert dane(tmp_path, lambda *_: [record]) == TAKEN

    async def test(world: World) -> None:
        host = await world.host("there.test")
        world.publish_tlsa("there.test", record)
        assert result(await world.send()) == ("deferred", "4.7.4")
        assert host.messages == []

    play(tmp_path, test)


def test_dane_that_nobody_vouches_for_counts_for_nothing(tmp_path: Path) -> None:
    assert dane(tmp_path, lambda *_: [Tlsa(3, 1, 1, b"x" * 32)], secure=False) == TAKEN


def test_dane_that_cannot_be_looked_up(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        host = await world.host("there.test", {"EHLO": TLS}, tls=world.certificate("there.test")[0])
        world.publish_tlsa("there.test")
        world.names.tlsas[f"_{world.port}._tcp.there.test"] = TROUBLE
        assert result(await world.send()) == ("deferred", "4.7.5")
        assert host.connections == 0

    play(tmp_path, test)


def test_dane_goes_before_mta_sts(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        context, leaf = world.certificate("any.name", trustme.CA())
        await world.host("there.test", {"EHLO": TLS}, tls=context)
        world.publish_tlsa("there.test", tlsa(leaf, 3, 1, 1))
        world.publish_policy("enforce", "there.test")
        assert result(await world.send()) == TAKEN

    play(tmp_path, test)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "127.9.9.9"])
def test_addresses_of_this_machine(address: str) -> None:
    assert is_ours(address)


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "203.0.113.5"])
def test_addresses_of_others(address: str) -> None:
    assert not is_ours(address)

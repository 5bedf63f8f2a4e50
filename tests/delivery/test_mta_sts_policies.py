"""MTA-STS: which records and policies count, how long they are remembered, and how they are fetched."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from fake_names import TROUBLE, FakeNames

from mailserver.delivery.mta_sts import (
    POLICIES,
    RETRY,
    Mode,
    Policies,
    Policy,
    PolicyError,
    parse_policy,
    parse_record,
)
from mailserver.delivery.policy_hosts import PolicyHosts
from mailserver.delivery.security import Authorities
from mailserver.pool import Pool

GOOD = b"version: STSv1\r\nmode: enforce\r\nmx: MX1.there.test\r\nmx: *.mail.test\r\nmax_age: 86400\r\n"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("v=STSv1; id=20260831085700Z;",), "20260831085700Z"),
        (("v=STSv1;id=1",), "1"),
        (("v=STSv1; other=x; id=1; more=y",), "1"),
        (("something else", "v=STSv1; id=1;"), "1"),
        (("v=STSv1; id=1;", "v=STSv1; id=2;"), None),
        ((" v=STSv1; id=1;",), None),
        (("v=STSv1 id=1",), None),
        (("v=STSv1; id=;",), None),
        (("v=STSv1; id=" + "1" * 33 + ";",), None),
        (("v=STSv1; valid=1;",), None),
        (("v=STSv2; id=1;",), None),
        ((), None),
    ],
)
def test_records(texts: tuple[str, ...], expected: str | None) -> None:
    assert parse_record(texts) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"",
        GOOD.replace(b"STSv1", b"STSv2"),
        GOOD.replace(b"enforce", b"perhaps"),
        GOOD.replace(b"86400", b"soon"),
        GOOD.replace(b"86400", b"-1"),
        GOOD.replace(b"86400", b"9" * 5000),
        GOOD.replace(b"max_age", b"age"),
        b"version: STSv1\nmode: enforce\nmax_age: 1\n",
        b"<html>" * 1000,
        b"\xff\xfe\x00" * 100,
    ],
)
def test_policies_that_do_not_count(data: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(data)


def test_policies() -> None:
    policy = parse_policy(GOOD)
    assert policy == Policy(Mode.ENFORCE, ("mx1.there.test", "*.mail.test"), 86400)
    assert parse_policy(GOOD.replace(b"\r\n", b"\n") + b"mode: none\nnew: field\n") == policy
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 99999999999\n").max_age == 31_557_600
    for host, allowed in {
        "mx1.there.test": True,
        "mx2.there.test": False,
        "a.mail.test": True,
        "mail.test": False,
        "a.b.mail.test": False,
        "": False,
    }.items():
        assert policy.allows(host) is allowed


class Remembered:
    """Policies, with a clock and a web server that are moved by hand."""

    def __init__(self) -> None:
        self.names = FakeNames()
        self.now = 1000.0
        self.text: bytes | None = GOOD
        self.fetched = 0
        self.policies = Policies(self.names, self.fetch, lambda: self.now)
        self.publish("1")

    def publish(self, *ids: str) -> None:
        self.names.txts["_mta-sts.there.test"] = [f"v=STSv1; id={one};" for one in ids]

    async def fetch(self, domain: str) -> bytes:
        self.fetched += 1
        if self.text is None:
            raise PolicyError("nobody there")
        return self.text

    def mode(self, domain: str = "there.test") -> Mode | None:
        policy = asyncio.run(self.policies.policy(domain))
        return policy.mode if policy else None


def test_a_policy_is_fetched_once() -> None:
    site = Remembered()
    assert [site.mode(), site.mode()] == [Mode.ENFORCE, Mode.ENFORCE]
    assert site.fetched == 1
    site.publish("2")
    site.text = GOOD.replace(b"enforce", b"testing")
    assert site.mode() is Mode.TESTING


def test_a_policy_stays_in_force_whatever_becomes_of_its_record_and_host() -> None:
    site = Remembered()
    site.mode()
    site.text = None
    table = site.names.txts
    for record in ([], TROUBLE, ["v=STSv1; id=2;"], ["v=STSv1; id=2;", "v=STSv1; id=3;"]):
        table["_mta-sts.there.test"] = record
        assert site.mode() is Mode.ENFORCE
    del table["_mta-sts.there.test"]
    assert site.mode() is Mode.ENFORCE
    site.now += 86400
    assert site.mode() is None, "to its end"


def test_a_new_policy_that_cannot_be_fetched_is_asked_for_now_and_then() -> None:
    site = Remembered()
    site.mode()
    site.text = None
    site.publish("2")
    for _ in range(5):
        assert site.mode() is Mode.ENFORCE
    assert site.fetched == 2
    site.now += RETRY
    site.text = GOOD.replace(b"enforce", b"none")
    assert site.mode() is Mode.NONE


def test_a_policy_that_was_never_had_is_asked_for_now_and_then() -> None:
    site = Remembered()
    site.text = None
    assert [site.mode(), site.mode()] == [None, None]
    assert site.fetched == 1
    site.now += RETRY
    site.text = GOOD
    assert site.mode() is Mode.ENFORCE


def test_domains_without_record_cost_no_fetch() -> None:
    site = Remembered()
    assert site.mode("other.test") is None
    assert site.fetched == 0


def test_the_number_of_policies_is_bounded() -> None:
    site = Remembered()
    for number in range(POLICIES + 10):
        site.names.txts[f"_mta-sts.d{number}.test"] = ["v=STSv1; id=1;"]
        site.mode(f"d{number}.test")
    assert len(site.policies._known) == POLICIES


RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n5\r\nversi\r\n4\r\non: \r\n0\r\n\r\n"


def fetch(path: Path, response: bytes | None, *, name: str = "mta-sts.there.test", **more: Any) -> str:
    """What comes of asking a web server that says `response`, None: nothing at all."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if response is None:
            await reader.read()
        else:
            writer.write(response)
            await writer.drain()
        writer.close()

    async def whole() -> str:
        pool = Pool("test", 1, 5)
        names = FakeNames()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        names.hosts["mta-sts.there.test"] = more.get("addresses", ["127.0.0.1"])
        port = server.sockets[0].getsockname()[1]
        try:
            hosts = PolicyHosts(names, Authorities(pool, str(path / "ca.pem")), port, timeout=0.3)
            body = (await hosts("there.test")).decode()
            assert asked[0].startswith(
                b"GET /.well-known/mta-sts.txt HTTP/1.1\r\nHost: mta-sts.there.test\r\n"
            )
            return body
        except PolicyError as error:
            return f"error: {error}"
        finally:
            server.close()
            await server.wait_closed()
            pool.close()

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (RESPONSE + b"\r\nto the end", "to the end"),
        (RESPONSE + b"Content-Length: 4\r\n\r\nfour and more", "four"),
        (RESPONSE + CHUNKED, "version: "),
        (RESPONSE + b"Content-Length: 40\r\n\r\nfour", "error: not an HTTP response"),
        (RESPONSE.replace(b"200", b"404") + b"\r\n", "error: status 404"),
        (RESPONSE.replace(b"200", b"301") + b"Location: https://evil.test/\r\n\r\n", "error: status 301"),
        (RESPONSE.replace(b"plain", b"html") + b"\r\nx", "error: the policy is not text/plain"),
        (RESPONSE + b"\r\n" + b"x" * 70_000, "error: more than 65536 octets"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "error: not an HTTP response"),
        (b"", "error: not an HTTP response"),
        (None, "error: no answer in time"),
    ],
)
def test_fetching(tmp_path: Path, response: bytes | None, expected: str) -> None:
    assert fetch(tmp_path, response) == expected


def test_the_web_server_must_prove_its_name(tmp_path: Path) -> None:
    assert fetch(tmp_path, RESPONSE + b"\r\nx", name="there.test").startswith("error: certificate")


def test_the_next_address_is_tried(tmp_path: Path) -> None:
    assert fetch(tmp_path, RESPONSE + b"\r\nx", addresses=["127.0.0.77", "127.0.0.1"]) == "x"
    assert fetch(tmp_path, b"", addresses=TROUBLE) == "error: the policy's host cannot be reached"

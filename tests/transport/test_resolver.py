"""The resolver: never told from later, whatever a name server does, and whom it believes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from mailserver.transport import resolver
from mailserver.transport.resolver import DnsResolver, Found, Mx, NoSuchDomain, ResolverTrouble

Answer = Callable[[dns.message.QueryMessage], dns.message.Message | bytes | None]


class _Server(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.queries: list[dns.message.Message] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: Any) -> None:
        query = dns.message.from_wire(data)
        self.queries.append(query)
        answer = self.answer(query)  # type: ignore[arg-type]
        if answer is not None:
            self.transport.sendto(answer if isinstance(answer, bytes) else answer.to_wire(), source)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[_Server, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: _Server(answer), ("127.0.0.1", 0))
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def ask(
    answer: Answer,
    question: Callable[[DnsResolver], Awaitable[Found[Any]]],
    *,
    more: tuple[tuple[str, int], ...] = (),
    lifetime: float = 5.0,
) -> Found[Any]:
    async def whole() -> Found[Any]:
        async with serving(answer) as (_, port):
            return await question(DnsResolver([("127.0.0.1", port), *more], lifetime))

    return asyncio.run(whole())


def says(*records: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0) -> Answer:
    """Answers every question with the records of its type."""

    def answer(query: dns.message.QueryMessage) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        response.flags |= dns.flags.RA | flags
        kind = query.question[0].rdtype
        for record in records:
            rrset = dns.rrset.from_text(*record.split(" ", 4))
            if rrset.rdtype in (kind, dns.rdatatype.CNAME):
                response.answer.append(rrset)
        return response

    return answer


def mx(one: DnsResolver) -> Awaitable[Found[Any]]:
    return one.mx("there.test")


def test_exchangers() -> None:
    found = ask(says("there.test. 60 IN MX 10 MX1.There.Test."), mx)
    assert found == Found((Mx(10, "mx1.there.test"),), "there.test", False)


def test_null_exchanger() -> None:
    assert ask(says("there.test. 60 IN MX 0 ."), mx).values == (Mx(0, ""),)


def test_nothing_of_that_kind() -> None:
    assert ask(says("there.test. 60 IN A 192.0.2.1"), mx).values == ()


def test_through_an_alias() -> None:
    found = ask(says("there.test. 60 IN CNAME other.test.", "other.test. 60 IN MX 5 mx.other.test."), mx)
    assert found == Found((Mx(5, "mx.other.test"),), "other.test", False)


def test_no_such_domain() -> None:
    with pytest.raises(NoSuchDomain):
        ask(says(rcode=dns.rcode.NXDOMAIN), mx)


@pytest.mark.parametrize("name", ["x" * 64 + ".test", "a." * 130 + "test", "a..test"])
def test_names_that_cannot_exist(name: str) -> None:
    with pytest.raises(NoSuchDomain):
        ask(says(), lambda one: one.mx(name))


def endless(query: dns.message.QueryMessage) -> dns.message.Message:
    response = dns.message.make_response(query)
    for number in range(50):
        name = "there" if number == 0 else f"n{number}"
        response.answer.append(
            dns.rrset.from_text(f"{name}.test.", 60, "IN", "CNAME", f"n{number + 1}.test.")
        )
    return response


def truncated(query: dns.message.QueryMessage) -> dns.message.Message:
    response = dns.message.make_response(query)
    response.flags |= dns.flags.TC  # and nobody listens on TCP
    return response


@pytest.mark.parametrize(
    "answer",
    [
        says(rcode=dns.rcode.SERVFAIL),
        says(rcode=dns.rcode.REFUSED),
        says("there.test. 60 IN CNAME there.test."),
        endless,
        truncated,
        lambda query: b"no answer",
        lambda query: query,
        lambda query: None,
    ],
    ids=["SERVFAIL", "REFUSED", "loop", "chain", "truncated", "garbage", "echo", "silence"],
)
def test_trouble(answer: Answer) -> None:
    with pytest.raises(ResolverTrouble) as caught:
        ask(answer, mx, lifetime=0.3)
    assert caught.value.__cause__ is None


def test_the_next_server_is_asked() -> None:
    async def whole() -> None:
        works = says("there.test. 60 IN MX 1 mx.test.")
        async with serving(says(rcode=dns.rcode.SERVFAIL)) as (_, bad), serving(works) as (_, good):
            found = await DnsResolver([("127.0.0.1", bad), ("127.0.0.1", good)]).mx("there.test")
            assert found.values == (Mx(1, "mx.test"),)

    asyncio.run(whole())


def test_addresses_in_turn() -> None:
    records = [f"mx.test. 60 IN A 192.0.2.{n}" for n in (1, 2, 3)] + ["mx.test. 60 IN AAAA 2001:db8::1"]

    def answer(query: dns.message.QueryMessage) -> dns.message.Message:
        return says(*records)(query)  # type: ignore[return-value]

    found = ask(answer, lambda one: one.addresses("mx.test"))
    assert set(found.values) == {"2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"}
    assert found.values[0] == "2001:db8::1"


def by_kind(**answers: Answer) -> Answer:
    return lambda query: answers[dns.rdatatype.to_text(query.question[0].rdtype)](query)


ADDRESS = says("mx.test. 60 IN A 192.0.2.1", flags=dns.flags.AD)


@pytest.mark.parametrize("six", [says(rcode=dns.rcode.SERVFAIL), says(rcode=dns.rcode.NXDOMAIN), says()])
def test_one_family_is_enough(six: Answer) -> None:
    found = ask(by_kind(A=ADDRESS, AAAA=six), lambda one: one.addresses("mx.test"))
    assert (found.values, found.secure) == (("192.0.2.1",), True)


def test_no_address_is_certain_only_if_both_families_say_so() -> None:
    none, trouble = says(rcode=dns.rcode.NXDOMAIN), says(rcode=dns.rcode.SERVFAIL)
    with pytest.raises(NoSuchDomain):
        ask(by_kind(A=none, AAAA=none), lambda one: one.addresses("mx.test"))
    with pytest.raises(ResolverTrouble):
        ask(by_kind(A=none, AAAA=trouble), lambda one: one.addresses("mx.test"))
    with pytest.raises(ResolverTrouble):
        ask(by_kind(A=says(), AAAA=trouble), lambda one: one.addresses("mx.test"))
    assert ask(says(), lambda one: one.addresses("mx.test")).values == ()


def test_texts() -> None:
    found = ask(says('t.test. 60 IN TXT "v=STSv1; " "id=1;"'), lambda one: one.txt("t.test"))
    assert found.values == ("v=STSv1; id=1;",)


def test_the_ad_bit_counts_from_this_machine_alone() -> None:
    signed = says("there.test. 60 IN MX 1 mx.test.", flags=dns.flags.AD)
    assert ask(signed, mx).secure
    assert not ask(says("there.test. 60 IN MX 1 mx.test."), mx).secure
    assert not ask(signed, mx, more=(("192.0.2.53", 53),)).secure, "the other one might have answered"


def test_the_ad_bit_is_asked_for() -> None:
    async def whole() -> None:
        async with serving(says()) as (server, port):
            await DnsResolver([("127.0.0.1", port)]).mx("there.test")
            assert server.queries[0].flags & dns.flags.AD

    asyncio.run(whole())


def test_the_systems_name_servers_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolver, "_RESOLV_CONF", str(path))
    one = DnsResolver()

    async def servers() -> list[str]:
        return [str(server) for server in one._current().nameservers]

    with pytest.raises(ResolverTrouble):
        asyncio.run(one.mx("there.test"))
    path.write_text("nameserver 192.0.2.1\n")
    assert asyncio.run(servers()) == ["192.0.2.1"]
    assert not one._trusted
    os.utime(path, ns=(1, 1))
    path.write_text("nameserver 127.0.0.1\nnameserver ::1\n")
    assert asyncio.run(servers()) == ["127.0.0.1", "::1"]
    assert one._trusted

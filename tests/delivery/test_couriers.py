"""What every courier must do, whatever the host does: one suite for all of them, and for the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from deliveries import delivery
from fake_names import FakeNames
from memory_courier import MemoryCourier
from remote_host import DEAF, HANGUP, PIPELINING, STALL, Action, RemoteHost, Script

from mailserver.delivery.limits import Limits
from mailserver.delivery.mta_sts import Policies, PolicyError
from mailserver.delivery.mx import DirectMx
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Authorities, Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.pool import Pool
from mailserver.queue.courier import Courier, Outcome

LIMITS = Limits(
    connect=2, tls=0.5, greeting=0.2, mail=0.2, recipient=0.2, data=0.2, block=0.2, end=0.2, quit=0.2
)
COURIERS = ["smarthost", "smarthost-pipelining", "mx", "lmtp", "lmtp-pipelining", "lmtp-socket", "memory"]
TWO = ("ann@there.test", "bob@there.test")


class Told(NamedTuple):
    """What a test wants of an outcome."""

    kind: str
    code: int
    status: str


TAKEN = Told("delivered", 250, "2.0.0")
BROKEN = Told("deferred", 0, "4.4.2")
NONSENSE = Told("deferred", 0, "4.5.0")


async def no_policy(domain: str) -> bytes:
    raise PolicyError


@asynccontextmanager
async def harness(
    kind: str, script: Script, path: Path, limits: Limits = LIMITS
) -> AsyncIterator[tuple[Courier, Any]]:
    """A courier of a kind, and the host it speaks with."""
    if kind == "memory":
        courier = MemoryCourier(script)
        yield courier, courier
        return
    if kind.endswith("pipelining"):
        script = {**PIPELINING, **script}
    lmtp = kind.startswith("lmtp")
    socket = str(path / "socket") if kind == "lmtp-socket" else None
    if lmtp and "EHLO" in script:
        script = {**script, "LHLO": script["EHLO"]}
    pool = Pool("test", 2, 100)
    manner = Manner("here.test", limits)
    async with RemoteHost(script, lmtp=lmtp, path=socket) as host:
        courier = make(kind, host, manner, pool)
        try:
            yield courier, host
        finally:
            await courier.close()
    pool.close()


def make(kind: str, host: RemoteHost, manner: Manner, pool: Pool) -> Any:
    if kind == "mx":
        names = FakeNames()
        names.hosts["there.test"] = ["127.0.0.1"]
        return DirectMx(
            names,
            Policies(names, no_policy),
            Authorities(pool),
            manner,
            pool,
            ours=lambda address: False,
            port=host.port,
        )
    place = Host(host.path, 0) if host.path else Host("127.0.0.1", host.port)
    return Smarthost(Relay(name="out", hosts=(place,), lmtp=host.lmtp, tls=Level.NONE), manner, pool)


def told(outcomes: Sequence[Outcome]) -> list[Told]:
    return [Told(one.kind.value, one.code, one.status) for one in outcomes]


def check(kind: str, path: Path, script: Script, expected: list[Told], *, unreachable: bool = False) -> None:
    """One letter to two people; what came of it."""
    letters = path / "letters"
    letters.mkdir()

    async def whole() -> None:
        async with harness(kind, script, path) as (courier, host):
            outcomes = await courier.deliver(delivery(letters, *TWO))
            assert told(outcomes) == expected
            assert [one.unreachable for one in outcomes] == [unreachable] * 2
            assert TAKEN not in expected or len(host.messages) == 1

    asyncio.run(whole())


every_courier = pytest.mark.parametrize("kind", COURIERS)


@every_courier
def test_taken(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path, {}, [TAKEN, TAKEN])


@every_courier
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "end"])
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("450 4.2.1 later", Told("deferred", 450, "4.2.1")),
        ("451 later, without status", Told("deferred", 451, "4.0.0")),
        ("550 5.7.1 never", Told("failed", 550, "5.7.1")),
        ("554-5.7.1 never\n554-5.7.1 in many\n554 5.7.1 words", Told("failed", 554, "5.7.1")),
        ("550 4.2.0 two minds", Told("failed", 550, "5.2.0")),
    ],
)
def test_refused(kind: str, tmp_path: Path, step: str, reply: str, expected: Told) -> None:
    check(kind, tmp_path, {step: reply}, [expected, expected])


@every_courier
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "end"])
@pytest.mark.parametrize("action", [HANGUP, STALL], ids=["hangup", "stall"])
def test_broken_off(kind: str, tmp_path: Path, step: str, action: Action) -> None:
    check(kind, tmp_path, {step: action}, [BROKEN, BROKEN])


@every_courier
@pytest.mark.parametrize("step", ["greeting", "EHLO"])
@pytest.mark.parametrize("action", [HANGUP, STALL], ids=["hangup", "stall"])
def test_broken_off_before_mail(kind: str, tmp_path: Path, step: str, action: Action) -> None:
    check(kind, tmp_path, {step: action}, [BROKEN, BROKEN], unreachable=True)


@every_courier
@pytest.mark.parametrize("step", ["greeting", "EHLO"])
def test_refused_for_now_before_mail(kind: str, tmp_path: Path, step: str) -> None:
    busy = Told("deferred", 421, "4.3.2")
    check(kind, tmp_path, {step: "421 4.3.2 busy"}, [busy, busy], unreachable=True)


@every_courier
@pytest.mark.parametrize("step", ["MAIL", "DATA"])
def test_the_host_leaves(kind: str, tmp_path: Path, step: str) -> None:
    leaving = Told("deferred", 421, "4.3.2")
    check(kind, tmp_path, {step: "421 4.3.2 going down"}, [leaving, leaving], unreachable=True)


@every_courier
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "end"])
@pytest.mark.parametrize(
    "octets",
    [
        b"what?\r\n",
        b"\xff\xfe\x00\r\n",
        b"99 no\r\n",
        b"-50 no\r\n",
        b"2" * 9000 + b"\r\n",
        b"250-x\r\n" * 6000,
    ],
)
def test_nonsense(kind: str, tmp_path: Path, step: str, octets: bytes) -> None:
    check(kind, tmp_path, {step: octets}, [NONSENSE, NONSENSE])


@every_courier
def test_one_of_two(kind: str, tmp_path: Path) -> None:
    script: Script = {"RCPT bob@there.test": "550 5.1.1 no bob"}
    check(kind, tmp_path, script, [TAKEN, Told("failed", 550, "5.1.1")])


@every_courier
def test_what_was_refused_before_the_break_stays_refused(kind: str, tmp_path: Path) -> None:
    script: Script = {"RCPT ann@there.test": "550 5.1.1 no ann", "RCPT": HANGUP}
    check(kind, tmp_path, script, [Told("failed", 550, "5.1.1"), BROKEN])


@every_courier
def test_552_at_a_recipient_is_no_failure(kind: str, tmp_path: Path) -> None:
    full = Told("deferred", 552, "4.2.2")
    check(kind, tmp_path, {"RCPT": "552 5.2.2 mailbox full"}, [full, full])


@every_courier
def test_replies_are_kept_clean(kind: str, tmp_path: Path) -> None:
    async def whole() -> None:
        reply = "550 5.1.1 no\x07 \x1b[31muser\x00 \u202e" + "x" * 2000
        async with harness(kind, {"RCPT": reply}, tmp_path) as (courier, _):
            (outcome,) = await courier.deliver(delivery(tmp_path, TWO[0]))
            assert outcome.text.startswith("no? ?[31muser? ")
            assert len(outcome.text) <= 1000
            assert "\n" not in outcome.text

    asyncio.run(whole())


@every_courier
def test_many_letters_at_once(kind: str, tmp_path: Path) -> None:
    async def whole() -> None:
        async with harness(kind, {}, tmp_path) as (courier, host):
            jobs = [courier.deliver(delivery(tmp_path, *TWO)) for _ in range(20)]
            for outcomes in await asyncio.gather(*jobs):
                assert told(outcomes) == [TAKEN, TAKEN]
            assert len(host.messages) == 20

    asyncio.run(whole())


# What only real connections show.

over_network = pytest.mark.parametrize("kind", COURIERS[:-1])


@over_network
def test_the_first_reply_is_not_taken_for_the_second(kind: str, tmp_path: Path) -> None:
    """A host that answers once too often must not have its refusal of the message taken for an acceptance."""
    script: Script = {"RCPT": b"250 ok\r\n250 ok\r\n", "end": "554 5.6.0 refused"}

    async def whole() -> None:
        async with harness(kind, script, tmp_path) as (courier, host):
            (outcome,) = await courier.deliver(delivery(tmp_path, TWO[0]))
            assert outcome.kind.value == "deferred"
            assert host.messages == []

    asyncio.run(whole())


@over_network
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_refusal_in_the_midst_of_the_content(kind: str, tmp_path: Path, size: int) -> None:
    async def whole() -> None:
        script: Script = {"DATA": "354 go\n552 5.3.4 too big"}
        async with harness(kind, script, tmp_path) as (courier, _):
            letter = b"Subject: big\n\n" + (b"x" * 70 + b"\n") * (size // 71)
            (outcome,) = await courier.deliver(
                delivery(tmp_path, TWO[0], letter=letter, route="r")._replace(size=1000)
            )
            assert told([outcome]) == [Told("failed", 552, "5.3.4")]

    asyncio.run(whole())


@over_network
def test_a_host_that_stops_reading(kind: str, tmp_path: Path) -> None:
    letter = b"Subject: big\n\n" + b"x" * 20_000_000 + b"\n"
    big = delivery(tmp_path, TWO[0], letter=letter)._replace(size=1000)

    async def whole() -> None:
        async with harness(kind, {"content": DEAF}, tmp_path) as (courier, _):
            (outcome,) = await courier.deliver(big)
            assert told([outcome]) == [BROKEN]

    asyncio.run(whole())


def test_a_socket_is_called_by_its_relay(tmp_path: Path) -> None:
    """Where it is on this machine is nothing for a report that leaves it."""

    async def whole() -> None:
        async with harness("lmtp-socket", {}, tmp_path) as (courier, _):
            (outcome,) = await courier.deliver(delivery(tmp_path, TWO[0]))
            assert (outcome.remote, outcome.final) == ("out", True)

    asyncio.run(whole())

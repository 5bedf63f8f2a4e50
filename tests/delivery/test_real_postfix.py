"""A real peer: Postfix as a smarthost with TLS and login."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import relay_postfix
from deliveries import delivery, kinds

from mailserver.delivery import doctor
from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.pool import Pool
from mailserver.queue.courier import Outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Postfix starts only as root")

LETTER = (
    b"From: a@here.test\nTo: ann@there.test\nSubject: all kinds of lines\n\n"
    b".\n..\n.dot\n\nFrom here\n" + b"x" * 990 + b"\n" + b"line\n" * 20_000 + b"end\n"
)


@pytest.fixture(scope="module")
def smarthost() -> Iterator[relay_postfix.Smarthost]:
    with relay_postfix.smarthost() as running:
        yield running


def relay(
    smarthost: relay_postfix.Smarthost, path: Path, *, password: str = relay_postfix.PASSWORD, **more: Any
) -> Relay:
    secret = path / "secret"
    secret.touch(0o600)
    secret.write_text(password + "\n")
    settings: dict[str, Any] = {
        "hosts": (Host(relay_postfix.HOST, smarthost.port),),
        "authorities": smarthost.authorities,
        "user": relay_postfix.USER,
        "secret": str(secret),
        **more,
    }
    return Relay(name="out", **settings)


def run(relay: Relay, work: Callable[[Smarthost], Awaitable[None]], limits: Limits | None = None) -> None:
    async def whole() -> None:
        pool = Pool("test", 2, 50)
        courier = Smarthost(relay, Manner("here.test", limits or Limits()), pool)
        try:
            await work(courier)
        finally:
            await courier.close()
            pool.close()

    asyncio.run(whole())


def queue_id(outcome: Outcome) -> str:
    return outcome.text.rpartition(" ")[2]


@pytest.mark.parametrize("level", [Level.REQUIRED, Level.IMPLICIT, Level.OPPORTUNISTIC])
def test_a_letter_by_tls_and_login(smarthost: relay_postfix.Smarthost, tmp_path: Path, level: Level) -> None:
    port = smarthost.tls_port if level is Level.IMPLICIT else smarthost.port

    async def work(courier: Smarthost) -> None:
        before = len(smarthost.messages("ann"))
        for _ in range(3):
            outcomes = await courier.deliver(
                delivery(tmp_path, "ann@there.test", "bob@there.test", letter=LETTER)
            )
            assert kinds(outcomes) == [("delivered", "2.0.0")] * 2
            for user in ("ann", "bob"):
                smarthost.postfix.says(rf"{queue_id(outcomes[0])}: to=<{user}@there.test>.* status=sent")
        messages = smarthost.messages("ann")
        assert len(messages) == before + 3
        assert all(message.endswith(LETTER) for message in messages)

    run(relay(smarthost, tmp_path, tls=level, hosts=(Host("localhost", port),)), work)


def test_recipients_one_by_one(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    async def work(courier: Smarthost) -> None:
        outcomes = await courier.deliver(
            delivery(tmp_path, "nobody@there.test", "ann@there.test", "x@else.test")
        )
        assert [kind for kind, _ in kinds(outcomes)] == ["failed", "delivered", "delivered"]
        assert kinds(outcomes)[0] == ("failed", "5.1.1")

    run(relay(smarthost, tmp_path), work)


def test_an_international_letter(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    async def work(courier: Smarthost) -> None:
        letter = "Subject: schöne Grüße\n\nä\n".encode()
        job = delivery(tmp_path, letter=letter, sender="jürgen@here.test", smtputf8=True, body_8bit=True)
        outcomes = await courier.deliver(job)
        assert kinds(outcomes) == [("delivered", "2.0.0")]
        smarthost.postfix.says(rf"{queue_id(outcomes[0])}: to=<ann@there.test>.* status=sent")
        assert any(message.endswith(letter) for message in smarthost.messages("ann"))

    run(relay(smarthost, tmp_path), work)


def test_a_letter_too_big(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    async def work(courier: Smarthost) -> None:
        big = delivery(tmp_path, letter=b"Subject: big\n\n" + b"x" * 70 * 100_000 + b"\n")
        assert kinds(await courier.deliver(big)) == [("failed", "5.3.4")]
        small_words = big._replace(size=100)  # it does not know before the end
        assert kinds(await courier.deliver(small_words)) == [("failed", "5.3.4")]

    run(relay(smarthost, tmp_path), work)


def test_a_wrong_password(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    async def work(courier: Smarthost) -> None:
        (outcome,) = await courier.deliver(delivery(tmp_path))
        assert (outcome.kind.value, outcome.code, outcome.unreachable) == ("deferred", 535, True)
        assert courier.troubles

    run(relay(smarthost, tmp_path, password="wrong"), work)


def test_a_login_that_is_forgotten(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    """Postfix refuses this at RCPT with 554 5.7.1, which nobody can tell from a refusal of the message."""

    async def work(courier: Smarthost) -> None:
        assert kinds(await courier.deliver(delivery(tmp_path))) == [("failed", "5.7.1")]

    run(relay(smarthost, tmp_path, user=""), work)


def test_the_doctor(smarthost: relay_postfix.Smarthost, tmp_path: Path) -> None:
    async def steps(one: Relay) -> list[doctor.Step]:
        pool = Pool("test", 1, 5)
        found = [
            step
            async for step in doctor.test(
                one, Manner("here.test", Limits(connect=2, tls=2, greeting=2)), pool
            )
        ]
        pool.close()
        return found

    good = asyncio.run(
        steps(relay(smarthost, tmp_path, hosts=(Host("127.0.0.1", smarthost.port),), verify=False))
    )
    assert all(step.good for step in good), good
    assert any(re.search(r"TLSv1\.3, .* not checked", step.text) for step in good)
    bad = asyncio.run(steps(relay(smarthost, tmp_path, hosts=(Host("127.0.0.1", smarthost.port),))))
    assert any("certificate is not accepted" in step.text for step in bad if not step.good)
    swapped = asyncio.run(
        steps(relay(smarthost, tmp_path, tls=Level.IMPLICIT, hosts=(Host("127.0.0.1", smarthost.port),)))
    )
    assert any("TLS handshake" in step.text for step in swapped if not step.good)

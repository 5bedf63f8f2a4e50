"""Real peers: Postfix as a smarthost with TLS and login, and its smtp-sink refusing and stalling at each step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import programs
import pytest
import relay_postfix
from deliveries import delivery
from name_servers import free_port

from mailserver.delivery import doctor
from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Outcome

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


def kinds(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.kind.value, outcome.status) for outcome in outcomes]


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


# smtp-sink

QUICK = Limits(connect=2, greeting=0.3, mail=0.3, recipient=0.3, data=0.3, block=0.3, end=0.3, quit=0.3)


@contextlib.contextmanager
def sink(*flags: str) -> Iterator[int]:
    """smtp-sink with these flags; its port."""
    port = free_port()
    with programs.Daemon(["smtp-sink", "-u", "nobody", *flags, f"127.0.0.1:{port}", "100"]) as daemon:
        end = time.monotonic() + 10
        while time.monotonic() < end:  # it says nothing when it is ready
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.01)
        yield port
        assert daemon.process.poll() is None, daemon.output


def sent(port: int, job: Delivery, *, lmtp: bool = False, times: int = 1) -> Sequence[Outcome]:
    async def whole() -> Sequence[Outcome]:
        pool = Pool("test", 2, 50)
        manner = Manner("here.test", QUICK)
        relay = Relay(name="sink", hosts=(Host("127.0.0.1", port),), lmtp=lmtp, tls=Level.NONE)
        courier = Smarthost(relay, manner, pool)
        for _ in range(times):
            outcomes = await courier.deliver(job)
        await courier.close()
        pool.close()
        return outcomes

    return asyncio.run(whole())


TAKEN, BROKEN = ("delivered", "2.0.0"), ("deferred", "4.4.2")
SOFT, HARD, BYE = ("deferred", "4.3.0"), ("failed", "5.3.0"), ("deferred", "4.0.0")
GREETING = ("CONNECT", "EHLO,HELO")  # what is refused here says nothing of the message
MESSAGE = ("MAIL", "RCPT", "DATA", ".")
AFTERWARDS = ("RSET", "QUIT")


def each(option: str, steps: Sequence[str], expected: tuple[str, str]) -> list[Any]:
    return [([option, step], expected) for step in steps]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], TAKEN),
        *[([flag], TAKEN) for flag in ("-8", "-e", "-E", "-N", "-p", "-P")],
        # 4xx, 5xx, hanging up, 421 and hanging up, stalling, at each step
        *each("-r", GREETING + MESSAGE, SOFT),
        *each("-f", GREETING, SOFT),
        *each("-f", MESSAGE, HARD),
        *each("-q", GREETING + MESSAGE, BROKEN),
        *each("-Q", GREETING + MESSAGE, BYE),
        *[(["-p", "-W", f"{step}:3"], BROKEN) for step in ("CONNECT", "EHLO", *MESSAGE)],
        *[([option, step], TAKEN) for option in ("-r", "-f", "-q", "-Q") for step in AFTERWARDS],
        *[(["-W", f"{step}:3"], TAKEN) for step in AFTERWARDS],
        (["-f", "EHLO"], TAKEN),
        (["-q", "EHLO"], BROKEN),
        (["-f", "RCPT", "-q", "RSET"], HARD),
        (["-r", "RCPT", "-W", "RSET:3"], SOFT),
        (["-b", "452 4.2.2 full", "-r", "."], ("deferred", "4.2.2")),
        (["-B", "554 no status", "-f", "RCPT"], ("failed", "5.0.0")),
    ],
    ids=lambda value: " ".join(value),
)
def test_smtp_sink(tmp_path: Path, flags: list[str], expected: tuple[str, str]) -> None:
    with sink(*flags) as port:
        job = delivery(tmp_path, "ann@there.test", "bob@there.test")
        outcomes = sent(port, job, times=2 if expected in (TAKEN, HARD) else 1)
        assert kinds(outcomes) == [expected] * 2
        takes_dsn = expected == TAKEN and flags != ["-f", "EHLO"] and not {"-N", "-e", "-P"} & set(flags)
        assert [outcome.dsn_passed_on for outcome in outcomes] == [takes_dsn] * 2


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ("delivered", "2.2.0")),
        *each("-r", ("CONNECT", "LHLO", *MESSAGE), SOFT),
        *each("-f", ("CONNECT", "LHLO"), SOFT),
        *each("-f", MESSAGE, HARD),
        *each("-q", ("CONNECT", "LHLO", *MESSAGE), BROKEN),
        *each("-Q", ("CONNECT", "LHLO", "MAIL", "RCPT", "DATA"), BYE),
        *[(["-p", "-W", f"{step}:3"], BROKEN) for step in ("CONNECT", "LHLO", *MESSAGE)],
    ],
    ids=lambda value: " ".join(value),
)
def test_lmtp_to_a_sink(tmp_path: Path, flags: list[str], expected: tuple[str, str]) -> None:
    with sink("-L", *flags) as port:
        job = delivery(tmp_path, "ann@there.test", "bob@there.test", "cid@there.test")
        outcomes = sent(port, job, lmtp=True, times=2 if expected[0] == "delivered" else 1)
        assert kinds(outcomes) == [expected] * 3


def test_a_sink_that_aborts_in_the_midst_of_content(tmp_path: Path) -> None:
    with sink("-A", "0") as port:
        big = delivery(tmp_path, letter=b"Subject: big\n\n" + b"x" * 5_000_000 + b"\n")
        (outcome,) = sent(port, big)
        assert (outcome.kind.value, outcome.code) == ("failed", 550)


def test_a_sink_that_reads_nothing(tmp_path: Path) -> None:
    with sink("-H", "5", "-T", "4096") as port:
        big = delivery(tmp_path, letter=b"Subject: big\n\n" + b"x" * 20_000_000 + b"\n")
        assert kinds(sent(port, big)) == [BROKEN]


def test_a_sink_without_8bitmime(tmp_path: Path) -> None:
    with sink("-8") as port:
        assert kinds(sent(port, delivery(tmp_path, letter=b"A: b\n\n\xe4\n", body_8bit=True))) == [
            ("failed", "5.6.3")
        ]
        assert kinds(sent(port, delivery(tmp_path, body_8bit=True))) == [TAKEN]


def test_an_lmtp_sink_that_hangs_up_between_its_recipients(tmp_path: Path) -> None:
    with sink("-L", "-Q", ".") as port:
        job = delivery(tmp_path, "ann@there.test", "bob@there.test", "cid@there.test")
        assert kinds(sent(port, job, lmtp=True)) == [BYE, BROKEN, BROKEN]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that another user may write to."""
    path = Path(tempfile.mkdtemp(prefix="sink-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_what_a_sink_took_is_what_was_sent(tmp_path: Path, open_directory: Path) -> None:
    dump = open_directory / "dump"
    with sink("-D", str(dump)) as port:
        assert kinds(sent(port, delivery(tmp_path, letter=LETTER))) == [TAKEN]
        header = LETTER.partition(b"\n")[0]
        assert dump.read_bytes().partition(header)[2].rstrip(b"\n") == LETTER[len(header) :].rstrip(b"\n")

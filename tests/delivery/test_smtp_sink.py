"""Postfix's smtp-sink, by SMTP and LMTP: it refuses, hangs up or stalls at each step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import programs
import pytest
from deliveries import LETTER, delivery, kinds
from name_servers import free_port

from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Outcome

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="smtp-sink becomes another user")

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
        # it closes with octets unread, so a reset follows its reply and may overtake it: then mail waits
        assert (outcome.kind.value, outcome.code) == ("failed", 550) or kinds([outcome]) == [BROKEN]


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

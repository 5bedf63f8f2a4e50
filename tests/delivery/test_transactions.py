"""What is said to a host about a message, and what a host that offers little does not get."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from deliveries import LETTER, delivery
from remote_host import HANGUP, PIPELINING, RemoteHost, Script

from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.envelope import Recipient
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Outcome

LITTLE: Script = {"EHLO": "250 remote.test"}
NOTHING: Script = {"EHLO": "500 what?", "HELO": "250 remote.test"}
ONE = Recipient(parse_mailbox("ann@there.test"))


def send(
    job: Delivery, script: Script | None = None, *, limits: Limits | None = None, lmtp: bool = False
) -> tuple[Sequence[Outcome], RemoteHost]:
    """Carry one delivery to a host."""

    async def whole() -> tuple[Sequence[Outcome], RemoteHost]:
        pool = Pool("test", 1, 10)
        async with RemoteHost(script or {}, lmtp=lmtp) as host:
            manner = Manner("here.test", limits or Limits(end=1, recipient=1))
            relay = Relay(name="out", hosts=(Host("127.0.0.1", host.port),), lmtp=lmtp, tls=Level.NONE)
            courier = Smarthost(relay, manner, pool)
            outcomes = await courier.deliver(job)
            await courier.close()
        pool.close()
        return outcomes, host

    return asyncio.run(whole())


def results(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.kind.value, outcome.status) for outcome in outcomes]


def commands(host: RemoteHost, verb: str) -> list[str]:
    return [command for command in host.commands if command.startswith(verb)]


@pytest.mark.parametrize("lmtp", [False, True])
def test_a_letter_that_was_cut_is_never_taken(tmp_path: Path, lmtp: bool) -> None:
    job = delivery(tmp_path, letter=LETTER * 4000)
    os.truncate(next(tmp_path.iterdir()), len(LETTER) * 3000)
    outcomes, host = send(job, lmtp=lmtp)
    assert results(outcomes) == [("deferred", "4.3.0")]
    assert commands(host, "DATA")
    assert host.messages == []


def test_wishes_are_passed_on(tmp_path: Path) -> None:
    wishes = Recipient(
        parse_mailbox("ann@there.test"), frozenset({"SUCCESS", "FAILURE"}), "rfc822;ann+40x@a.test"
    )
    job = delivery(tmp_path, wishes, ONE, ret="HDRS", envid="QQ314159", body_8bit=True)
    outcomes, host = send(job)
    assert commands(host, "MAIL") == [
        f"MAIL FROM:<a@here.test> SIZE={job.size} BODY=8BITMIME RET=HDRS ENVID=QQ314159"
    ]
    assert commands(host, "RCPT") == [
        "RCPT TO:<ann@there.test> NOTIFY=FAILURE,SUCCESS ORCPT=rfc822;ann+40x@a.test",
        "RCPT TO:<ann@there.test>",
    ]
    assert all(outcome.dsn_passed_on and not outcome.final for outcome in outcomes)


@pytest.mark.parametrize("script", [LITTLE, NOTHING], ids=["EHLO", "HELO"])
def test_a_host_that_offers_nothing_is_told_nothing(tmp_path: Path, script: Script) -> None:
    wishes = Recipient(parse_mailbox("ann@there.test"), frozenset({"SUCCESS"}), "rfc822;x@a.test")
    job = delivery(tmp_path, wishes, ret="HDRS", envid="Q", body_8bit=True, smtputf8=True)
    outcomes, host = send(job, script)
    assert results(outcomes) == [("delivered", "2.0.0")], "all of it is ASCII: there is nothing to convert"
    assert not outcomes[0].dsn_passed_on
    assert host.messages[0].mail == "MAIL FROM:<a@here.test>"
    assert host.messages[0].rcpts == ["RCPT TO:<ann@there.test>"]


def test_the_null_sender(tmp_path: Path) -> None:
    _, host = send(delivery(tmp_path, sender=""), LITTLE)
    assert host.messages[0].mail == "MAIL FROM:<>"


def test_quoted_local_parts(tmp_path: Path) -> None:
    _, host = send(delivery(tmp_path, Recipient(Address('a b"c>', "there.test"))), LITTLE)
    assert host.messages[0].rcpts == ['RCPT TO:<"a b\\"c>"@there.test>']


@pytest.mark.parametrize("evil", ["x>\r\nRCPT TO:<eve", "x\ny", "x\ry", "x\0y", "x\x7fy", "\ud800"])
def test_an_address_can_be_no_command(tmp_path: Path, evil: str) -> None:
    job = delivery(tmp_path, Recipient(Address(evil, "there.test")), ONE)
    outcomes, host = send(job)
    assert results(outcomes) == [("failed", "5.1.3"), ("delivered", "2.0.0")]
    assert commands(host, "RCPT") == ["RCPT TO:<ann@there.test>"]
    outcomes, host = send(job._replace(recipients=(ONE,), sender=Address(evil, "here.test")))
    assert results(outcomes) == [("failed", "5.1.7")]
    assert commands(host, "MAIL") == []


def test_8bit_content(tmp_path: Path) -> None:
    job = delivery(tmp_path, letter=b"A: b\n\n\xc3\xa4\n", body_8bit=True)
    outcomes, host = send(job)
    assert results(outcomes) == [("delivered", "2.0.0")]
    assert "BODY=8BITMIME" in host.messages[0].mail
    outcomes, host = send(job, LITTLE)
    assert results(outcomes) == [("failed", "5.6.3")]
    assert host.messages == []


def test_international_addresses(tmp_path: Path) -> None:
    other = Recipient(Address("änn", "there.test"), original="utf-8;änn@there.test")
    outcomes, host = send(delivery(tmp_path, other, ONE, smtputf8=True))
    assert results(outcomes) == [("delivered", "2.0.0")] * 2
    assert host.messages[0].mail.endswith("BODY=8BITMIME SMTPUTF8")
    assert host.messages[0].rcpts[0] == "RCPT TO:<änn@there.test> ORCPT=utf-8;\\x{E4}nn@there.test"
    outcomes, host = send(delivery(tmp_path, other, ONE, smtputf8=True), LITTLE)
    assert results(outcomes) == [("failed", "5.6.7"), ("delivered", "2.0.0")]
    job = delivery(tmp_path, smtputf8=True)._replace(sender=Address("é", "here.test"))
    outcomes, host = send(job, LITTLE)
    assert results(outcomes) == [("failed", "5.6.7")]
    assert host.messages == []


def test_an_international_header(tmp_path: Path) -> None:
    job = delivery(tmp_path, letter="Subject: ä\n\nx\n".encode(), smtputf8=True)
    outcomes, _ = send(job)
    assert results(outcomes) == [("delivered", "2.0.0")]
    outcomes, host = send(job, {"EHLO": "250-remote.test\n250 8BITMIME"})
    assert results(outcomes) == [("failed", "5.6.9")]
    assert host.messages == []


@pytest.mark.parametrize(
    ("limit", "fits"), [("100", False), ("0", True), ("", True), ("x", True), ("9" * 50, True)]
)
def test_size(tmp_path: Path, limit: str, fits: bool) -> None:
    job = delivery(tmp_path, letter=b"A: b\n\n" + b"x" * 100 + b"\n")
    outcomes, host = send(job, {"EHLO": f"250-remote.test\n250 SIZE {limit}"})
    assert results(outcomes) == [("delivered", "2.0.0") if fits else ("failed", "5.3.4")]
    assert commands(host, "MAIL") == ([f"MAIL FROM:<a@here.test> SIZE={job.size}"] if fits else [])


def test_more_recipients_than_one_transaction_takes(tmp_path: Path) -> None:
    people = [Recipient(Address(f"u{number}", "there.test")) for number in range(25)]
    outcomes, host = send(delivery(tmp_path, *people), limits=Limits(recipients=10))
    assert results(outcomes) == [("delivered", "2.0.0")] * 25
    assert [len(message.rcpts) for message in host.messages] == [10, 10, 5]
    assert host.connections == 1


@pytest.mark.parametrize("reply", ["452 4.5.3 too many", "452 too many", "552 too many recipients"])
def test_a_host_that_takes_few_recipients_at_once(tmp_path: Path, reply: str) -> None:
    people = [Recipient(Address(f"u{number}", "there.test")) for number in range(4)]
    outcomes, host = send(delivery(tmp_path, *people), {"RCPT": ["250 ok", "250 ok", reply, reply, "250 ok"]})
    assert results(outcomes) == [("delivered", "2.0.0")] * 4
    assert [len(message.rcpts) for message in host.messages] == [2, 2]


def test_a_host_that_takes_too_few_recipients_for_ever(tmp_path: Path) -> None:
    people = [Recipient(Address(f"u{number}", "there.test")) for number in range(3)]
    outcomes, host = send(delivery(tmp_path, *people), {"RCPT": ["250 ok", "452 no", "452 no", "452 no"]})
    assert results(outcomes) == [("delivered", "2.0.0"), ("deferred", "4.0.0"), ("deferred", "4.0.0")]
    assert commands(host, "RSET") == ["RSET"]


def test_nothing_is_sent_for_nobody(tmp_path: Path) -> None:
    _, host = send(delivery(tmp_path), {"RCPT": "550 no"})
    assert commands(host, "DATA") == []
    assert host.commands[-2:] == ["RSET", "QUIT"]


def test_lmtp_answers_for_each(tmp_path: Path) -> None:
    people = [Recipient(Address(name, "there.test")) for name in ("ann", "bob", "cid", "dan")]
    script: Script = {
        "RCPT bob@there.test": "550 5.1.1 no bob",
        "end cid@there.test": "452 4.2.2 full",
        "end dan@there.test": "552 5.2.3 too big for dan",
    }
    outcomes, host = send(delivery(tmp_path, *people), script, lmtp=True)
    assert results(outcomes) == [
        ("delivered", "2.0.0"),
        ("failed", "5.1.1"),
        ("deferred", "4.2.2"),
        ("failed", "5.2.3"),
    ]
    assert host.commands[0] == "LHLO here.test"
    assert outcomes[0].final
    assert outcomes[0].remote == f"127.0.0.1[127.0.0.1]:{host.port}"


def test_lmtp_all_answers_at_once(tmp_path: Path) -> None:
    people = [Recipient(Address(name, "there.test")) for name in ("ann", "bob", "cid")]
    script: Script = {
        "end ann@there.test": b"250-2.0.0 for\r\n250 2.0.0 ann\r\n452 4.2.2 full\r\n25",
        "end bob@there.test": b"",
        "end": b"0 2.0.0 ok\r\n",
    }
    outcomes, _ = send(delivery(tmp_path, *people), script, lmtp=True)
    assert results(outcomes) == [("delivered", "2.0.0"), ("deferred", "4.2.2"), ("delivered", "2.0.0")]
    assert outcomes[0].text == "for ann"


def test_lmtp_breaks_off_between_answers(tmp_path: Path) -> None:
    people = [Recipient(Address(name, "there.test")) for name in ("ann", "bob")]
    outcomes, _ = send(delivery(tmp_path, *people), {"end bob@there.test": HANGUP}, lmtp=True)
    assert results(outcomes) == [("delivered", "2.0.0"), ("deferred", "4.4.2")]
    assert "after the end of data" in outcomes[1].text


def test_a_message_that_cannot_be_read(tmp_path: Path) -> None:
    def gone(flags: int) -> int:
        raise FileNotFoundError(2, "secret path")

    outcomes, host = send(delivery(tmp_path)._replace(content=gone))
    assert results(outcomes) == [("deferred", "4.3.0")]
    assert "path" not in str(outcomes)
    assert host.messages == []


def test_an_attempt_has_an_end(tmp_path: Path) -> None:
    """A host that is never quite too slow for one step is too slow for all of them."""
    people = [Recipient(Address(f"u{number}", "there.test")) for number in range(100)]
    slow: Any = {"RCPT": b"250-wait\r\n"}
    outcomes, _ = send(delivery(tmp_path, *people), slow, limits=Limits(attempt=0.2, rate=10**9))
    assert set(results(outcomes)) == {("deferred", "4.4.2")}


# ---- many commands at once (RFC 2920)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_commands_go_together(tmp_path: Path, piece: int) -> None:
    """The host says nothing before it has seen DATA, and then everything in pieces of any size."""
    seen = b""

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        for until, reply in (
            (b"", b"220 remote.test\r\n"),
            (b"\r\n", b"250-remote.test\r\n250 PIPELINING\r\n"),
            (b"\r\nDATA\r\n", b"250-all\r\n250 right\r\n250 ann\r\n550 5.1.1 no bob\r\n354 go\r\n"),
            (b"\r\n.\r\n", b"250 taken\r\n"),
            (b"QUIT\r\n", b"221 bye\r\n"),
        ):
            seen += await reader.readuntil(until) if until else b""
            for start in range(0, len(reply), piece):
                writer.write(reply[start : start + piece])
                await asyncio.sleep(0)
        writer.close()

    async def whole() -> Sequence[Outcome]:
        pool = Pool("test", 1, 10)
        server = await asyncio.start_server(host, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        relay = Relay(name="out", hosts=(Host("127.0.0.1", port),), tls=Level.NONE)
        courier = Smarthost(relay, Manner("here.test", Limits(mail=1)), pool)
        outcomes = await courier.deliver(delivery(tmp_path, "ann@there.test", "bob@there.test"))
        await courier.close()
        server.close()
        pool.close()
        return outcomes

    assert results(asyncio.run(whole())) == [("delivered", "2.0.0"), ("failed", "5.1.1")]
    assert b"RCPT TO:<ann@there.test>\r\nRCPT TO:<bob@there.test>\r\nDATA\r\n" in seen


def test_a_host_that_wants_content_for_nobody_gets_an_empty_one(tmp_path: Path) -> None:
    script: Script = {**PIPELINING, "RCPT": "550 5.1.1 no", "end": "554 5.5.1 no valid recipients"}
    outcomes, host = send(delivery(tmp_path, "ann@there.test", "bob@there.test"), script)
    assert results(outcomes) == [("failed", "5.1.1")] * 2
    assert [(message.rcpts, message.wire) for message in host.messages] == [([], b".\r\n")]
    assert host.commands[-2:] == ["RSET", "QUIT"]


def test_lmtp_content_for_nobody_would_have_no_answer(tmp_path: Path) -> None:
    outcomes, host = send(delivery(tmp_path), {**PIPELINING, "RCPT": "550 5.1.1 no"}, lmtp=True)
    assert results(outcomes) == [("failed", "5.1.1")]
    assert host.messages == []


def test_what_follows_a_refused_sender_counts_for_nothing(tmp_path: Path) -> None:
    again = "503 5.5.1 MAIL first"
    for rest in ("250 2.1.5 ok", again, "421 4.3.2 I am off"):
        script: Script = {**PIPELINING, "MAIL": "550 5.7.1 not you", "RCPT": rest, "DATA": again}
        outcomes, host = send(delivery(tmp_path), script)
        assert results(outcomes) == [("failed", "5.7.1")]
        assert host.connections == 1
        assert host.messages == []


def test_more_commands_than_go_together(tmp_path: Path) -> None:
    people = [Recipient(Address(f"u{number}", "there.test")) for number in range(100)]
    long = "250-" + "x" * 500 + "\n250 ok"
    outcomes, host = send(delivery(tmp_path, *people), {**PIPELINING, "RCPT": long})
    assert results(outcomes) == [("delivered", "2.0.0")] * 100
    assert [len(message.rcpts) for message in host.messages] == [100]

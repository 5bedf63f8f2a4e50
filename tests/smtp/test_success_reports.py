"""NOTIFY=SUCCESS for mail that stays here, and for aliases of several addresses (RFC 3461 §5.2.3, §5.2.7.3)."""

from __future__ import annotations

import asyncio
import email
import time
from collections.abc import Callable, Iterator, Sequence
from email.message import Message
from functools import partial
from pathlib import Path

import pytest
from conversation import Memory
from outbound import ROOT, Outbound

from mailserver.mail.address import Address
from mailserver.queue.courier import Delivery, Kind, Outcome, Pace, Route
from mailserver.queue.reports import Reports
from mailserver.queue.runner import Runner
from mailserver.queue.schedule import Schedule
from mailserver.smtp.server import Session
from mailserver.transport.listener import Peer

MAIL = "MAIL FROM:<bob@example.test>"


@pytest.fixture
def office(memory_path: Path) -> Iterator[Outbound]:
    made = Outbound(memory_path)
    yield made
    made.close()


class Elsewhere:
    """Every other host: takes everything, passes reports on, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, set[str]] = {}

    def route(self, sender: Address | None, recipient: Address) -> Route:
        return recipient.domain

    def courier_for(self, route: Route) -> Elsewhere:
        return self

    def pace(self, route: Route) -> Pace:
        return Pace()

    async def deliver(self, delivery: Delivery) -> Sequence[Outcome]:
        for recipient in delivery.recipients:
            self.asked[str(recipient.address)] = set(recipient.notify)
        return [
            Outcome(Kind.DELIVERED, 250, "2.0.0", "taken", dsn_passed_on=True) for _ in delivery.recipients
        ]


async def converse(new: Callable[[], Session], *lines: str) -> bytes:
    session = new()
    wire = Memory(session)
    verb = "LHLO" if session.site.policy.lmtp else "EHLO"
    wire.send(
        "\r\n".join([f"{verb} c.test", *lines, "DATA", "Subject: hi", "", "x", ".", "QUIT", ""]).encode()
    )
    heard = b""
    while block := await wire.receive():
        heard += block
    return heard


def send(office: Outbound, new: Callable[[], Session], *lines: str) -> Elsewhere:
    """Bring a message in, and let the queue run until it is empty."""
    elsewhere = Elsewhere()

    async def whole() -> None:
        heard = await converse(new, *lines)
        assert b"\r\n354 " in heard
        assert heard.count(b"\r\n250 2.0.0 OK ") == 1
        reports = Reports(
            office.spool,
            office.pool,
            office.posting,
            Schedule(),
            "mx.test",
            office.posting.postmaster,
        )
        runner = Runner(office.spool, office.pool, elsewhere, reports, time.time)
        runner.start()
        while list(office.spool.ids()):
            await asyncio.sleep(0.005)
        await runner.stop(0)

    async def bounded() -> None:
        async with asyncio.timeout(20):
            await whole()

    asyncio.run(bounded())
    return elsewhere


def submission(office: Outbound) -> Callable[[], Session]:
    return partial(office.submission, peer=Peer("unix", 0, ROOT, False))


def reports(office: Outbound, user: str = "bob") -> list[tuple[list[str], Message]]:
    """Of each report its actions, as `address action`, and the whole."""
    found = []
    for file in office.messages(user):
        report = email.message_from_bytes(file.read_bytes())
        if report.get_content_type() == "multipart/report":
            groups = report.get_payload(1).get_payload()[1:]  # type: ignore[union-attr,index]
            lines = [f"{group['Final-Recipient'].partition(';')[2]} {group['Action']}" for group in groups]
            found.append((lines, report))
    return found


def test_what_is_in_a_mailbox_is_reported_as_delivered(office: Outbound) -> None:
    rcpt = "RCPT TO:<ann@example.test> NOTIFY=SUCCESS ORCPT=rfc822;old@here.test"
    send(office, office.session, f"{MAIL} RET=FULL ENVID=QQ314", rcpt)
    assert len(office.messages("ann")) == 1
    ((actions, report),) = reports(office)
    assert actions == ["ann@example.test delivered"]
    message, recipient = report.get_payload(1).get_payload()  # type: ignore[union-attr,misc]
    assert message["Original-Envelope-Id"] == "QQ314"  # type: ignore[index,call-overload]
    assert recipient["Original-Recipient"] == "rfc822;old@here.test"  # type: ignore[index,call-overload]
    assert recipient["Status"] == "2.0.0"  # type: ignore[index,call-overload]
    assert recipient["Remote-MTA"] is None  # type: ignore[index,call-overload]
    assert report["Return-Path"] == "<>"
    returned = report.get_payload(2)
    assert returned.get_content_type() == "text/rfc822-headers"  # type: ignore[union-attr]


@pytest.mark.parametrize("notify", ["", " NOTIFY=NEVER", " NOTIFY=FAILURE,DELAY"])
def test_who_does_not_ask_hears_nothing(office: Outbound, notify: str) -> None:
    send(office, office.session, MAIL, f"RCPT TO:<ann@example.test>{notify}")
    assert len(office.messages("ann")) == 1
    assert office.messages("bob") == []
    assert office.announced == []


def test_nobody_is_told_nothing(office: Outbound) -> None:
    send(office, office.session, "MAIL FROM:<>", "RCPT TO:<ann@example.test> NOTIFY=SUCCESS")
    assert office.announced == []
    assert [len(office.messages(user)) for user in ("ann", "bob", "postmaster")] == [1, 0, 0]


def test_one_report_for_all_recipients(office: Outbound) -> None:
    recipients = [f"RCPT TO:<{name}@example.test> NOTIFY=SUCCESS" for name in ("ann", "ann+x", "postmaster")]
    send(
        office,
        office.session,
        MAIL,
        *recipients,
        "RCPT TO:<a b@example.test>",
        'RCPT TO:<"a b"@example.test>',
    )
    ((actions, _),) = reports(office)
    assert actions == [f"{name}@example.test delivered" for name in ("ann", "ann+x", "postmaster")]


def test_an_alias_of_several_is_expanded_and_none_of_them_reports_success(office: Outbound) -> None:
    asked = send(office, office.session, MAIL, "RCPT TO:<keep@example.test> NOTIFY=SUCCESS,FAILURE").asked
    ((actions, _),) = reports(office)
    assert actions == ["keep@example.test expanded"]
    assert asked == {"copy@elsewhere.test": {"FAILURE"}}
    assert len(office.messages("ann")) == 1


def test_who_wants_to_hear_of_success_alone_hears_of_no_failure_behind_an_alias(office: Outbound) -> None:
    asked = send(office, office.session, MAIL, "RCPT TO:<two@example.test> NOTIFY=SUCCESS").asked
    assert asked == {"one@elsewhere.test": {"NEVER"}, "two@other.test": {"NEVER"}}


def test_an_alias_of_one_hands_the_wish_on(office: Outbound) -> None:
    asked = send(office, office.session, MAIL, "RCPT TO:<away@example.test> NOTIFY=SUCCESS").asked
    assert asked == {"somebody@elsewhere.test": {"SUCCESS"}}
    assert reports(office) == []


def test_the_address_itself_goes_before_an_alias_that_leads_there(office: Outbound) -> None:
    recipients = ("RCPT TO:<two@example.test> NOTIFY=NEVER", "RCPT TO:<one@elsewhere.test> NOTIFY=SUCCESS")
    asked = send(office, submission(office), MAIL, *recipients).asked
    assert asked == {"one@elsewhere.test": {"SUCCESS"}, "two@other.test": {"NEVER"}}


def test_submitted_mail_is_reported_too(office: Outbound) -> None:
    send(office, submission(office), MAIL, "RCPT TO:<ann@example.test> NOTIFY=SUCCESS")
    ((actions, _),) = reports(office)
    assert actions == ["ann@example.test delivered"]


def test_nothing_is_reported_that_was_not_stored(office: Outbound) -> None:
    """The mailbox refuses after the queue was ready: neither is there, and the client may come again."""
    (office.mail / "example.test" / "ann").mkdir(parents=True)
    (office.mail / "example.test" / "ann" / "new").write_text("in the way")
    heard = asyncio.run(converse(office.session, MAIL, "RCPT TO:<ann@example.test> NOTIFY=SUCCESS"))
    assert b"\r\n451 4.3.0 " in heard
    assert office.entries() == []
    assert office.staged() == []
    assert list(Path(office.spool.root, "msg").iterdir()) == []


def test_a_full_mailbox_is_full_whether_success_is_reported_or_not(office: Outbound) -> None:
    size = 4000
    rcpt = "RCPT TO:<small@example.test> NOTIFY=SUCCESS"
    heard = asyncio.run(converse(office.session, MAIL, rcpt, "DATA", "x" * size, ".", MAIL, rcpt))
    assert heard.count(b"\r\n452 4.2.2 ") == 1
    assert heard.count(b"\r\n250 2.0.0 OK ") == 1
    assert [entry.size < size for entry in office.entries()] == [True]


def test_lmtp_leaves_reports_to_its_client(office: Outbound) -> None:
    """RFC 2033: he has the queue. So DSN is not offered, and its parameters are none."""
    lines = (MAIL, "RCPT TO:<ann@example.test> NOTIFY=SUCCESS", "RCPT TO:<ann@example.test>")
    heard = asyncio.run(converse(partial(office.session, lmtp=True), *lines))
    assert b"250-DSN" not in heard
    assert heard.count(b"\r\n555 5.5.4 ") == 1
    heard = asyncio.run(converse(partial(office.session, lmtp=True), f"{MAIL} RET=HDRS"))
    assert b"\r\n555 5.5.4 " in heard
    assert office.announced == []

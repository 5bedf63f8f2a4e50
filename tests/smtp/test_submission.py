"""Submission beside the dialogue: what is added to a message, what is logged, and what a queue entry says."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conversation import Memory
from hypothesis import given
from hypothesis import strategies as st
from outbound import PASSWORD, ROOT, Outbound

from mailserver import maillog
from mailserver.mail.address import Address
from mailserver.mail.sasl import RESPONSE_OCTETS
from mailserver.mta.route import TROUBLE
from mailserver.smtp.header import MalformedHeader, completed
from mailserver.transport.listener import Peer

CLIENT = Peer("192.0.2.77", 40000, None, True)
ADDED = rb"Date: [^\n]+\nMessage-ID: <[^\n]+@mx\.example\.test>\nFrom: %s\n"


@pytest.fixture
def office(memory_path: Path) -> Iterator[Outbound]:
    made = Outbound(memory_path)
    yield made
    made.close()


def response(user: str, password: str = PASSWORD) -> str:
    return base64.b64encode(f"\0{user}@example.test\0{password}".encode()).decode()


def submit(
    office: Outbound,
    message: str,
    *,
    login: str = "ann",
    sender: str = "ann@example.test",
    to: tuple[str, ...] = ("x@elsewhere.test",),
    parameters: str = "",
    peer: Peer = CLIENT,
    **settings: object,
) -> bytes:
    """What the server says to a client that logs in and submits one message."""
    lines = ["EHLO laptop.client.test"]
    lines += [f"AUTH PLAIN {response(login)}"] if login else []
    lines += [
        f"MAIL FROM:<{sender}>{parameters}",
        *(f"RCPT TO:<{address}" + ">" * (">" not in address) for address in to),
        "DATA",
    ]

    async def converse() -> bytes:
        wire = Memory(office.submission(peer=peer, **settings))  # type: ignore[arg-type]
        wire.send("\r\n".join([*lines, message.replace("\n", "\r\n") + ".", "QUIT", ""]).encode())
        heard = b""
        async with asyncio.timeout(20):
            while block := await wire.receive():
                heard += block
            while office.reception._discarding:
                await asyncio.sleep(0)
        return heard

    return asyncio.run(converse())


def stored(office: Outbound) -> bytes:
    """The one entry's content."""
    (entry,) = office.entries()
    return office.queued_content(entry)


# ---- what is added


def test_what_is_missing_is_added(office: Outbound) -> None:
    submit(office, "Subject: hi\nTo: x@elsewhere.test\n\nHello.\n")
    top, _, rest = stored(office).partition(b"Date: ")
    assert re.fullmatch(
        ADDED % rb"ann@example\.test" + rb"Subject: hi\nTo: x@elsewhere\.test\n\nHello\.\n", b"Date: " + rest
    )
    assert top.startswith(
        b"Received: from laptop.client.test ([192.0.2.77])\n\tby mx.example.test with ESMTPSA id "
    )
    assert b"for <x@elsewhere.test>" in top


def test_what_is_there_stays_as_it_is(office: Outbound) -> None:
    message = (
        "date: yesterday\nMESSAGE-ID:\n <mine>\nfrom : Somebody\n <else>\nX: y\n\nFrom: text\nBcc: text\n"
    )
    submit(office, message)
    assert stored(office).endswith(b"+0000\n" + message.encode())


@pytest.mark.parametrize("empty", ["", " ", "\n ", " \n\t \n "])
def test_what_is_empty_is_missing(empty: str, office: Outbound) -> None:
    submit(office, f"Subject: hi\nDATE:{empty}\nMessage-ID :{empty}\nFrom:{empty}\nTo:\n\nDate:\n")
    found = re.search(ADDED % rb"ann@example\.test", stored(office))
    assert found
    assert stored(office)[found.end() :] == b"Subject: hi\nTo:\n\nDate:\n"


def test_blind_copies_stay_blind(office: Outbound) -> None:
    submit(
        office,
        "Date: d\nBCC: secret@elsewhere.test,\n  more@elsewhere.test\nMessage-ID: <m>\n"
        "resent-bcc: more\nFrom: f\nX-Bcc: kept\nBcc:\nTo: t\n\nBcc: text\n",
    )
    assert stored(office).endswith(b"\nDate: d\nMessage-ID: <m>\nFrom: f\nX-Bcc: kept\nTo: t\n\nBcc: text\n")


@pytest.mark.parametrize("text", ["\nHello\nBcc: text\n", "", "\n"])
def test_a_text_without_a_header_gets_one(text: str, office: Outbound) -> None:
    submit(office, text)
    found = re.search(ADDED % rb"ann@example\.test", stored(office))
    assert found
    assert stored(office)[found.end() :] == text.encode()


@pytest.mark.parametrize(
    "line",
    [
        "garbage line",
        "\ufeffBcc: secret@elsewhere.test",
        "Bcc\v: secret@elsewhere.test",
        " leading: space",
        "\tSubject: x",
        "Bcc\n : secret@elsewhere.test",
        ": secret",
        ">From ann@example.test Mon",
        "From ann@example.test Mon\nFrom ann@example.test Mon",
    ],
)
@pytest.mark.parametrize("before", ["", "Subject: x\n"])
def test_a_malformed_header_hides_no_blind_copy(before: str, line: str, office: Outbound) -> None:
    if before and line[0] in " \t":
        line = "words"  # there it would be folded
    heard = submit(office, f"{before}{line}\nBcc: secret@elsewhere.test\nTo: t\n\nx\n")
    assert b"\r\n554 5.6.0 Malformed header" in heard
    assert office.entries() == []


def test_the_first_line_of_a_mailbox_file_goes(office: Outbound) -> None:
    submit(office, "From ann@example.test Mon Jan  5 10:00:00 2026\nBcc: s@elsewhere.test\nTo: t\n\nx\n")
    assert stored(office).endswith(b"\nFrom: ann@example.test\nTo: t\n\nx\n")


def test_the_author_of_a_trusted_process_is_the_sender(office: Outbound) -> None:
    socket = Peer("unix", 0, ROOT, False)
    submit(office, "\nx\n", login="", sender="bob@example.test", peer=socket)
    (entry,) = office.entries()
    assert re.search(ADDED % rb"bob@example\.test", stored(office))
    assert b"with ESMTP id" in stored(office)
    assert entry.user == "uid 0"
    office.spool.remove(entry.id)
    submit(office, "\nx\n", login="", sender="", peer=socket)
    assert re.search(ADDED % rb"postmaster@example\.test", stored(office))


def test_the_client_is_kept_out_of_the_message_where_it_is_to_be(office: Outbound) -> None:
    submit(office, "Subject: hi\n\n", hide_client=True)
    assert b"192.0.2.77" not in stored(office)
    assert b"laptop" not in stored(office)
    assert stored(office).startswith(b"Received: from client (hidden)\n\tby mx.example.test with ESMTPSA")


def test_sizes_count_what_was_added_and_taken_away(office: Outbound) -> None:
    submit(office, "Bcc: " + "x" * 500 + "\nSubject: hi\n\nHello.\n")
    (entry,) = office.entries()
    content = office.queued_content(entry)
    assert entry.size == len(content)
    assert entry.wire_size == len(content.replace(b"\n", b"\r\n"))


LINE = st.sampled_from(
    [
        "Subject: a",
        "Bcc: b",
        " folded",
        "Date: d",
        "from:f",
        "text",
        "X-Y_z!: q",
        "bcc :",
        "ä: x",
        ": y",
        "Date:",
    ]
)


@given(st.lists(LINE, max_size=6))
def test_no_line_is_lost_but_blind_copies(lines: list[str]) -> None:
    header = "".join(f"{line}\n" for line in lines).encode()
    ann = Address("ann", "example.test")
    if {"text", "ä: x", ": y"}.intersection(lines) or lines[:1] == [" folded"]:
        with pytest.raises(MalformedHeader):
            completed(header, now=0, message_id="<m@h>", author=ann)
        return
    whole = completed(header, now=0, message_id="<m@h>", author=ann)
    found = whole.split(b"\n")
    assert {b"date", b"from", b"message-id"} <= {line.partition(b":")[0].lower() for line in found}
    assert b"bcc" not in whole.lower()
    blind = False
    for line in header.splitlines():
        blind = line.lower().startswith(b"bcc") or (blind and line.startswith(b" "))
        assert blind or line in (b"Date:", *found)
    assert completed(whole, now=9, message_id="<n@h>", author=Address("bob", "x.test")) == whole


# ---- traces of delivery


def test_return_path_is_for_mailboxes_alone(office: Outbound) -> None:
    submit(office, "\nx\n")
    assert b"Return-Path" not in stored(office)
    submit(office, "\nx\n", to=("bob@example.test", "y@elsewhere.test"))
    (file,) = office.messages("bob")
    assert file.read_bytes().startswith(b"Return-Path: <ann@example.test>\nReceived: ")


@pytest.mark.parametrize(
    "field",
    [
        "Delivered-To: away@example.test",
        "Delivered-To: <away@example.test>",
        "Delivered-To:\n away@example.test",
        "Delivered-To : Away@Example.Test ",
        "delivered-to: \n\t<away@\n example.test>\n ",
        "Delivered-To: away+zz@example.test",
        "Delivered-To: ann@example.test\nDelivered-To: away+a+b@example.test",
    ],
)
def test_an_alias_knows_its_mail_again_however_the_field_is_written(field: str, office: Outbound) -> None:
    heard = submit(office, f"Subject: x\n{field}\nTo: t\n\nx\n", to=("away@example.test",))
    assert b"\r\n554 5.4.6 " in heard
    assert office.entries() == []


@pytest.mark.parametrize(
    "field",
    [
        "Delivered-To: away@elsewhere.test",
        "Delivered-To: xaway@example.test",
        "Delivered-To: zz+away@example.test",
        "Delivered-To:\nX: away@example.test",
        "X-Delivered-To: away@example.test",
        "Delivered-To: away-zz@example.test",
    ],
)
def test_mail_that_passed_others_is_forwarded(field: str, office: Outbound) -> None:
    assert b"\r\n554" not in submit(office, f"{field}\nTo: t\n\nx\n", to=("away@example.test",))
    assert len(office.entries()) == 1


@pytest.mark.parametrize("name", ["Received:", "RECEIVED :", "Received\t:"])
def test_hops_are_counted_however_the_field_is_written(name: str, office: Outbound) -> None:
    assert b"\r\n554 5.4.6 Too many hops" in submit(office, f"{name} x\n" * 3 + "\nx\n", received=2)


@pytest.mark.parametrize(
    ("to", "lines"),
    [
        (("away@example.test",), [b"Delivered-To: away@example.test"]),
        (("nested@example.test",), [b"Delivered-To: away@example.test"]),
        (("keep@example.test",), [b"Return-Path: <ann@example.test>", b"Delivered-To: keep@example.test"]),
        (("whoever@away.test",), [b"Delivered-To: whoever@away.test"]),
        (("both@example.test",), [b"Return-Path: <ann@example.test>"]),  # two aliases lead away
        (("away@example.test", "bob@example.test"), [b"Return-Path: <ann@example.test>"]),
    ],
)
def test_the_alias_that_leads_away_is_named(
    to: tuple[str, ...], lines: list[bytes], office: Outbound
) -> None:
    submit(office, "\nx\n", to=to)
    assert stored(office).partition(b"Received: ")[0].split(b"\n") == [*lines, b""]


# ---- the queue's entry


def test_an_entry_says_what_the_client_said(office: Outbound) -> None:
    to = ("x@elsewhere.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;old@elsewhere.test", "y@elsewhere.test>")
    submit(office, "\nx\n", to=to, parameters=" RET=HDRS ENVID=QQ314 BODY=8BITMIME SMTPUTF8")
    (entry,) = office.entries()
    assert (entry.ret, entry.envid, entry.body_8bit, entry.smtputf8) == ("HDRS", "QQ314", True, True)
    assert entry.user == "ann@example.test"
    first, second = (queued.recipient for queued in entry.recipients)
    assert (first.notify, first.original) == ({"SUCCESS", "DELAY"}, "rfc822;old@elsewhere.test")
    assert (second.notify, second.original) == (frozenset(), None)


def test_forwarded_mail_remembers_whom_the_sender_wrote_to(office: Outbound) -> None:
    submit(office, "\nx\n", to=("away+a=b@example.test",))
    (entry,) = office.entries()
    assert entry.recipients[0].recipient.original == "rfc822;away+2Ba+3Db@example.test"


def test_the_queue_and_the_mailboxes_have_it_together_or_not_at_all(office: Outbound) -> None:
    (Path(office.spool.root) / "msg").rename(Path(office.spool.root) / "elsewhere")
    heard = submit(office, "\nx\n", to=("bob@example.test", "x@elsewhere.test"))
    assert str(TROUBLE).encode() in heard
    assert office.messages("bob") == []
    assert office.entries() == []
    assert office.staged() == []
    assert office.announced == []


# ---- secrets, limits


def test_no_password_is_ever_logged(office: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: logged.append(f"{name} {fields}"))
    for lines in (
        [f"AUTH PLAIN {response('ann', 'geheim')}"],
        ["AUTH PLAIN", response("ann", "geheim")],
        ["AUTH LOGIN", base64.b64encode(b"ann").decode(), base64.b64encode(b"geheim").decode()],
        [f"AUTH XYZZY {response('ann', 'geheim')}"],
    ):
        heard = talk(office, "EHLO client.test", *lines, "MAIL FROM:<ann@example.test>", "NOOP", "QUIT")
        logged.append(heard.decode())
    submit(office, "\nx\n")
    text = "\n".join(logged)
    assert "received" in text
    assert "'user': 'ann@example.test'" in text
    for secret in (
        "geheim",
        PASSWORD,
        response("ann", "geheim"),
        response("ann"),
        base64.b64encode(b"geheim").decode(),
    ):
        assert secret not in text


def talk(office: Outbound, *lines: str) -> bytes:
    async def converse() -> bytes:
        wire = Memory(office.submission(peer=CLIENT))
        wire.send("".join(f"{line}\r\n" for line in lines).encode())
        heard = b""
        async with asyncio.timeout(20):
            while block := await wire.receive():
                heard += block
        return heard

    return asyncio.run(converse())


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (8_000, b"501 5.5.2"),
        (RESPONSE_OCTETS - 2, b"501 5.5.2"),
        (RESPONSE_OCTETS, b"500 5.5.6"),
        (200_000, b"500 5.5.6"),
    ],
)
def test_long_responses(octets: int, code: bytes, office: Outbound) -> None:
    heard = talk(office, "EHLO client.test", "AUTH PLAIN", "!" * octets, "NOOP", "QUIT")
    after = heard.partition(b"\r\n334 \r\n")[2].split(b"\r\n")
    assert after[0].startswith(code)
    assert after[1] == b"250 2.0.0 OK"


@pytest.mark.parametrize(("octets", "code"), [(12_000, b"501 5.5.2"), (13_000, b"500 5.5.2")])
def test_long_initial_responses(octets: int, code: bytes, office: Outbound) -> None:
    heard = talk(office, "EHLO client.test", "AUTH PLAIN " + "!" * octets, "NOOP", "QUIT")
    after = heard.partition(b"250 HELP\r\n")[2].split(b"\r\n")
    assert after[0].startswith(code)
    assert after[1] == b"250 2.0.0 OK"


def test_the_authenticator_hears_where_a_login_comes_from(office: Outbound) -> None:
    submit(office, "\nx\n")
    assert office.authenticator.asked == [("ann@example.test", "192.0.2.77", "submission")]

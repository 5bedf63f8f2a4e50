"""Delivery reports, read back with Python's email package, as a program at the other end would."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, Message
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.mail import dsn
from mailserver.mail.address import Address
from mailserver.mail.dsn import Action, Fate, Letter, Report
from mailserver.mail.envelope import Recipient, original_recipient

ANN = Address("ann", "here.test")
ORIGINAL = b"Subject: hello\nFrom: ann@here.test\n\nThe words of it.\n\nAnd more.\n"
FAILED = Fate(
    Recipient(Address("x", "far.test"), original="rfc822;x+2Bold@far.test"),
    Action.FAILED,
    "5.1.1",
    reply="550 5.1.1 no such user",
    remote="mx.far.test",
    last_attempt=1_700_000_100,
)


def report(*fates: Fate, **changes: Any) -> Report:
    given: dict[str, Any] = {
        "name": "M1.1700000200",
        "hostname": "mx.here.test",
        "sender": Address("postmaster", "here.test"),
        "recipient": ANN,
        "now": 1_700_000_200.0,
        "arrived": 1_700_000_000.0,
        "fates": fates or (FAILED,),
        "original": ORIGINAL,
        "whole": True,
    }
    return Report(**{**given, **changes})


def read(letter: Letter) -> tuple[EmailMessage, str, list[Message], EmailMessage]:
    """The report, its words, its groups of fields, and the part that returns the message."""
    message = cast(EmailMessage, email.message_from_bytes(letter.content, policy=email.policy.default))
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    words, status, returned = message.iter_parts()
    assert not any(part.defects for part in message.walk())
    return message, words.get_content(), groups(status), cast(EmailMessage, returned)


def groups(status: Message) -> list[Message]:
    payload = cast(list[Message], status.get_payload())
    if status.get_content_type() == "message/delivery-status":
        return [part for part in payload if part.items()]
    (first,) = payload  # the package takes message/global-delivery-status for a message
    rest = first.get_payload(decode=True)
    assert isinstance(rest, bytes)
    return [
        first,
        *(email.message_from_bytes(group, policy=email.policy.default) for group in rest.split(b"\n\n")),
    ]


def test_failure() -> None:
    letter = dsn.compose(report(envid="QQ+2B1"))
    message, words, (about, recipient), returned = read(letter)
    assert not letter.body_8bit
    assert not letter.smtputf8
    assert message["To"] == "ann@here.test"
    assert message["From"] == "Mail delivery <postmaster@here.test>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<M1.1700000200@mx.here.test>"
    assert "could not be delivered" in message["Subject"]
    assert "<x@far.test>" in words
    assert "550 5.1.1 no such user" in words
    assert dict(about.items()) == {
        "Original-Envelope-Id": "QQ+1",
        "Reporting-MTA": "dns; mx.here.test",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 +0000",
    }
    assert dict(recipient.items()) == {
        "Original-Recipient": "rfc822;x+old@far.test",
        "Final-Recipient": "rfc822;x@far.test",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.far.test",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Tue, 14 Nov 2023 22:15:00 +0000",
    }
    assert returned.get_content_type() == "message/rfc822"
    inner = cast(Message, returned.get_payload(0))
    assert inner["Subject"] == "hello"
    assert inner.get_payload() == "The words of it.\n\nAnd more.\n"


@pytest.mark.parametrize("remote", ["mx.far.test", "", "far.test"])
@pytest.mark.parametrize("reply", ["5.1.2 there is no domain far.test", "4.4.1 the host does not answer", ""])
def test_where_no_host_spoke_none_is_quoted(remote: str, reply: str) -> None:
    """RFC 3464 §2.3.5, §2.3.6: a diagnostic of ours is no SMTP reply, and reported by no remote MTA."""
    letter = dsn.compose(report(FAILED._replace(reply=reply, remote=remote)))
    _, words, (_, recipient), _ = read(letter)
    assert " said" not in words
    assert recipient["Remote-MTA"] is None
    assert not str(recipient["Diagnostic-Code"]).startswith("smtp")
    assert reply in " ".join(words.split())


def test_header_only() -> None:
    letter = dsn.compose(report(whole=False))
    returned = read(letter)[3]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_content().strip() == "Subject: hello\nFrom: ann@here.test"
    assert b"The words of it" not in letter.content


@pytest.mark.parametrize(
    ("content", "header"),
    [
        (b"a: b\n\nc", b"a: b\n"),
        (b"a: b\nc: d\n", b"a: b\nc: d\n"),
        (b"a: b\nc: is cut of", b"a: b\n"),
        (b"\nno header\n\nat all", b""),
        (b"", b""),
    ],
)
def test_header_of(content: bytes, header: bytes) -> None:
    assert dsn.header_of(content) == header


def test_delay() -> None:
    fate = FAILED._replace(action=Action.DELAYED, status="4.2.0", retry_until=1_700_432_000)
    message, words, (_, recipient), _ = read(dsn.compose(report(fate, whole=False)))
    assert "delayed" in message["Subject"]
    assert recipient["Action"] == "delayed"
    assert recipient["Will-Retry-Until"] == "Sun, 19 Nov 2023 22:13:20 +0000"
    assert "Sun, 19 Nov 2023 22:13:20 +0000" in " ".join(words.split())


@pytest.mark.parametrize("action", [Action.DELIVERED, Action.RELAYED, Action.EXPANDED])
def test_success(action: Action) -> None:
    fate = FAILED._replace(action=action, status="2.0.0", reply="250 2.0.0 OK")
    message, words, (_, recipient), _ = read(dsn.compose(report(fate, whole=False)))
    assert message["Subject"] == "Your message was delivered"
    assert recipient["Action"] == action.value
    assert "250" not in words


def test_several_recipients_and_the_worst_is_the_subject() -> None:
    fine = FAILED._replace(
        recipient=Recipient(Address("y", "far.test")), action=Action.RELAYED, status="2.0.0"
    )
    message, _, fields, _ = read(dsn.compose(report(fine, FAILED)))
    assert [group["Action"] for group in fields[1:]] == ["relayed", "failed"]
    assert "could not be delivered" in message["Subject"]


def test_to_the_postmaster() -> None:
    message, words, _, _ = read(dsn.compose(report(misdirected=True)))
    assert "neither be delivered nor returned" in message["Subject"]
    assert "postmaster" in words


def test_internationalised() -> None:
    """RFC 6533: the addresses as they are, in the global forms of all parts."""
    fate = FAILED._replace(
        recipient=Recipient(Address("jörg", "far.test"), original="utf-8;j\\x{F6}rg@far.test"),
        reply="550 5.1.1 kein Jörg hier",
    )
    original = "Subject: Grüße\n\nSchöne\n".encode()
    letter = dsn.compose(report(fate, original=original, smtputf8=True))
    assert letter.smtputf8
    assert letter.body_8bit
    _, words, (_, recipient), returned = read(letter)
    assert recipient["Final-Recipient"] == "utf-8;jörg@far.test"
    assert recipient["Original-Recipient"] == "utf-8;jörg@far.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 kein Jörg hier"
    assert "<jörg@far.test>" in words
    assert returned.get_content_type() == "message/global"
    headers = dsn.compose(report(fate, original=original, smtputf8=True, whole=False))
    assert read(headers)[3].get_content_type() == "message/global-headers"


def test_internationalised_message_without_need_for_it() -> None:
    letter = dsn.compose(report(smtputf8=True))
    assert not letter.smtputf8
    assert read(letter)[3].get_content_type() == "message/rfc822"


@pytest.mark.parametrize("kind", ["utf-8", "UTF-8", "rfc822", "x400"])
def test_the_type_of_an_original_address_stays(kind: str) -> None:
    """It is the sender's own word, whatever the address has (RFC 3464 §2.3.1, RFC 6533 §3)."""
    fate = FAILED._replace(recipient=Recipient(Address("x", "far.test"), original=f"{kind};old@far.test"))
    recipient = read(dsn.compose(report(fate)))[2][1]
    assert recipient["Original-Recipient"] == f"{kind};old@far.test"
    assert recipient["Final-Recipient"] == "rfc822;x@far.test"


def test_foreign_characters_where_they_cannot_go() -> None:
    """A message that is no SMTPUTF8 one: RFC 6533 §3's form of addresses, and ASCII in the fields."""
    fate = FAILED._replace(
        recipient=Recipient(Address("jörg", "far.test"), original="utf-8;jörg@far.test"), reply="550 ungültig"
    )
    letter = dsn.compose(report(fate))
    assert not letter.smtputf8
    recipient = read(letter)[2][1]
    assert recipient["Final-Recipient"] == "utf-8;j\\x{F6}rg@far.test"
    assert recipient["Original-Recipient"] == "utf-8;j\\x{F6}rg@far.test"
    assert recipient["Diagnostic-Code"] == "smtp; 550 ung?ltig"


@pytest.mark.parametrize("text", ["jörg+list=a@far.test", "old+list=a@far.test"])
def test_plus_and_equals_sign_of_an_address_in_unicode(text: str) -> None:
    """They are none of RFC 6533 §3's QCHARs: neither in ORCPT nor in a report that is ASCII."""
    address = Address(*text.split("@"))
    encoded = "utf-8;" + text.translate({ord("ö"): r"\x{F6}", ord("+"): r"\x{2B}", ord("="): r"\x{3D}"})
    fate = FAILED._replace(recipient=Recipient(address, original=encoded))
    assert read(dsn.compose(report(fate)))[2][1]["Original-Recipient"] == encoded
    if not text.isascii():
        original = original_recipient(address)
        assert original == encoded.replace(r"\x{F6}", "ö")
        fate = FAILED._replace(recipient=Recipient(address, original=original))
        recipient = read(dsn.compose(report(fate)))[2][1]
        assert recipient["Original-Recipient"] == recipient["Final-Recipient"] == encoded
        recipient = read(dsn.compose(report(fate, smtputf8=True)))[2][1]
        assert recipient["Original-Recipient"] == recipient["Final-Recipient"] == f"utf-8;{text}"


def test_eight_bit_original() -> None:
    letter = dsn.compose(report(original=b"Subject: x\n\n\xe4\xf6\n"))
    assert letter.body_8bit
    assert b"\n\n\xe4\xf6\n" in letter.content
    message = read(letter)[0]
    assert message["Content-Transfer-Encoding"] == "8bit"


def test_boundary_in_the_original() -> None:
    """Nobody ends a part of his own: the next report's name is known to those who got this one."""
    name = report().name
    original = f"Subject: x\n\n--=_{name}--\n--=_{name}_1--\n".encode()
    message, _, _, returned = read(dsn.compose(report(original=original)))
    assert len(list(message.iter_parts())) == 3
    assert "--=_M1" in cast(Message, returned.get_payload(0)).get_payload()


@pytest.mark.parametrize(
    ("envid", "original"),
    [("A+0D+0AAction:+20delivered", "rfc822;x+0AStatus:+202.0.0"), ("+00", "rfc822;+FF")],
)
def test_fields_hidden_in_xtext(envid: str, original: str) -> None:
    fate = FAILED._replace(recipient=Recipient(Address("x", "far.test"), original=original))
    _, _, (about, recipient), _ = read(dsn.compose(report(fate, envid=envid)))
    assert about["Original-Envelope-Id"] == envid
    assert recipient["Original-Recipient"] == original
    assert recipient.get_all("Status") == ["5.1.1"]


@given(
    reply=st.text(max_size=1000),
    remote=st.text(max_size=30),
    original=st.binary(max_size=300).map(lambda data: data.replace(b"\r", b"").replace(b"\0", b"")),
    whole=st.booleans(),
    utf8=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_whatever_was_said(reply: str, remote: str, original: bytes, whole: bool, utf8: bool) -> None:
    """Three parts, one group of fields a recipient, no line too long, and ASCII unless it says otherwise."""
    fate = FAILED._replace(reply=reply, remote=remote)
    letter = dsn.compose(report(fate, original=original, whole=whole, smtputf8=utf8))
    assert letter.body_8bit or letter.content.isascii()
    message = cast(EmailMessage, email.message_from_bytes(letter.content, policy=email.policy.default))
    words, status, _ = message.iter_parts()
    assert [group.get_all("Action") for group in groups(status)[1:]] == [["failed"]]
    assert [group.get_all("Status") for group in groups(status)[1:]] == [["5.1.1"]]
    ours = words.as_bytes() + status.as_bytes()
    assert b"\r" not in ours
    assert all(len(line) <= 998 for line in ours.split(b"\n"))  # RFC 5321 §4.5.3.1.6

"""Mail on its way out without a dialogue: the way back for bounces, the server's own messages, allowances."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from outbound import Outbound

from mailserver.mail.address import Address, AddressError, parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.path import Postmaster
from mailserver.mail.reply import Reply
from mailserver.mail.srs import VALID
from mailserver.mta.allowance import DAY, HOUR, Allowance
from mailserver.mta.dispatch import Accepted, Dispatch
from mailserver.mta.route import (
    NO_FORWARDING,
    RELAY_DENIED,
    RETURN_ONLY,
    RETURN_UNKNOWN,
    TROUBLE,
    UNKNOWN,
    Asker,
    Leaves,
    Local,
    Route,
)
from mailserver.mta.senders import Senders

STRANGER = Address("Ann.O'Hara", "client.test")


@pytest.fixture
def office(memory_path: Path) -> Iterator[Outbound]:
    made = Outbound(memory_path)
    yield made
    made.close()


def route(office: Outbound, recipient: str | Postmaster, asker: Asker = Asker(STRANGER)) -> Route:  # noqa: B008
    path = parse_mailbox(recipient) if isinstance(recipient, str) else recipient
    return asyncio.run(office.routing.route(path, 0, asker))


def leaving(office: Outbound, recipient: str, asker: Asker = Asker(STRANGER)) -> Leaves:  # noqa: B008
    found = route(office, recipient, asker)
    assert isinstance(found, tuple), found
    (place,) = found
    assert isinstance(place, Leaves)
    return place


def post(office: Outbound, sender: str, *recipients: str, content: bytes = b"Subject: x\n\nx\n") -> Reply:
    envelope = Envelope(
        parse_mailbox(sender) if sender else None, tuple(Recipient(parse_mailbox(to)) for to in recipients)
    )

    async def work() -> Reply:
        return await office.posting(envelope, content)

    return asyncio.run(work())


# ---- bounces of forwarded mail


def test_a_bounce_goes_to_who_sent_the_mail_and_nothing_else_does(office: Outbound) -> None:
    place = leaving(office, "away@example.test")
    assert place.recipient == Address("somebody", "elsewhere.test")
    assert place.forwarded_by == Address("away", "example.test")
    assert place.sender is not None
    assert place.sender.domain == "example.test"
    back = str(place.sender)
    bounce = leaving(office, back, Asker(None))
    assert bounce == Leaves(STRANGER, None)
    assert route(office, back) == RETURN_ONLY
    assert route(office, back, Asker(Address("ann", "example.test"), may_relay=True)) == RETURN_ONLY
    assert route(office, back.replace("client", "victim"), Asker(None)) == RETURN_UNKNOWN
    # whoever among our domains it is sent to: the code is what counts
    assert leaving(office, back.replace("@example.test", "@away.test"), Asker(None)) == bounce
    assert route(office, back.replace("@example.test", "@elsewhere.test"), Asker(None)) == RELAY_DENIED


def test_a_bounce_may_take_three_weeks(office: Outbound) -> None:
    back = str(leaving(office, "away@example.test").sender)
    office.now += VALID * DAY
    assert leaving(office, back, Asker(None)).recipient == STRANGER
    office.now += DAY
    assert route(office, back, Asker(None)) == RETURN_UNKNOWN


def test_a_sender_who_became_ours_gets_the_bounce_here(office: Outbound) -> None:
    sender = Address("dora", "client.test")
    back = str(leaving(office, "away@example.test", Asker(sender)).sender)
    user = Path(office.directory.root) / "client.test" / "users" / "dora"
    user.parent.mkdir(parents=True)
    user.write_text((Path(office.directory.root) / "example.test" / "users" / "ann").read_text())
    found = route(office, back, Asker(None))
    assert isinstance(found, tuple)
    assert [place.address for place in found if isinstance(place, Local)] == [sender]


def test_a_bounce_through_two_forwarders_of_which_we_are_both(office: Outbound) -> None:
    first = leaving(office, "away@example.test").sender
    assert first is not None
    # somebody else forwards it, back to an alias of ours that leads away
    abroad = office.forwarding._srs.forward(Address(first.local, "example.test"), "other.test", 0)
    assert abroad is not None
    second = leaving(office, "nested@example.test", Asker(abroad)).sender
    assert second is not None
    assert second.local.startswith("SRS1=")
    assert leaving(office, str(second), Asker(None)).recipient == STRANGER


@pytest.mark.parametrize(
    "sender", [Address("a", "[192.0.2.1]"), Address("a" * 64, ".".join(["b" * 60] * 3) + ".test")]
)
def test_a_sender_that_cannot_be_rewritten_stays(sender: Address, office: Outbound) -> None:
    assert leaving(office, "away@example.test", Asker(sender)).sender == sender


def test_return_addresses_are_users_where_nothing_is_forwarded(memory_path: Path) -> None:
    office = Outbound(memory_path, queue=False)
    assert route(office, "SRS0=aaaaaaaa=aa=x.test=y@example.test", Asker(None)) == UNKNOWN
    assert route(office, "away@example.test") == NO_FORWARDING
    office.close()


def test_an_alias_leads_away_only_as_far_as_it_is_written(office: Outbound) -> None:
    assert route(office, "somebody@elsewhere.test") == RELAY_DENIED
    assert route(office, "two%40@example.test") == RELAY_DENIED
    found = route(office, "two@example.test")
    assert isinstance(found, tuple)
    assert [str(place.recipient) for place in found if isinstance(place, Leaves)] == [
        "one@elsewhere.test",
        "two@other.test",
    ]


def test_the_servers_postmaster_is_the_first_there_is(office: Outbound) -> None:
    """The default domain's, else that of the first domain that has one, by whatever rule."""
    domains = Path(office.directory.root)
    assert office.posting.postmaster() == Address("postmaster", "example.test")
    (domains / "example.test" / "users" / "postmaster").unlink()
    assert office.posting.postmaster() == Address("postmaster", "away.test")  # its catch-all
    (domains / "away.test" / "domain.toml").unlink()
    (domains / "catch.test" / "domain.toml").unlink()
    assert office.posting.postmaster() == Address("postmaster", "bounce.test")
    assert isinstance(route(office, Postmaster()), tuple)
    (domains / "bounce.test" / "users" / "postmaster").unlink()
    assert office.posting.postmaster() is None
    assert route(office, Postmaster()) == UNKNOWN


def test_trouble_with_the_postmasters_file_is_trouble_of_ours(office: Outbound) -> None:
    file = Path(office.directory.root) / "example.test" / "users" / "postmaster"
    file.write_text("no hash at all\nwhat = ever\n")
    assert office.posting.postmaster() is None
    assert route(office, Postmaster()) == TROUBLE


def test_the_postmaster_may_live_elsewhere(office: Outbound) -> None:
    domain = Path(office.directory.root) / "example.test"
    (domain / "users" / "postmaster").unlink()
    (domain / "aliases" / "postmaster").write_text("admin@elsewhere.test\n")
    found = route(office, Postmaster())
    assert isinstance(found, tuple)
    assert found[0][0] == Address("admin", "elsewhere.test")


# ---- the server's own messages


def test_a_report_to_a_user(office: Outbound) -> None:
    reply = post(office, "", "ann@example.test")
    assert reply.code == 250
    (file,) = office.messages("ann")
    assert file.read_bytes() == b"Return-Path: <>\nDelivered-To: ann@example.test\nSubject: x\n\nx\n"
    assert f",W={len(file.read_bytes().replace(chr(10).encode(), b'..'))}" in file.name


def test_a_report_to_somebody_elsewhere_and_by_way_of_a_return_address(office: Outbound) -> None:
    back = str(leaving(office, "away@example.test").sender)
    assert post(office, "", "x@elsewhere.test").positive
    assert post(office, "", back).positive
    recipients = {str(entry.recipients[0].recipient.address) for entry in office.entries()}
    assert recipients == {"x@elsewhere.test", str(STRANGER)}
    assert all(entry.sender is None for entry in office.entries())
    assert sorted(office.announced) == [entry.id for entry in office.entries()]


def test_all_recipients_or_none(office: Outbound) -> None:
    assert post(office, "", "ann@example.test", "nobody@example.test") == UNKNOWN
    assert office.messages("ann") == []


def test_a_report_that_cannot_be_stored(office: Outbound) -> None:
    (Path(office.spool.root) / "env").rename(Path(office.spool.root) / "elsewhere")
    assert post(office, "", "x@elsewhere.test") == TROUBLE
    assert office.staged() == []


# ---- LMTP: one reply for each


def test_each_recipient_hears_of_its_own_places(office: Outbound) -> None:
    def accepted(address: str) -> Accepted:
        found = route(office, address)
        assert isinstance(found, tuple)
        return Accepted(Recipient(parse_mailbox(address)), found)

    dispatch = Dispatch(
        Envelope(STRANGER), [accepted(f"{local}@example.test") for local in ("ann", "away", "keep", "bob")]
    )
    assert [str(place.address) for place in dispatch.mailboxes] == ["ann@example.test", "bob@example.test"]
    assert len(dispatch.departures) == 1
    assert dispatch.outcomes([None, None, TROUBLE]) == [None, TROUBLE, TROUBLE, None]
    assert dispatch.outcomes([UNKNOWN, None, None]) == [UNKNOWN, None, UNKNOWN, None]


# ---- whose what leaves is


@pytest.mark.parametrize("sender", ["ann@example.test", "", "eve@client.test"])
def test_what_aliases_of_a_domain_send_on_is_an_entry_of_its_own(office: Outbound, sender: str) -> None:
    """So that who commands the mail of a domain commands no other's, whoever is named as the sender."""
    accepted = [
        "away@example.test",
        "keep@example.test",
        "fort@xn--bcher-kva.example",
        "any@away.test",
        "x@elsewhere.test",
    ]
    assert post(office, sender, *accepted).code == 250
    entries = [office.spool.load(entry_id) for entry_id, _ in office.spool.ids()]
    assert {entry.forwarded_by for entry in entries} == {
        "example.test",
        "xn--bcher-kva.example",
        "away.test",
        "",
    }
    assert len(entries) == 4
    assert {str(q.recipient.address): e.domain for e in entries for q in e.recipients} == {
        "somebody@elsewhere.test": "example.test",
        "copy@elsewhere.test": "example.test",
        "carl@elsewhere.test": "xn--bcher-kva.example",
        "boss@elsewhere.test": "away.test",
        "x@elsewhere.test": "",
    }


# ---- senders and allowances


def test_given_senders_are_addresses_or_domains(office: Outbound) -> None:
    Senders(office.routing, "mx.example.test", {"ann@example.test": ["boss@shop.test", "@shop.test"]})
    for wrong in ({"ann": ["x@y.test"]}, {"ann@example.test": ["shop.test"]}, {"ann@example.test": ["@"]}):
        with pytest.raises(AddressError):
            Senders(office.routing, "mx.example.test", wrong)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_messages_an_hour_and_a_day() -> None:
    clock = Clock()
    counts = Allowance(hourly=2, daily=3, clock=clock)
    assert counts.take("ann") is None
    clock.now += 600
    assert counts.take("ann") is None
    refusal = Reply(450, "4.7.1", "You may send 2 messages an hour, try again in 50 minutes")
    assert counts.refusal("ann") == counts.take("ann") == refusal
    assert counts.take("bob") is None
    clock.now += HOUR - 600
    assert counts.take("ann") is None
    refusal = Reply(450, "4.7.1", "You may send 3 messages a day, try again in 23 hours")
    assert counts.take("ann") == refusal
    clock.now += DAY - HOUR
    assert counts.take("ann") is None


def test_what_is_given_back_may_be_sent() -> None:
    counts = Allowance(hourly=1, clock=Clock())
    assert counts.take("ann") is None
    assert counts.take("ann") is not None
    counts.give_back("ann")
    counts.give_back("nobody")
    assert counts.take("ann") is None


def test_no_limit() -> None:
    counts = Allowance()
    assert all(counts.take("ann") is None for _ in range(1000))

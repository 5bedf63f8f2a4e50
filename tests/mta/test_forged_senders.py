"""Mail that aliases lead away under a sender of ours: as it is from who logged in, rewritten from all others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from conversation import Memory
from outbound import ROOT, Outbound

from mailserver.mail.address import Address, parse_mailbox
from mailserver.mta.route import Asker, Leaves, Local, Route
from mailserver.transport.listener import Peer

ANN = Address("ann", "example.test")


@pytest.fixture
def office(memory_path: Path) -> Iterator[Outbound]:
    made = Outbound(memory_path)
    yield made
    made.close()


def senders(office: Outbound, *, submitted: bool) -> list[str]:
    """Under whom mail of `ann` leaves, which says that it is hers."""

    async def converse() -> None:
        trusted = Peer("unix", 0, ROOT, False)
        wire = Memory(office.submission(peer=trusted) if submitted else office.session())
        lines = ["EHLO x.test", f"MAIL FROM:<{ANN}>", "RCPT TO:<away@example.test>", "DATA", "", "x", "."]
        wire.send("\r\n".join([*lines, "QUIT", ""]).encode())
        async with asyncio.timeout(20):
            while await wire.receive():
                pass

    asyncio.run(converse())
    return [str(entry.sender) for entry in office.entries()]


def test_who_is_known_stays_himself(office: Outbound) -> None:
    assert senders(office, submitted=True) == [str(ANN)]


def test_who_is_not_known_does_not_pass_for_one_of_us_and_bounces_come_to_whom_he_named(
    office: Outbound,
) -> None:
    (back,) = senders(office, submitted=False)
    assert back.startswith("SRS0=")
    assert back.endswith("=example.test=ann@example.test")
    (place,) = route(office, back)
    assert isinstance(place, Local)
    assert place.address == ANN


def test_a_rewritten_sender_of_ours_that_comes_back_is_followed_to_its_end(office: Outbound) -> None:
    """Two servers that forward to each other: the bounce goes to the first sender, whoever rewrote last."""
    stranger = Address("joe", "client.test")
    sender: Address | None = stranger
    for _ in range(3):
        (place,) = route(office, "away@example.test", Asker(sender))
        assert isinstance(place, Leaves)
        sender = place.sender
        assert sender is not None
        assert sender.domain == "example.test"
    assert route(office, str(sender)) == (Leaves(stranger, None),)


def route(office: Outbound, recipient: str, asker: Asker = Asker()) -> tuple[Local | Leaves, ...]:  # noqa: B008
    found: Route = asyncio.run(office.routing.route(parse_mailbox(recipient), 0, asker))
    assert isinstance(found, tuple), found
    return found

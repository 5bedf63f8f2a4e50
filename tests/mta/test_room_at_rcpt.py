"""RCPT for a mailbox with a quota: a thread is asked only where the answer is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from office import Office

from mailserver.mail.address import Address
from mailserver.mailbox import quota
from mailserver.mta.route import OVER_QUOTA, Route

SMALL = Address("small", "example.test")  # 3K


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.close()


def waited(office: Office, octets: int) -> bool:
    """Whether the answer for a message of so many octets took a thread."""
    found = office.routing.decide(SMALL, octets)
    if isinstance(found, tuple):
        return False

    async def finish() -> Route:
        return await found

    asyncio.run(finish())
    return True


def test_a_mailbox_that_was_looked_at_is_answered_for_at_once(office: Office) -> None:
    domain = office.directory.domain("example.test")
    assert domain
    mailbox = office.mailboxes.of(domain, "small")
    mailbox.create()
    assert [waited(office, 500) for _ in range(4)] == [True, True, False, False]  # counts, then reads
    quota.add(mailbox, 2500, 1)
    assert not waited(office, 572)
    assert waited(office, 573)  # which counts anew, for the note is of no message
    assert waited(office, 573)
    assert not waited(office, 573)


def test_what_another_program_wrote_counts_at_once(office: Office) -> None:
    domain = office.directory.domain("example.test")
    assert domain
    mailbox = office.mailboxes.of(domain, "small")
    mailbox.create()
    while waited(office, 500):
        pass
    Path(mailbox.path, "maildirsize").write_text("3072S\n3000 1\n")
    assert asyncio.run(office.routing.route(SMALL, 500)) == OVER_QUOTA

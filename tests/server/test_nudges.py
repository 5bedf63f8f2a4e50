"""The pipe on which workers tell the queue's one of new entries."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailserver.delivery.ways import Ways
from mailserver.mail.address import parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.queue.entry import Entry, begin
from mailserver.server import outgoing
from mailserver.server.outgoing import Nudges, Outgoing


@pytest.fixture
def nudges() -> Iterator[Nudges]:
    nudges = Nudges()
    yield nudges
    for fd in (nudges.reading, nudges._writing):
        os.close(fd)


def entry(number: int, recipients: int = 1) -> Entry:
    to = tuple(Recipient(parse_mailbox(f"box{n}@far.test")) for n in range(recipients))
    envelope = Envelope(parse_mailbox("ann@here.test"), to)
    return begin(f"M{number}", envelope, size=10, wire_size=12, user="", now=1_700_000_000.25)


def test_entries_come_as_they_are_and_long_ones_by_id(nudges: Nudges) -> None:
    small, large = entry(1), entry(2, recipients=100)
    nudges.tell(small)
    nudges.tell(large)
    assert list(nudges.heard()) == [("M1", small), ("M2", None)]
    assert list(nudges.heard()) == []


def test_a_word_that_was_read_in_pieces(nudges: Nudges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "READ", 100)
    told = [entry(number) for number in range(20)]
    for one in told:
        nudges.tell(one)
    heard: list[tuple[str, Entry | None]] = []
    for _ in range(100):
        heard += nudges.heard()
    assert heard == [(one.id, one) for one in told]


def test_a_full_pipe_drops_whole_words(nudges: Nudges) -> None:
    told = [entry(number) for number in range(10_000)]
    for one in told:
        nudges.tell(one)
    heard: list[tuple[str, Entry | None]] = []
    while more := list(nudges.heard()):
        heard += more
    assert 100 < len(heard) < len(told)
    assert heard == [(one.id, one) for one in told[: len(heard)]]
    nudges.tell(told[-1])
    assert list(nudges.heard()) == [(told[-1].id, told[-1])]


def test_half_a_word_of_a_reader_that_is_gone(nudges: Nudges) -> None:
    os.write(nudges._writing, b'box@far.test"}}],"arrived":1}\nM1\n{"version":1,"id":"M3"}\n\n\xff\n')
    nudges.tell(entry(2))
    assert list(nudges.heard()) == [("M1", None), ("M2", entry(2))]


def test_a_queue_that_cannot_begin_leaves_its_turn(nudges: Nudges, tmp_path: Path) -> None:
    """Or it would wait for itself when it is begun anew."""

    class Broken(Outgoing):
        def _ways(self) -> Ways:
            raise OSError(errno.EMFILE, "too many open files")

    async def main() -> None:
        nothing: Any = None
        broken = Broken(nothing, nothing, nudges, str(tmp_path / "lock"), "")
        for _ in range(2):
            with pytest.raises(OSError, match="too many"):
                await asyncio.wait_for(broken.run(lambda _: None), 10)

    asyncio.run(main())

"""The disk refuses in the midst of a message: the client hears it at the end, in step, and may go on."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from conversation import Memory
from office import Office

from mailserver.durable.commit import Staged
from mailserver.mta.reception import SPILL
from mailserver.pool import Busy, Pool

LARGE = b"Subject: large\r\n\r\n" + (b"x" * 998 + b"\r\n") * (4 * SPILL // 1000)
DATA = b"DATA\r\n" + LARGE + b".\r\n"
FIRST = b"BDAT %d\r\n" % len(LARGE) + LARGE
WHOLE = b"BDAT %d LAST\r\n" % len(LARGE) + LARGE
ENVELOPE = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<ann@example.test>\r\n"
SMALL = ENVELOPE + b"DATA\r\nSubject: small\r\n\r\nx\r\n.\r\nQUIT\r\n"


@pytest.fixture
def office(memory_path: Path) -> Iterator[Office]:
    made = Office(memory_path)
    yield made
    made.close()


def converse(office: Office, said: bytes) -> list[str]:
    """The replies; the server is given no more at once than a connection would."""

    async def talk() -> bytes:
        wire = Memory(office.session())
        for start in range(0, len(said), 50_000):
            wire.send(said[start : start + 50_000])
            await asyncio.sleep(0)
        heard = b""
        async with asyncio.timeout(20):
            while block := await wire.receive():
                heard += block
            while office.reception._discarding:
                await asyncio.sleep(0)
        return heard

    lines = asyncio.run(talk()).decode().splitlines()
    return [line for line in lines if line[3] == " " and not line.startswith(("220", "250 HELP"))]


@pytest.mark.parametrize("content", [DATA, FIRST, WHOLE], ids=["DATA", "BDAT", "BDAT LAST"])
@pytest.mark.parametrize(
    ("trouble", "reply"),
    [
        (OSError(errno.ENOSPC, "full"), "452 4.3.1 "),
        (OSError(errno.EDQUOT, "quota"), "452 4.3.1 "),
        (OSError(errno.EIO, "broken"), "451 4.3.0 "),
        (Busy(), "451 4.3.2 "),
    ],
    ids=["ENOSPC", "EDQUOT", "EIO", "busy"],
)
def test_the_connection_lives(
    office: Office, monkeypatch: pytest.MonkeyPatch, content: bytes, trouble: Exception, reply: str
) -> None:
    run, refused = Pool.run, []

    async def refuse(self: Pool, fn: object, *given: object, **named: object) -> object:
        if getattr(fn, "__func__", None) is Staged.write and not refused:
            refused.append(fn)
            raise trouble
        return await run(self, fn, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Pool, "run", refuse)
    replies = converse(office, b"EHLO c.test\r\n" + ENVELOPE + content + SMALL)
    codes = [line[:3] for line in replies]
    assert codes == [
        "250",
        "250",
        *(["354"] if content is DATA else []),
        reply[:3],
        "250",
        "250",
        "354",
        "250",
        "221",
    ]
    assert replies[codes.index(reply[:3])].startswith(reply)
    assert len(refused) == 1
    (message,) = office.messages("ann")
    assert message.read_bytes().endswith(b"Subject: small\n\nx\n")
    assert office.staged() == []


@pytest.mark.parametrize(("octets", "thrown_away"), [(100, 0), (2 * SPILL, 1)])
def test_only_what_came_to_the_disk_is_removed_there(
    office: Office, monkeypatch: pytest.MonkeyPatch, octets: int, thrown_away: int
) -> None:
    """A small message that is refused costs no thread."""
    discarded: list[Staged] = []
    real = Staged.discard
    monkeypatch.setattr(Staged, "discard", lambda staged: (discarded.append(staged), real(staged)))
    replies = converse(
        office, b"HELO x\r\n" + ENVELOPE + b"DATA\r\n\r\n" + b"x" * octets + b"\nbare\r\n.\r\nQUIT\r\n"
    )
    assert replies[4].startswith("554 5.6.0")
    assert len(discarded) == thrown_away
    assert not office.staged()

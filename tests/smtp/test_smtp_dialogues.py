"""The dialogue corpus of SMTP and LMTP, in memory, against real mailboxes; whole, byte by byte, and cut at random.

Settings of a dialogue: `protocol: lmtp`, `size: N` and `recipients: N` (limits), `got: USER N` (so many
messages are in that user's `new` afterwards; all others are empty), `content: USER TEXT` (the last one's
content). Whatever happens, nothing may be left half-way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conversation import Cut, Dialogue, Memory, at_random, byte_by_byte, play, read, unescape, whole
from office import Office, content

import mailserver.smtp.server as server

DIALOGUES = read(Path(__file__).parent.parent / "dialogues" / "smtp")
CUTS: dict[str, Callable[[], Cut]] = {
    "whole": lambda: whole,
    "byte-by-byte": lambda: byte_by_byte,
    "random": lambda: at_random(3),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: f"{dialogue.file}:{dialogue.name}")
def test_in_memory(dialogue: Dialogue, cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ERROR_DELAY", 0.0)
    monkeypatch.setattr(server, "SMUGGLING_WAIT", 0.05)
    office = Office(tmp_path)
    unhandled: list[dict[str, object]] = []

    async def converse() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        begun = asyncio.Event()

        async def upgrade(transport: asyncio.Transport, *_: object) -> asyncio.Transport:
            await begun.wait()
            begun.clear()
            return transport

        async def start_tls() -> None:
            begun.set()
            while begun.is_set():
                await asyncio.sleep(0)

        monkeypatch.setattr(server, "upgrade", upgrade)
        session = office.session(
            lmtp=dialogue.setting("protocol") == "lmtp",
            message_size=int(dialogue.setting("size", "100000")),
            recipients=int(dialogue.setting("recipients", "100")),
        )
        wire = Memory(session, CUTS[cut]())
        async with asyncio.timeout(20):
            await play(dialogue, wire.send, wire.receive, start_tls)
            wire.close()
            await office.connections.drain(5)
            while office.reception._discarding:
                await asyncio.sleep(0)

    try:
        asyncio.run(converse())
    finally:
        office.close()
    assert unhandled == []
    assert office.staged() == []
    expected = Counter({user: int(n) for user, n in (line.split() for line in dialogue.all("got"))})
    found = Counter(
        f"{file.parent.parent.name}@{file.parent.parent.parent.name}"
        for file in office.mail.glob("*/*/new/*")
    )
    assert found == Counter(
        {user if "@" in user else f"{user}@example.test": n for user, n in expected.items()}
    )
    for line in dialogue.all("content"):
        user, _, text = line.partition(" ")
        assert content(office.messages(user)[-1]) == unescape(text)

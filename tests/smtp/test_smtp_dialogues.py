"""The dialogues of SMTP, LMTP and submission, in memory, against real mailboxes and a real queue: whole, byte by
byte, and cut at random. Whatever happens, nothing may be left half-way. Their settings: `mail_dialogues`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from conversation import Cut, Dialogue, Memory, at_random, byte_by_byte, play, whole
from mail_dialogues import DIALOGUES, check_mailboxes, check_queue, given_senders, opening, protocol
from outbound import Outbound

import mailserver.smtp.conversation as conversation
import mailserver.smtp.server as server
from mailserver.smtp.server import Session
from mailserver.transport.listener import Peer

CUTS: dict[str, Callable[[], Cut]] = {
    "whole": lambda: whole,
    "byte-by-byte": lambda: byte_by_byte,
    "random": lambda: at_random(3),
}


def session_of(office: Outbound, dialogue: Dialogue) -> Session:
    limits = {
        "message_size": int(dialogue.setting("size", "100000")),
        "recipients": int(dialogue.setting("recipients", "100")),
    }
    secure = dialogue.setting("secure") == "yes"
    kind, _, uid = dialogue.setting("peer").partition(" ")
    peer = Peer("unix", 0, int(uid), False) if kind else Peer("192.0.2.1", 40000, None, secure)
    if protocol(dialogue) != "submission":
        return office.session(peer=peer.address, secure=secure, lmtp=protocol(dialogue) == "lmtp", **limits)
    hourly = int(dialogue.setting("hourly", "0"))
    return office.submission(peer=peer, hourly=hourly, others=given_senders(dialogue), **limits)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: f"{dialogue.file}:{dialogue.name}")
def test_in_memory(dialogue: Dialogue, cut: str, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "ERROR_DELAY", 0.0)
    monkeypatch.setattr(server, "SMUGGLING_WAIT", 0.05)
    office = Outbound(memory_path, queue=dialogue.setting("queue") != "no")
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
        wire = Memory(session_of(office, dialogue), CUTS[cut]())
        async with asyncio.timeout(20):
            await play(opening(dialogue), wire.send, wire.receive)
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
    check_mailboxes(dialogue, office.mail)
    ids = sorted(check_queue(dialogue, office.spool, office.forwarding))
    assert sorted(office.announced) == ids
    assert {path.name for path in (Path(office.spool.root) / "msg").iterdir()} <= set(ids)

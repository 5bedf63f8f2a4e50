"""The dialogues of submission and forwarding, in memory, against real mailboxes and a real queue.

Settings besides those of the SMTP corpus: `protocol: submission` (the default), `secure: yes` (TLS from the
first octet), `login: USER` (the dialogue begins logged in), `peer: unix UID`, `hourly: N` (messages),
`others: USER SENDER...` (given senders), `queue: no`; `queued: SENDER RECIPIENT...` (an entry of the queue, in
any order, and no others; SRS(...) for a return address), `queued-content: TEXT` (of every entry).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from conversation import Cut, Dialogue, Memory, Step, at_random, byte_by_byte, play, read, unescape, whole
from office import content
from outbound import PASSWORD, Outbound

import mailserver.smtp.server as server
from mailserver.smtp.server import Session
from mailserver.transport.listener import Peer

DIALOGUES = read(Path(__file__).parent.parent / "dialogues" / "submission")
CUTS: dict[str, Callable[[], Cut]] = {
    "whole": lambda: whole,
    "byte-by-byte": lambda: byte_by_byte,
    "random": lambda: at_random(5),
}


def session_of(office: Outbound, dialogue: Dialogue) -> Session:
    limits = {
        "message_size": int(dialogue.setting("size", "100000")),
        "recipients": int(dialogue.setting("recipients", "100")),
    }
    secure = dialogue.setting("secure") == "yes"
    kind, _, uid = dialogue.setting("peer").partition(" ")
    peer = Peer("unix", 0, int(uid), False) if kind else Peer("192.0.2.1", 40000, None, secure)
    protocol = dialogue.setting("protocol", "submission")
    if protocol != "submission":
        return office.session(peer=peer.address, secure=secure, lmtp=protocol == "lmtp", **limits)
    others = {user: senders for user, *senders in map(str.split, dialogue.all("others"))}
    return office.submission(peer=peer, hourly=int(dialogue.setting("hourly", "0")), others=others, **limits)


def opening(dialogue: Dialogue) -> Dialogue:
    """The steps before the dialogue's own: the greeting, and a login where it begins with one."""
    steps = [("S~", "220 .*")]
    if user := dialogue.setting("login"):
        response = base64.b64encode(f"\0{user}@example.test\0{PASSWORD}".encode()).decode()
        steps += [
            ("C:", "EHLO client.test"),
            ("C:", f"AUTH PLAIN {response}"),
            ("S...", ""),
            ("S~", "235 .*"),
        ]
    elif dialogue.steps[0].kind.startswith("S"):
        steps = []  # it has its own
    return Dialogue("opening", dialogue.file, steps=[Step(kind, text, 0) for kind, text in steps])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dialogue", DIALOGUES, ids=lambda dialogue: f"{dialogue.file}:{dialogue.name}")
def test_submission(dialogue: Dialogue, cut: str, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ERROR_DELAY", 0.0)
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
    check_mailboxes(office, dialogue)
    check_queue(office, dialogue)


def check_mailboxes(office: Outbound, dialogue: Dialogue) -> None:
    expected = {
        user if "@" in user else f"{user}@example.test": int(n)
        for user, n in map(str.split, dialogue.all("got"))
    }
    found: dict[str, int] = {}
    for file in office.mail.glob("*/*/new/*"):
        user = f"{file.parent.parent.name}@{file.parent.parent.parent.name}"
        found[user] = found.get(user, 0) + 1
    assert found == expected
    for line in dialogue.all("content"):
        user, _, text = line.partition(" ")
        assert content(office.messages(user)[-1]) == unescape(text)


def check_queue(office: Outbound, dialogue: Dialogue) -> None:
    entries = office.entries()
    found = [
        (
            office.returned(str(entry.sender or "")) or "<>",
            *(str(q.recipient.address) for q in entry.recipients),
        )
        for entry in entries
    ]
    assert sorted(found) == sorted(tuple(line.split()) for line in dialogue.all("queued"))
    assert sorted(office.announced) == [entry.id for entry in entries]
    contents = sorted(path.name for path in (Path(office.spool.root) / "msg").iterdir())
    assert contents == [entry.id for entry in entries]
    for line in dialogue.all("queued-content"):
        for entry in entries:
            assert content(Path(office.spool.root) / "msg" / entry.id) == unescape(line)

"""What a client cannot stretch or mix up, in memory: commands that come all at once or while something has to wait,
a client that does not read, one that leaves in the middle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from conversation import Memory
from office import Office, content

from mailserver.durable.commit import Job
from mailserver.mta.dispatch import Dispatch
from mailserver.mta.reception import Reception
from mailserver.smtp import server
from mailserver.smtp.content import Content
from mailserver.smtp.conversation import READ_AHEAD, TURN
from mailserver.smtp.server import Session

OK = b"250 2.0.0 OK\r\n"
ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<ann@example.test>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"
WRITE_HIGH = 1000  # octets of replies the client's end holds


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


class Client(Memory):
    """Hears on demand only, if `deaf`: then what it does not read stops the server's writing."""

    def __init__(self, session: Session, *, deaf: bool = False) -> None:
        self.session = session
        self.deaf = deaf
        self.writes: list[bytes] = []
        super().__init__(session)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        super().write(data)
        if self.deaf and len(self.heard) > WRITE_HIGH and not self.session._paused:
            self.session.pause_writing()

    def listen(self) -> None:
        self.deaf = False
        self.session.resume_writing()

    @property
    def heard(self) -> bytes:
        return b"".join(self.writes)

    @property
    def unread(self) -> int:
        """Octets that the server has not taken yet."""
        return sum(map(len, self._incoming))

    async def hear(self, end: bytes) -> bytes:
        """All that was said up to now, once it ends so."""
        while not self.heard.endswith(end):
            await asyncio.sleep(0.001)
        return self.heard


def run(talk: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await talk()

    asyncio.run(bounded())


def test_replies_to_what_came_together_leave_together(office: Office) -> None:
    async def talk() -> None:
        client = Client(office.session())
        client.writes.clear()
        client.send(ENVELOPE + b"DATA\r\n")
        assert len(client.writes) == 1
        assert [line[:4] for line in client.writes[0].splitlines()][-4:] == [
            b"250 ",
            b"250 ",
            b"250 ",
            b"354 ",
        ]

    run(talk)


def test_sessions_take_turns(office: Office) -> None:
    async def talk() -> None:
        clients = [Client(office.session()) for _ in range(2)]
        for client in clients:
            client.writes.clear()
        for client in clients:
            client.send(b"NOOP\r\n" * (TURN * 10))
        for answered in range(1, 10):
            counts = [client.heard.count(OK) for client in clients]
            assert max(counts) - min(counts) <= TURN
            assert max(counts) <= TURN * answered
            await asyncio.sleep(0)
        for client in clients:
            assert await client.hear(OK * TURN * 10) == OK * TURN * 10

    run(talk)


def test_client_that_does_not_read(office: Office) -> None:
    """Nothing is answered that cannot be sent, and a bounded part of what comes is held."""

    async def talk() -> None:
        client = Client(office.session(), deaf=True)
        block = b"NOOP\r\n" * 500
        for _ in range(100):
            client.send(block)
        while client.unread == 0 or not client.session._paused:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(client.heard) <= WRITE_HIGH + 2 * TURN * len(OK)
        assert client.unread >= len(block) * 100 - READ_AHEAD - 2 * len(block) - len(client.heard)
        client.listen()
        greeting, *answers = (await client.hear(OK * 50_000)).splitlines(keepends=True)
        assert greeting.startswith(b"220 ")
        assert answers == [OK] * 50_000

    run(talk)


def test_recipients_of_a_refused_message_are_one_error(office: Office) -> None:
    """LMTP (RFC 2033 §4.2): each of them hears it, and the session goes on."""

    async def talk() -> None:
        client = Client(office.session(lmtp=True))
        envelope = b"LHLO client.test\r\nMAIL FROM:<a@b.test>\r\n" + b"RCPT TO:<ann@example.test>\r\n" * 150
        client.send(envelope + b"DATA\r\nbare\nLF\r\n.\r\nNOOP\r\n")
        *_, end = (await client.hear(OK)).partition(b"354 ")[2].partition(b"\r\n")
        assert [line[:9] for line in end.splitlines()] == [b"554 5.6.0"] * 150 + [b"250 2.0.0"]
        assert client.session._errors == 1

    run(talk)


@pytest.mark.parametrize(("what", "step"), [(Reception, "commit"), (Dispatch, "outcomes")])
def test_trouble_with_a_message_leaves_no_recipient_waiting(
    office: Office, monkeypatch: pytest.MonkeyPatch, what: type, step: str
) -> None:
    """LMTP's client waits for a reply for each: it hears one, and the end; before the commit and after it."""

    def fail(*_: object, **__: object) -> object:
        raise MemoryError

    async def talk() -> None:
        monkeypatch.setattr(what, step, fail)
        client = Client(office.session(lmtp=True))
        client.send(MESSAGE.replace(b"EHLO", b"LHLO").replace(b"DATA", b"RCPT TO:<bob@example.test>\r\nDATA"))
        while not client.is_closing():
            await asyncio.sleep(0.001)
        assert client.heard.splitlines()[-1].startswith(b"421 4.3.0 ")

    run(talk)


def test_commands_behind_a_message_wait(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        commit, late = office.reception.commit, Mock()
        monkeypatch.setattr(office.reception, "commit", late)
        client = Client(office.session())
        client.send(MESSAGE)
        before = await client.hear(b"<CR><LF>.<CR><LF>\r\n")
        block = b"NOOP\r\n" * 500
        for _ in range(100):
            client.send(block)
            await asyncio.sleep(0)
        assert client.heard == before
        assert client.unread >= len(block) * 100 - READ_AHEAD - 2 * len(block)
        commit(*late.call_args.args, **late.call_args.kwargs)
        after = (await client.hear(OK * 50_000)).removeprefix(before).splitlines(keepends=True)
        assert after[0].startswith(b"250 2.0.0 OK 1")
        assert after[1:] == [OK] * 50_000

    run(talk)


def test_client_that_leaves_with_its_last_octet(office: Office) -> None:
    """The message was complete: it is stored, and nothing is left of it elsewhere."""

    async def talk() -> None:
        client = Client(office.session())
        client.send(MESSAGE)
        client.session.connection_lost(None)
        await asyncio.sleep(0)
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        nothing = office.reception.begin().staged  # committed after all that came before
        office.committer.submit(
            Job(nothing, [], lambda _: loop.call_soon_threadsafe(done.set), together=True)
        )
        await done.wait()

    run(talk)
    assert content(office.messages("ann")[0]) == b"Subject: x\n\nhello\n"
    assert office.staged() == []


def test_client_that_leaves_while_content_goes_to_disk(office: Office) -> None:
    async def talk() -> None:
        client = Client(office.session())
        client.send(ENVELOPE + b"DATA\r\n" + (b"x" * 998 + b"\r\n") * 400)
        client.session.connection_lost(None)
        await office.connections.wait_empty()
        while office.reception._discarding:
            await asyncio.sleep(0.001)

    run(talk)
    assert office.staged() == []
    assert office.messages("ann") == []


@pytest.mark.parametrize(
    ("place", "opening"),
    [("feed", b"DATA\r\n"), ("feed", b"BDAT 1000\r\n"), ("spill", b"DATA\r\n"), ("open", b"BDAT 1000\r\n")],
)
def test_trouble_within_content_makes_no_commands_of_it(
    office: Office, monkeypatch: pytest.MonkeyPatch, place: str, opening: bytes
) -> None:
    """After a fault of ours the rest of a message is not what its client says to us."""

    def fail(*_: object) -> object:
        raise MemoryError

    whole, name = {
        "feed": (Content, "feed"),
        "spill": (office.reception, "spill"),
        "open": (office.reception, "begin"),
    }[place]
    content = b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 300
    smuggled = b"RSET\r\n" + MESSAGE

    async def talk() -> None:
        monkeypatch.setattr(whole, name, fail)
        client = Client(office.session())
        client.send(ENVELOPE + opening)
        client.send(content)
        for _ in range(200):
            await asyncio.sleep(0.001)
            client.send(smuggled)
        assert client.is_closing()
        assert client.heard.splitlines()[-1].startswith(b"421 4.3.0 ")

    run(talk)
    assert office.messages("ann") == []


def test_content_with_bare_line_ends_shortens_no_time_after_its_end(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SMUGGLING_WAIT", 0.05)

    async def talk() -> None:
        client = Client(office.session())
        client.send(ENVELOPE + b"DATA\r\nSubject: x\r\n\r\nbare\nline end\r\n.\r\n")
        while b"\r\n554 " not in client.heard:
            await asyncio.sleep(0.001)
        passed = asyncio.Event()  # behind the timer for an end of data that never comes
        asyncio.get_running_loop().call_later(0.1, passed.set)
        await passed.wait()
        client.send(b"NOOP\r\n")
        assert b"421 " not in client.heard
        assert (await client.hear(OK)).endswith(OK)

    run(talk)

"""The life of mailboxes: mail in by SMTP, out by POP3, deleted, restored, purged, in any order, beside a model of it.

All is the server's own but the network: transactions that end in 250, in a refusal, or with the connection in their
midst; POP3 sessions while mail arrives, ended by QUIT or cut off. The model says what each answer must be, to the
octet, that numbers never shift, that a unique id is for ever, and where each message is at the end.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from conversation import Memory, at_random, whole
from hypothesis import example, given, settings
from hypothesis import strategies as st
from memory_maildrop import LOOPBACK, MemoryAuthenticator, policy
from office import Office
from torture.figures import SCALE

from mailserver import maillog
from mailserver.mailbox.maildir import Maildir
from mailserver.mailbox.trash import Trash
from mailserver.pop3 import LINE_LIMIT, Pop3
from mailserver.smtp import conversation as smtp_conversation
from mailserver.transport.driver import Connections, Driver, Timeouts

USERS = ("ann", "bob")
HEADER = re.compile(
    rb"Return-Path: <[^\n]*>\n(?:Delivered-To: [^\n]*\n)?Received: from [^\n]*\n\tby [^\n]*(?:\n\tfor [^\n]*)?\n"
)


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    shm = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="mailserver-fuzz-", dir=shm if shm.is_dir() else None))
    office = Office(root)
    yield office
    office.close()
    shutil.rmtree(root)


class Client:
    """Lines to and from a session in memory."""

    def __init__(self, protocol: asyncio.Protocol, seed: int) -> None:
        self.wire = Memory(protocol, at_random(seed) if seed else whole)
        self._held = b""

    async def line(self) -> bytes:
        while b"\r\n" not in self._held:
            block = await asyncio.wait_for(self.wire.receive(), 20)
            assert block, f"closed after {self._held!r}"
            self._held += block
        line, _, self._held = self._held.partition(b"\r\n")
        return line

    async def say(self, line: bytes) -> bytes:
        """The answer's last line (SMTP), or its first (POP3)."""
        self.wire.send(line + b"\r\n")
        while (answer := await self.line())[3:4] == b"-":
            pass
        return answer

    async def listing(self, line: bytes) -> list[bytes]:
        answer = await self.say(line)
        assert answer.startswith(b"+OK"), answer
        lines = []
        while (got := await self.line()) != b".":
            lines.append(got.removeprefix(b"."))
        return lines


class Letter:
    """A copy of a message in a mailbox, as the model has it; the mailbox told the rest when it was first seen."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.unique = b""
        self.wire = b""

    def seen(self, unique: bytes) -> None:
        assert self.unique in (b"", unique), "a unique id has changed"
        self.unique = unique

    def read(self, wire: bytes) -> None:
        """Trace on top, then what was sent; the same at every look."""
        stored = wire.replace(b"\r\n", b"\n")
        match = HEADER.match(stored)
        assert match, wire[:300]
        assert stored[match.end() :] == self.content
        assert self.wire in (b"", wire)
        self.wire = wire


class World:
    """The server's parts, and for each user the model: letters in the order they came, and those in Trash."""

    def __init__(self, office: Office, seed: int) -> None:
        self.office = office
        self.seed = seed
        self.letters: dict[str, list[Letter]] = {user: [] for user in USERS}
        self.trash: dict[str, list[Letter]] = {user: [] for user in USERS}
        self._connections = Connections()
        self._pop3 = Pop3(MemoryAuthenticator(), lambda user: self.maildir(user.local), office.pool)
        for mailbox in office.mail.glob("*/*/new"):
            shutil.rmtree(mailbox.parent)

    def maildir(self, user: str) -> Maildir:
        return Maildir(str(self.office.mail / "example.test" / user))

    # ---- mail comes in

    async def deliver(self, users: list[str], lines: list[bytes], how: str) -> None:
        client = Client(self.office.session(), self.seed)
        await client.line()
        for line in (
            b"EHLO x",
            b"MAIL FROM:<a@b.test>",
            *(b"RCPT TO:<%s@example.test>" % u.encode() for u in users),
        ):
            assert (await client.say(line))[:3] == b"250"
        assert (await client.say(b"DATA"))[:3] == b"354"
        stuffed = b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines)
        if how == "cut off":
            client.wire.send(stuffed)
            client.wire.close()
            return
        answer = await client.say(
            stuffed + (b"\n" if how == "refused" else b"") + b"\r\n" * (how == "refused") + b"."
        )
        if how == "refused":
            assert answer[:3] == b"554", answer
        else:
            assert answer[:3] == b"250", answer
            for user in dict.fromkeys(users):
                self.letters[user].append(Letter(b"".join(line + b"\n" for line in lines)))
        assert (await client.say(b"QUIT"))[:3] == b"221"

    # ---- and is read and deleted

    @asynccontextmanager
    async def _login(self, user: str) -> AsyncIterator[Client]:
        driver = Driver(
            self._pop3.session(LOOPBACK, policy()),
            LOOPBACK,
            pool=self.office.pool,
            timeouts=Timeouts(60, 60),
            line_limit=LINE_LIMIT,
            tls=None,
            connections=self._connections,
        )
        client = Client(driver, self.seed)
        assert (await client.line()).startswith(b"+OK")
        assert (await client.say(b"USER " + user.encode())).startswith(b"+OK")
        try:
            yield client
        finally:
            client.wire.close()
            while len(self._connections):
                await asyncio.sleep(0.0005)

    async def read(self, user: str, commands: list[tuple[Any, ...]], how: str) -> None:
        letters, marked = list(self.letters[user]), set[int]()
        async with self._login(user) as client:
            assert (await client.say(b"PASS open sesame")).startswith(b"+OK")
            for command in commands:
                if command[0] == "deliver":
                    await self.deliver(*command[1:])
                else:
                    await self._command(client, letters, marked, *command)
            if how == "quit":
                assert (await client.say(b"QUIT")).startswith(b"+OK")
                for number in sorted(marked):
                    self.letters[user].remove(letters[number])
                    self.trash[user].append(letters[number])

    async def _command(
        self, client: Client, letters: list[Letter], marked: set[int], verb: str, number: int
    ) -> None:
        left = [n for n in range(len(letters)) if n not in marked]
        if verb == "UIDL":
            told = [line.split() for line in await client.listing(b"UIDL")]
            assert [int(n) for n, _ in told] == [n + 1 for n in left]
            for n, (_, unique) in zip(left, told, strict=True):
                letters[n].seen(unique)
            known = [letter.unique for letter in letters if letter.unique]
            assert len(set(known)) == len(known)
        elif verb == "STAT":
            count, octets = (await client.say(b"STAT")).split()[1:3]
            assert int(count) == len(left)
            if all(letters[n].wire for n in left):
                assert int(octets) == sum(len(letters[n].wire) for n in left)
        elif verb == "RSET":
            assert (await client.say(b"RSET")).startswith(b"+OK")
            marked.clear()
        elif number not in left:
            assert (await client.say(b"%s %d" % (verb.encode(), number + 1))).startswith(b"-ERR")
        elif verb == "RETR":
            lines = await client.listing(b"RETR %d" % (number + 1))
            letters[number].read(b"".join(line + b"\r\n" for line in lines))
        else:
            assert (await client.say(b"DELE %d" % (number + 1))).startswith(b"+OK")
            marked.add(number)

    # ---- and comes back

    async def restore(self, user: str, which: int) -> None:
        """The operator's hand, in a thread as in the server."""
        letters = [letter for letter in self.trash[user] if letter.unique]
        if not letters:
            return
        letter = letters[which % len(letters)]
        await self.office.pool.run(Trash(self.maildir(user)).restore, letter.unique.decode())
        self.trash[user].remove(letter)
        self.letters[user].append(letter)
        if all(known.unique for known in self.letters[user]):
            self.letters[user].sort(key=lambda known: came(known.unique))
        else:
            await self._look(user)

    async def _look(self, user: str) -> None:
        """Which of the letters that nobody has asked for yet are which: in the order they came."""
        places = await self.office.pool.run(self.maildir(user).scan)
        known = {letter.unique for letter in self.letters[user]}
        fresh = iter(letter for letter in self.letters[user] if not letter.unique)
        for place in places:
            if place.unique.encode() not in known:
                next(fresh).seen(place.unique.encode())
        self.letters[user].sort(key=lambda letter: came(letter.unique))

    async def purge(self, user: str) -> None:
        trash = Trash(self.maildir(user))
        removed = await self.office.pool.run(lambda: sum(map(trash.remove, trash.list())))
        assert removed == len(self.trash[user])
        self.trash[user].clear()

    # ---- the end

    def judge(self) -> None:
        """Every message is where the model has it, once; nothing else is there."""
        for user in USERS:
            for place, letters in (("", self.letters[user]), (".Trash", self.trash[user])):
                root = self.office.mail / "example.test" / user / place
                found = [file.read_bytes() for name in ("new", "cur") for file in root.glob(f"{name}/*")]
                contents = [text[match.end() :] for text in found if (match := HEADER.match(text))]
                assert len(contents) == len(found)
                assert sorted(contents) == sorted(letter.content for letter in letters), (user, place)


def came(unique: bytes) -> tuple[int, int]:
    seconds, micros = unique.split(b".")[:2]
    return int(seconds), int(micros[1:7])


TEXT = st.binary(max_size=40).map(lambda line: re.sub(rb"[\r\n\0]", b".", line))
DELIVER = st.tuples(
    st.just("deliver"),
    st.sampled_from([["ann"], ["bob"], ["ann", "bob"], ["ann", "ann"]]),
    st.lists(st.one_of(TEXT, st.sampled_from([b"", b".", b"..", b"." * 900])), max_size=5),
    st.sampled_from(["well", "well", "well", "refused", "cut off"]),
)
COMMAND = st.one_of(
    st.tuples(
        st.sampled_from(["RETR", "DELE", "DELE", "DELE", "UIDL", "UIDL", "STAT", "RSET"]), st.integers(0, 4)
    ),
    DELIVER,
)
READ = st.tuples(
    st.just("read"),
    st.sampled_from(USERS),
    st.lists(COMMAND, min_size=1, max_size=8),
    st.sampled_from(["quit", "quit", "cut off"]),
)
COMEBACK = st.one_of(
    st.tuples(st.just("restore"), st.sampled_from(USERS), st.integers(0, 5)),
    st.tuples(st.just("restore"), st.sampled_from(USERS), st.integers(0, 5)),
    st.tuples(st.just("purge"), st.sampled_from(USERS)),
)
# A mailbox of some messages first, then deletions that count, and what brings them back.
BEGINNING = [("deliver", ["ann", "bob"], [b"%d" % n], "well") for n in range(3)]
LIFE = st.lists(st.one_of(DELIVER, READ, READ, COMEBACK), min_size=2, max_size=12)


@settings(max_examples=60 * SCALE, deadline=None)
@given(LIFE.map(lambda life: [*BEGINNING, *life]), st.integers(0, 1 << 30))
@example(
    [
        ("deliver", ["ann", "bob"], [b".x", b"."], "well"),
        ("deliver", ["ann"], [b"second"], "well"),
        (
            "read",
            "ann",
            [("UIDL", 0), ("RETR", 0), ("DELE", 0), ("deliver", ["ann"], [b"third"], "well")],
            "quit",
        ),
        ("restore", "ann", 0),
        ("read", "ann", [("UIDL", 0), ("RETR", 0), ("RETR", 2), ("DELE", 1)], "cut off"),
    ],
    1,
)
@example(
    [
        *BEGINNING,
        ("read", "ann", [("UIDL", 0), ("DELE", 0)], "quit"),
        ("restore", "ann", 0),
        ("read", "ann", [("UIDL", 0), ("RETR", 0), ("DELE", 1)], "quit"),
    ],
    0,
)
def test_life_of_mailboxes(office: Office, actions: list[tuple[Any, ...]], seed: int) -> None:
    events: list[str] = []
    unhandled: list[dict[str, object]] = []

    async def life() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        office.connections = Connections()
        world = World(office, seed)
        for name, *details in actions:
            await getattr(world, name)(*details)
        while len(office.connections) or office.reception._discarding:
            await asyncio.sleep(0.0005)
        world.judge()
        assert office.staged() == []

    with (
        mock.patch.object(smtp_conversation, "ERROR_DELAY", 0.0),
        mock.patch.object(maillog, "event", lambda name, /, **_: events.append(name)),
    ):
        asyncio.run(life())
    assert unhandled == []
    assert not {"unforeseen", "session-failed"} & set(events)

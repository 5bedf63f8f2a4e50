"""A power cut right after a 250: the message is on the disk that is left, found after the journal's replay.

The state is on an ext4 of its own, in an image file behind a loop device with direct I/O. At the moment of
the cut the image is copied, and the copy mounted elsewhere like the disk of a machine that comes up again.
Why that is fair: the copy holds what the file system has *sent to its device*, and nothing that was only in
the kernel's memory, because direct I/O bypasses the page cache of the image, and nobody syncs or unmounts
the file system before the copy. What was written and not synced is missing from it, which
`test_what_is_not_synced_is_lost` shows each time: without that these tests could not fail. Fairer to us than
a real cut is one thing: the device's own write cache survives, so the order of flushes is proved elsewhere
(tests/bench/test_sync_order.py reads it from a trace).
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from destinations import queued_content
from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.disk import make_image, mounted
from torture.figures import SCALE, report
from torture.running import DOMAIN, Server

from mailserver.queue.spool import Spool

CUTS = 15 * SCALE
GROUP = 8
AWAY = "x@elsewhere.test"
OUTGOING = """
[[listener]]
protocol = "submission"
endpoint = "unix:{socket}"

[[relay]]
name = "silent"
hosts = ["127.0.0.1:{silent}"]
default = true
"""


class Disk:
    """The disk of the server under test, and copies of it."""

    def __init__(self, root: Path, mount: Path) -> None:
        self.mount = mount
        self._root = root
        self._copies = itertools.count(1)

    def cut(self) -> Path:
        """The image as it is at this moment."""
        copy = self._root / f"copy{next(self._copies)}"
        shutil.copyfile(self._root / "image", copy)
        return copy

    def queued_on(self, copy: Path) -> set[str]:
        """Messages in the queue of a copy, each with an envelope that can be read. The copy is removed."""
        with mounted(copy, self._root / "after") as after:
            spool = Spool(str(after / "maildirs" / ".queue"))
            found = set()
            for entry_id, _ in spool.ids():
                entry = spool.load(entry_id)
                assert [str(queued.recipient.address) for queued in entry.recipients] == [AWAY]
                mail_id = whole_id(queued_content(spool, entry))
                assert mail_id, f"{entry_id} is torn"
                found.add(mail_id)
        copy.unlink()
        return found

    def messages_on(self, copy: Path) -> set[tuple[str, str]]:
        """(user, message) of all that a copy holds; whatever is there has to be whole. The copy is removed."""
        with mounted(copy, self._root / "after") as after:
            found = set()
            for place in ("new", "cur", ".Trash/new", ".Trash/cur"):
                for file in (after / "maildirs" / DOMAIN).glob(f"*/{place}/*"):
                    mail_id = whole_id(file.read_bytes())
                    assert mail_id, f"{file.name} is torn"
                    found.add((file.relative_to(after / "maildirs" / DOMAIN).parts[0], mail_id))
        copy.unlink()
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    make_image(tmp_path / "image", "48M")
    with mounted(tmp_path / "image", tmp_path / "state") as mount:
        yield Disk(tmp_path, mount)


def test_what_is_not_synced_is_lost(disk: Disk) -> None:
    (disk.mount / "maildirs" / DOMAIN / "ann" / "new").mkdir(parents=True)
    (disk.mount / "maildirs" / DOMAIN / "ann" / "new" / "1").write_bytes(Mail.make(100).data)
    assert disk.messages_on(disk.cut()) == set()


def test_what_was_answered_with_250_is_there(disk: Disk, tmp_path: Path) -> None:
    server = Server(tmp_path, users=GROUP, maildirs=disk.mount / "maildirs")
    delays: list[float] = []

    async def one(client: Smtp, users: list[str]) -> set[tuple[str, str]]:
        mail = Mail.make(3000)
        reply = await client.deliver(mail, users)
        delays.append(time.monotonic())
        assert reply[:3] == b"250", reply
        return {(user, mail.id) for user in users}

    async def torture() -> int:
        """Alone, to two people at once, and in a group of sessions that share their syncs."""
        expected: set[tuple[str, str]] = set()
        clients = [await Smtp.connect(server.smtp) for _ in range(GROUP)]
        for client in clients:
            await client.hello()
        for number in range(CUTS):
            if number % 3 == 2:
                sent = await asyncio.gather(
                    *(one(*pair) for pair in zip(clients, _each(server), strict=True))
                )
                expected |= set().union(*sent)
            else:
                expected |= await one(clients[0], server.users[: 1 + number % 3])
            copy = disk.cut()
            delays[-1] = time.monotonic() - delays[-1]
            missing = expected - await asyncio.to_thread(disk.messages_on, copy)
            assert missing == set(), f"cut {number}"
        for client in clients:
            await client.close()
        return len(expected)

    with server.running():
        copies = asyncio.run(torture())
    report(
        "power cut after a 250",
        survived=f"{CUTS} of {CUTS}",
        copies=copies,
        cut_within=f"{max(d for d in delays if d < 60) * 1000:.0f} ms",
    )


def test_what_was_queued_is_there(disk: Disk, tmp_path: Path) -> None:
    """Mail for another host, alone, and in a group.

    That host says nothing, so nothing is written while the disk is copied, which is no matter of an instant.
    """
    silent = socket.create_server(("127.0.0.1", 0))
    submission = tmp_path / "submission"
    more = OUTGOING.format(socket=submission, silent=silent.getsockname()[1])
    server = Server(tmp_path, maildirs=disk.mount / "maildirs", more=more)

    async def one(client: Smtp) -> str:
        mail = Mail.make(3000)
        reply = await client.deliver(mail, [AWAY], sender="user0@example.test")
        assert reply[:3] == b"250", reply
        return mail.id

    async def torture() -> int:
        expected: set[str] = set()
        clients = [await Smtp.connect(submission) for _ in range(GROUP)]
        for client in clients:
            await client.hello()
        for number in range(CUTS):
            expected |= set(await asyncio.gather(*map(one, clients[: GROUP if number % 2 else 1])))
            missing = expected - await asyncio.to_thread(disk.queued_on, disk.cut())
            assert missing == set(), f"cut {number}"
        for client in clients:
            await client.close()
        return len(expected)

    with server.running():
        messages = asyncio.run(torture())
        silent.close()
    report("power cut after a 250 for another host", survived=f"{CUTS} of {CUTS}", messages=messages)


def _each(server: Server) -> list[list[str]]:
    return [[user] for user in server.users]


def test_deleting_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    """Cut after QUIT's +OK, and cut before it: deleted mail is in Trash, or still in the mailbox."""
    server = Server(tmp_path, users=1, maildirs=disk.mount / "maildirs")
    [user] = server.users

    async def torture() -> None:
        expected = set()
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            for _ in range(6):
                mail = Mail.make(300)
                assert (await client.deliver(mail, [user]))[:3] == b"250"
                expected.add((user, mail.id))
        for deleted in (2, 4):
            async with await Pop3.connect(server.pop3) as client:
                assert (await client.login(user)).startswith(b"+OK")
                await client.command(b"DELE 1")
                await client.command(b"DELE 2")
                await client.send(b"QUIT\r\n")
                before = disk.cut()
                assert (await client.line()).startswith(b"+OK")
                after = disk.cut()
            assert disk.messages_on(before) == expected
            assert disk.messages_on(after) == expected
            assert len(list((server.mailbox(user) / ".Trash" / "cur").iterdir())) == deleted

    with server.running():
        asyncio.run(torture())

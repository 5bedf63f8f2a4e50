"""No room: 4xx and never 5xx, nothing half-done left, reading and deleting go on, and all is well once there is room.

The state is on a small ext4 of its own, with too few blocks in one test and too few inodes in the other; or one
mailbox alone is, and then the others notice nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.disk import make_image, mounted
from torture.figures import report
from torture.running import Server


@pytest.fixture(params=["blocks", "inodes"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[bool], None]]:
    """A file system at `state`; call with True to fill it, with False to make room."""
    make_image(tmp_path / "image", "16M", *(["-N", "200"] if request.param == "inodes" else []))
    with mounted(tmp_path / "image", tmp_path / "state") as mount:
        yield lambda full: _FILL[request.param](mount / "filler", full)


def _fill_blocks(filler: Path, full: bool) -> None:
    """All but a few blocks, which is less than the smallest message needs together with its directories."""
    if not full:
        filler.unlink()
        return
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def _fill_inodes(filler: Path, full: bool) -> None:
    if full:
        filler.mkdir()
        with contextlib.suppress(OSError):
            for number in range(1000):
                (filler / str(number)).touch()
        return
    for file in filler.iterdir():
        file.unlink()
    filler.rmdir()


_FILL = {"blocks": _fill_blocks, "inodes": _fill_inodes}


async def nothing_left(server: Server) -> None:
    """What was given up in the middle is removed off the loop, a moment after its client heard of it."""
    deadline = time.monotonic() + 10
    while left := server.staged():
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.02)


def test_full(disk: Callable[[bool], None], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = Server(tmp_path, users=2, maildirs=tmp_path / "state" / "maildirs")
    replies: Counter[str] = Counter()
    answered: list[float] = []

    async def send(octets: int, users: list[str], told: bool = True) -> str | None:
        """The message's id if it was answered with 250."""
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            mail = Mail.make(octets)
            began = time.monotonic()
            reply = await client.deliver(mail, users, told)
            answered.append(time.monotonic() - began)
            replies[reply[:9].decode()] += 1
            return mail.id if reply[:3] == b"250" else None

    async def torture() -> None:
        reader, _ = server.users
        kept = [await send(2000, server.users) for _ in range(4)]
        assert None not in kept
        replies.clear()
        disk(True)
        for octets in (200, 100_000, 2_000_000):
            for told in (True, False):
                for users in ([reader], server.users):
                    assert await send(octets, users, told) is None
        # 421 where the disk proved to be full in the middle of a message
        assert set(replies) <= {"452 4.3.1", "421 4.3.1"}, replies
        await nothing_left(server)
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(reader)).startswith(b"+OK")
            assert await client.count() == 4
            assert len(await client.listing(b"UIDL")) == 4
            for number in range(1, 5):
                text = b"\r\n".join(await client.listing(b"RETR %d" % number))
                assert whole_id(text + b"\r\n") == kept[number - 1]
            for number in (1, 2):
                assert (await client.command(b"DELE %d" % number)).startswith(b"+OK")
            assert (await client.command(b"QUIT")).startswith(b"+OK")
        disk(False)
        deadline = time.monotonic() + 5
        while (fresh := await send(2_000_000, server.users)) is None and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert fresh, "there is room again"
        for user in server.users:
            found = sorted(str(whole_id(file.read_bytes())) for file in server.stored(user))
            assert found == sorted([*map(str, kept), fresh]), user
        assert len(list((server.mailbox(reader) / "cur").iterdir())) == 0
        assert len(list((server.mailbox(reader) / ".Trash" / "cur").iterdir())) == 2
        await nothing_left(server)
        for user in server.users:
            assert list((server.mailbox(user) / "tmp").iterdir()) == []

    with server.running():
        asyncio.run(torture())
    report(
        f"no {request.node.callspec.params['disk']} left",
        lost=0,
        refusals=dict(replies),
        slowest_answer=f"{max(answered) * 1000:.0f} ms",
    )


def test_full_mailbox(disk: Callable[[bool], None], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Its owner has moved it to a disk of its own."""
    server = Server(tmp_path, users=2)
    full, other = server.users
    server.mailbox(full).parent.mkdir(parents=True)
    server.mailbox(full).symlink_to(tmp_path / "state" / "mailbox")
    (tmp_path / "state" / "mailbox").mkdir()
    kept: dict[str, set[str]] = {full: set(), other: set()}
    refused: Counter[str] = Counter()

    async def send(octets: int, *users: str) -> bool:
        mail = Mail.make(octets)
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            reply = await client.deliver(mail, users)
        if reply[:3] == b"250":
            for user in users:
                kept[user].add(mail.id)
            return True
        assert reply[:1] == b"4", reply
        refused[reply[:9].decode()] += 1
        return False

    async def torture() -> str:
        assert await send(2000, full, other)
        disk(True)
        for octets in (200, 100_000):
            assert await send(octets, other)
            assert not await send(octets, full)
            assert not await send(octets, full, other)
        async with await Pop3.connect(server.pop3) as client:
            assert (await client.login(full)).startswith(b"+OK")
            assert len(await client.listing(b"RETR 1")) > 2
            assert (await client.command(b"DELE 1")).startswith(b"+OK")
            assert (await client.command(b"QUIT")).startswith(b"+OK")
        disk(False)
        began = time.monotonic()
        while not await send(100_000, full, other):
            assert time.monotonic() < began + 5
            await asyncio.sleep(0.05)
        await nothing_left(server)
        return f"{time.monotonic() - began:.2f} s"

    with server.running():
        back = asyncio.run(torture())
        for user in server.users:
            found = [whole_id(file.read_bytes()) for file in server.stored(user)]
            assert sorted(map(str, found)) == sorted(kept[user])
    what = request.node.callspec.params["disk"]
    report(f"no {what} left for one mailbox", lost=0, refusals=dict(refused), back_after=back)

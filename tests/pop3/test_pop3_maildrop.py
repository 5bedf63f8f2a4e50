"""The port to the maildrop, held to one conduct in both implementations; then what only a mailbox has."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from memory_maildrop import MemoryMailbox

from mailserver.mailbox.lock import Lock
from mailserver.mailbox.maildir import Maildir, Message
from mailserver.mailbox.trash import Trash
from mailserver.pool import Pool
from mailserver.pop3.maildrop import MailboxMaildrop
from mailserver.pop3.transaction import Gone, InUse, Maildrop, Removal, Unavailable
from mailserver.transport.driver import Answer

ONE = b"Subject: one\r\n\r\n.Hello\r\n..\r\nend\r\n"
TWO = b"Subject: two\r\n\r\nHi\r\n"
LARGE = b"Subject: large\r\n\r\n" + b".0123456789abcdef\r\n" * 30_000


class Disk:
    """A mailbox on disk with the conduct of MemoryMailbox."""

    def __init__(self, path: Path, pool: Pool, messages: Sequence[bytes]) -> None:
        self.maildir = Maildir(str(path / "ann"))
        self.pool = pool
        self.maildir.create()
        for number, message in enumerate(messages, 1):
            self.deliver(f"{1000 + number}.M1P1Q{number}.host", message)

    def deliver(self, unique: str, message: bytes, *, sizes: bool = True) -> None:
        content = message.replace(b"\r\n", b"\n")
        name = f"{unique},S={len(content)},W={len(message)}" if sizes else unique
        Path(self.maildir.path, "new", name).write_bytes(content)

    async def open(self) -> MailboxMaildrop:
        maildrop = MailboxMaildrop(self.maildir, self.pool)
        await maildrop.open()
        return maildrop

    def remove(self, number: int) -> None:
        Path(self.maildir.path, "new", self.names()[number - 1]).unlink()

    def names(self) -> list[str]:
        return [message.name for message in self.maildir.scan()]

    def see_all(self) -> None:
        """What another program does: move all mail to cur, and flag it."""
        for message in self.maildir.scan():
            source = Path(self.maildir.path, message.subdirectory, message.name)
            source.rename(Path(self.maildir.path, "cur", message.name.partition(":")[0] + ":2,FS"))

    def left(self) -> int:
        return len(self.maildir.scan())

    def trashed(self) -> int:
        return len(Trash(self.maildir).list())


class Memory:
    """MemoryMailbox with the same handles."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.mailbox = MemoryMailbox(messages)

    async def open(self) -> Maildrop:
        return self.mailbox.open()

    def remove(self, number: int) -> None:
        del self.mailbox.messages[list(self.mailbox.messages)[number - 1]]

    def left(self) -> int:
        return len(self.mailbox.messages)

    def trashed(self) -> int:
        return len(self.mailbox.trash)


Make = Callable[[Sequence[bytes]], "Disk | Memory"]


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("test", 2, 10)
    yield pool
    pool.close()


@pytest.fixture(params=["memory", "disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path, pool: Pool) -> Make:
    if request.param == "memory":
        return Memory
    return lambda messages: Disk(tmp_path, pool, messages)


@pytest.fixture
def disk(tmp_path: Path, pool: Pool) -> Callable[[Sequence[bytes]], Disk]:
    return lambda messages: Disk(tmp_path, pool, messages)


def run(work: Awaitable[None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(limited())


def text(message: Answer) -> bytes:
    """A message without the line that goes before it."""
    return message.data.partition(b"\r\n")[2] + b"".join(message.stream or ())


def stuffed(message: bytes) -> bytes:
    return (
        b"\r\n".join(b"." + line if line[:1] == b"." else line for line in message.split(b"\r\n")) + b".\r\n"
    )


# -- both --


def test_numbers_sizes_and_content(make: Make) -> None:
    async def work() -> None:
        maildrop = await make([ONE, TWO, LARGE]).open()
        assert list(maildrop.sizes) == [len(ONE), len(TWO), len(LARGE)]
        for number in (1, 2, 3, 2, 1, 3):
            assert text(await maildrop.retrieve(number)) == stuffed((ONE, TWO, LARGE)[number - 1])
        ids = maildrop.unique_ids()
        assert len(set(ids)) == 3
        maildrop.close()

    run(work())


def test_top(make: Make) -> None:
    async def work() -> None:
        maildrop = await make([ONE, LARGE]).open()
        assert text(await maildrop.top(1, 0)) == b"Subject: one\r\n\r\n.\r\n"
        assert text(await maildrop.top(1, 2)) == b"Subject: one\r\n\r\n..Hello\r\n...\r\n.\r\n"
        assert text(await maildrop.top(1, 9_999_999_999)) == stuffed(ONE)
        assert text(await maildrop.top(2, 1)) == b"Subject: large\r\n\r\n..0123456789abcdef\r\n.\r\n"
        assert text(await maildrop.top(2, 29_999)) == stuffed(LARGE[: -len(b".0123456789abcdef\r\n")])
        maildrop.close()

    run(work())


def test_a_removed_message_is_gone_and_numbers_stay(make: Make) -> None:
    async def work() -> None:
        mailbox = make([ONE, TWO, ONE])
        maildrop = await mailbox.open()
        mailbox.remove(2)
        with pytest.raises(Gone):
            await maildrop.retrieve(2)
        with pytest.raises(Gone):
            await maildrop.top(2, 0)
        assert list(maildrop.sizes) == [len(ONE), len(TWO), len(ONE)]
        assert text(await maildrop.retrieve(3)) == stuffed(ONE)
        assert await maildrop.discard([2, 3]) == Removal()
        maildrop.close()
        assert mailbox.left() == 1
        assert mailbox.trashed() == 1

    run(work())


def test_one_session_at_a_time(make: Make) -> None:
    async def work() -> None:
        mailbox = make([ONE])
        first = await mailbox.open()
        with pytest.raises(InUse):
            await mailbox.open()
        first.close()
        first.close()
        second = await mailbox.open()
        first.close()
        with pytest.raises(InUse):
            await mailbox.open()
        second.close()

    run(work())


def test_closing_changes_nothing(make: Make) -> None:
    async def work() -> None:
        mailbox = make([ONE, TWO])
        maildrop = await mailbox.open()
        await maildrop.retrieve(1)
        maildrop.close()
        assert (mailbox.left(), mailbox.trashed()) == (2, 0)

    run(work())


# -- on disk --


def test_other_programs_move_and_flag(disk: Callable[[Sequence[bytes]], Disk]) -> None:
    async def work() -> None:
        mailbox = disk([ONE, TWO, ONE])
        maildrop = await mailbox.open()
        before = list(maildrop.unique_ids())
        mailbox.see_all()
        assert text(await maildrop.retrieve(2)) == stuffed(TWO)
        assert await maildrop.discard([1]) == Removal()
        maildrop.close()
        again = await mailbox.open()
        assert list(again.unique_ids()) == before[1:]
        again.close()
        assert mailbox.trashed() == 1

    run(work())


def test_messages_in_order_are_read_ahead_and_are_the_right_ones(
    disk: Callable[[Sequence[bytes]], Disk],
) -> None:
    async def work() -> None:
        messages = [b"Subject: %d\r\n\r\n%s\r\n" % (n, b"x" * (n % 7) * 3000) for n in range(1, 60)]
        maildrop = await disk(messages).open()
        jobs = 0
        read_from = maildrop._read_from

        def counted(number: int, further: int) -> tuple[Answer, dict[int, Answer]]:
            nonlocal jobs
            jobs += 1
            return read_from(number, further)

        maildrop._read_from = counted  # type: ignore[method-assign]
        for number in [*range(1, 40), 5, 6, 7, *range(38, 60)]:
            assert text(await maildrop.retrieve(number)) == stuffed(messages[number - 1])
        assert jobs < 30
        maildrop.close()

    run(work())


def test_a_file_that_is_not_as_long_as_its_name_says_is_served_as_it_is(
    disk: Callable[[Sequence[bytes]], Disk],
) -> None:
    async def work() -> None:
        mailbox = disk([ONE, ONE, ONE, ONE, ONE])
        for number, content in (
            (3, b"Subject: longer\n\n" + b"x" * 200_000 + b"\n"),
            (4, b"\n.\n"),
            (5, b""),
        ):
            Path(mailbox.maildir.path, "new", mailbox.names()[number - 1]).write_bytes(content)
        maildrop = await mailbox.open()
        sent = [text(await maildrop.retrieve(number)) for number in range(1, 6)]
        longer = b"Subject: longer\r\n\r\n" + b"x" * 200_000 + b"\r\n"
        assert sent == [stuffed(message) for message in (ONE, ONE, longer, b"\r\n.\r\n", b"")]
        maildrop.close()

    run(work())


def test_no_message_is_opened_when_names_tell_sizes(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        mailbox = disk([ONE, TWO])
        monkeypatch.setattr(Maildir, "open", lambda *_: pytest.fail("a message was opened"))
        maildrop = await mailbox.open()
        assert list(maildrop.sizes) == [len(ONE), len(TWO)]
        maildrop.close()

    run(work())


def test_sizes_are_counted_where_names_do_not_tell(disk: Callable[[Sequence[bytes]], Disk]) -> None:
    async def work() -> None:
        mailbox = disk([])
        mailbox.deliver("1.a.host", ONE, sizes=False)
        os.mkfifo(Path(mailbox.maildir.path, "new", "2.fifo.host"))
        Path(mailbox.maildir.path, "new", "3.link.host").symlink_to("/etc/passwd")
        Path(mailbox.maildir.path, "new", "4.directory.host").mkdir()
        maildrop = await mailbox.open()
        assert list(maildrop.sizes) == [len(ONE)]
        assert text(await maildrop.retrieve(1)) == stuffed(ONE)
        maildrop.close()

    run(work())


def test_one_unreadable_message_hides_no_other(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    wire_size = Maildir.wire_size

    def denied(maildir: Maildir, message: Message) -> int:
        if ".M1P1Q2." in message.name:
            raise OSError(errno.EACCES, "fault")
        return wire_size(maildir, message)

    async def work() -> None:
        mailbox = disk([ONE])
        mailbox.deliver("1002.M1P1Q2.host", TWO, sizes=False)
        mailbox.deliver("1003.M1P1Q3.host", LARGE)
        monkeypatch.setattr(Maildir, "wire_size", denied)
        maildrop = await mailbox.open()
        assert list(maildrop.sizes) == [len(ONE), len(LARGE)]
        assert text(await maildrop.retrieve(2)) == stuffed(LARGE)
        maildrop.close()

    run(work())


def test_a_name_that_tells_too_little_costs_no_memory(disk: Callable[[Sequence[bytes]], Disk]) -> None:
    async def work() -> None:
        mailbox = disk([ONE, TWO])
        content = LARGE.replace(b"\r\n", b"\n")
        Path(mailbox.maildir.path, "new", "2000.M1P1Q3.host,S=9,W=9").write_bytes(content)
        maildrop = await mailbox.open()
        assert text(await maildrop.retrieve(1)) == stuffed(ONE)
        assert text(await maildrop.retrieve(2)) == stuffed(TWO)
        assert not maildrop._ahead
        third = await maildrop.retrieve(3)
        assert len(third.data) < len(LARGE)
        assert text(third) == stuffed(LARGE)
        maildrop.close()

    run(work())


def test_a_mailbox_that_was_never_delivered_to_is_empty(tmp_path: Path, pool: Pool) -> None:
    async def work() -> None:
        maildrop = MailboxMaildrop(Maildir(str(tmp_path / "new-user")), pool)
        await maildrop.open()
        assert len(maildrop.sizes) == 0
        assert list(maildrop.unique_ids()) == []
        maildrop.close()
        assert not (tmp_path / "new-user").exists()

    run(work())


def test_a_mailbox_that_is_not_whole_hides_no_mail(disk: Callable[[Sequence[bytes]], Disk]) -> None:
    async def work() -> None:
        mailbox = disk([ONE])
        mailbox.see_all()
        Path(mailbox.maildir.path, "new").rmdir()
        maildrop = await mailbox.open()
        assert text(await maildrop.retrieve(1)) == stuffed(ONE)
        maildrop.close()

    run(work())


def test_a_mailbox_moved_to_where_nothing_is_is_trouble(tmp_path: Path, pool: Pool) -> None:
    (tmp_path / "ann").symlink_to(tmp_path / "not-mounted" / "ann")

    async def work() -> None:
        with pytest.raises(Unavailable):
            await MailboxMaildrop(Maildir(str(tmp_path / "ann")), pool).open()

    run(work())


def test_a_list_of_dovecots_that_cannot_be_read_hides_no_mail(
    disk: Callable[[Sequence[bytes]], Disk],
) -> None:
    async def work() -> None:
        mailbox = disk([])
        mailbox.deliver("1001.M1P1Q1.host", ONE, sizes=False)
        os.mkfifo(Path(mailbox.maildir.path, "dovecot-uidlist"))
        maildrop = await mailbox.open()
        assert list(maildrop.sizes) == [len(ONE)]
        with pytest.raises(Unavailable):  # other ids would be worse
            maildrop.unique_ids()
        maildrop.close()

    run(work())


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENOSPC])
def test_what_cannot_be_moved_is_told_and_the_rest_moves(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    rename = os.rename

    def sometimes(source: str, *arguments: Any, **places: int) -> None:
        if ".M1P1Q2." in source:
            raise OSError(code, "fault")
        rename(source, *arguments, **places)

    async def work() -> None:
        mailbox = disk([ONE, TWO, ONE])
        maildrop = await mailbox.open()
        monkeypatch.setattr(os, "rename", sometimes)
        assert await maildrop.discard([1, 2, 3]) == Removal(1, code == errno.EACCES)
        maildrop.close()
        assert (mailbox.left(), mailbox.trashed()) == (1, 2)

    run(work())


@pytest.mark.parametrize("fault", [OSError(errno.EMFILE, "fault"), OSError(errno.EIO, "fault")])
def test_trouble_at_login_hides_no_mail_and_leaves_no_lock(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch, fault: OSError
) -> None:
    def broken(*_: object) -> int:
        raise fault

    async def work() -> None:
        mailbox = disk([ONE])
        mailbox.deliver("1002.M1P1Q2.host", TWO, sizes=False)
        with monkeypatch.context() as patch:
            patch.setattr(Maildir, "wire_size", broken)
            with pytest.raises(Unavailable):
                await mailbox.open()
        maildrop = await mailbox.open()
        assert len(maildrop.sizes) == 2
        maildrop.close()

    run(work())


def test_a_full_pool_is_trouble_that_passes(disk: Callable[[Sequence[bytes]], Disk], tmp_path: Path) -> None:
    async def work() -> None:
        mailbox = disk([ONE])
        maildrop = await mailbox.open()
        full = Pool("full", 1, 0)
        maildrop._pool = full
        release = asyncio.Event()
        loop = asyncio.get_running_loop()
        blocker = asyncio.create_task(
            full.run(lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result())
        )
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await maildrop.retrieve(1)
        with pytest.raises(Unavailable):
            await maildrop.discard([1])
        maildrop.close()
        (await mailbox.open()).close()
        release.set()
        await blocker
        full.close()

    run(work())


@pytest.mark.parametrize(("owner", "step"), [(Lock, "acquire"), (Maildir, "snapshot")])
def test_a_cancelled_login_leaves_no_lock(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch, owner: type, step: str
) -> None:
    async def work() -> None:
        mailbox = disk([ONE])
        mailbox.pool = one = Pool("one", 1, 10)
        begun, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        original = getattr(owner, step)

        def slow(maildir: object) -> object:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return original(maildir)

        with monkeypatch.context() as patch:
            patch.setattr(owner, step, slow)
            login = asyncio.create_task(mailbox.open())
            await begun.wait()
            login.cancel()
            with pytest.raises(asyncio.CancelledError):
                await login
            go_on.set()
            await one.run(lambda: None)  # the one thread is done with the login
        (await mailbox.open()).close()
        one.close()

    run(work())


def test_the_lock_is_held_until_the_last_message_is_moved(
    disk: Callable[[Sequence[bytes]], Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        mailbox = disk([ONE])
        maildrop = await mailbox.open()
        moving, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        sync = Trash.sync

        def slow(trash: Trash) -> None:
            loop.call_soon_threadsafe(moving.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            sync(trash)

        monkeypatch.setattr(Trash, "sync", slow)
        update = asyncio.create_task(maildrop.discard([1]))
        await moving.wait()
        maildrop.close()
        with pytest.raises(InUse):
            await mailbox.open()
        go_on.set()
        assert await update == Removal()
        (await mailbox.open()).close()

    run(work())


def test_a_large_message_is_never_held_as_a_whole(disk: Callable[[Sequence[bytes]], Disk]) -> None:
    async def work() -> None:
        maildrop = await disk([LARGE * 4]).open()
        content = await maildrop.retrieve(1)
        assert content.stream is not None
        blocks = [content.data.partition(b"\r\n")[2], *content.stream]
        assert max(map(len, blocks)) < len(LARGE)
        assert b"".join(blocks) == stuffed(LARGE * 4)
        maildrop.close()

    run(work())

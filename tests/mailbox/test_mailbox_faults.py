"""A fault or a kill at every system call of Trash, of the sweeper, of the quota's file and of a new mailbox.

After each every message is there, whole and once; what was promised has come about; nobody stays over quota by
a wrong sum; and the same work, done again, succeeds.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from system_calls import ERRORS, Calls, died, dying, failing

from mailserver.mail.quota import Quota
from mailserver.mailbox import quota
from mailserver.mailbox.maildir import Maildir
from mailserver.mailbox.steady import DAY, SteadyClock
from mailserver.mailbox.sweep import Sweeper
from mailserver.mailbox.trash import Trash

MAIL = {
    "new/1.M1.host,S=13,W=16": b"Subject: 1\n\n1",
    "cur/2.M2.host,S=13,W=16:2,FS": b"Subject: 2\n\n2",
    "cur/3.M3.host:2,ST": b"Subject: 3\n\n3",
    ".Trash/cur/4.M4.host,S=13,W=16:2,S": b"Subject: 4\n\n4",
    ".Trash/new/5.M5.host,S=13,W=16": b"Subject: 5\n\n5",
}
LIMIT = Quota(storage=52, messages=0)  # four of them
Promise = Callable[[], None]
Work = Callable[[Maildir, Promise], None]


def build(root: Path) -> Maildir:
    """Three messages in the mailbox, two in Trash; the sum of its quota is kept."""
    maildir = Maildir(str(root / "ann"))
    for folder in ("", ".Trash/"):
        for name in ("tmp", "new", "cur"):
            (root / "ann" / f"{folder}{name}").mkdir(parents=True)
    for place, text in MAIL.items():
        (root / "ann" / place).write_bytes(text)
    assert quota.usage(maildir, LIMIT) == (39, 3)
    return maildir


def delete(maildir: Maildir, promise: Promise) -> None:
    """As QUIT does, of a mailbox without a Trash."""
    trash = Trash(maildir)
    for error in trash.discard(*maildir.scan()):
        raise error
    trash.sync()
    promise()


def restore(maildir: Maildir, promise: Promise) -> None:
    trash = Trash(maildir)
    for trashed in sorted(trash.list()):
        trash.restore(trashed.unique)
        promise()


def empty(maildir: Maildir, promise: Promise) -> None:
    trash = Trash(maildir)
    for trashed in trash.list():
        trash.remove(trashed)
    promise()


def sweep(maildir: Maildir, promise: Promise) -> None:
    """The time of what is in Trash is over."""
    now = time.time() + 10 * DAY
    state = Path(maildir.path).with_name("sweep")
    state.write_text(f"{now - 60:.0f} 0 0\n")
    clock = SteadyClock(str(state), lambda: now, lambda: 0.0)
    for _ in Sweeper(lambda: [maildir.path], DAY, clock).sweep():
        promise()


def count(maildir: Maildir, promise: Promise) -> None:
    """The sum is lost, counted anew, and added to."""
    with suppress(FileNotFoundError):
        Path(maildir.path, quota.FILE).unlink()
    assert quota.is_over(maildir, LIMIT, 14)
    quota.add(maildir, 0, 0)
    promise()


def ids(maildir: Maildir, *folders: str) -> list[str]:
    """The messages of these folders by number, each of them whole."""
    found = []
    for folder in folders:
        for name in ("new", "cur"):
            for file in Path(maildir.path, folder, name).glob("*"):
                number = file.name.partition(".")[0]
                assert file.read_bytes() == f"Subject: {number}\n\n{number}".encode(), f"torn: {file}"
                found.append(number)
    return sorted(found)


def check(work: Work, maildir: Maildir, promises: int) -> None:
    """What holds after any trouble; then once more without, which must succeed."""
    kept, trash = ids(maildir, ""), ids(maildir, ".Trash")
    if work in (delete, restore, count):
        assert sorted(kept + trash) == ["1", "2", "3", "4", "5"]
    else:
        assert kept == ["1", "2", "3"]
    if work is delete and promises:
        assert kept == []
    elif work is restore:
        assert len(kept) >= 3 + promises
    elif work is empty and promises:
        assert trash == []
    octets, counted = 13 * len(kept), time.time() - quota.TRUSTED
    with suppress(FileNotFoundError):  # a deletion that was not noted is made up for in a quarter of an hour
        os.utime(Path(maildir.path, quota.FILE), (counted, counted))
    assert not quota.is_over(maildir, LIMIT, 52 - octets) or octets > 52
    work(maildir, lambda: None)
    kept, trash = ids(maildir, ""), ids(maildir, ".Trash")
    expected = {delete: (0, 5), restore: (5, 0), count: (3, 2)}.get(work, (3, 0))  # type: ignore[arg-type]
    assert (len(kept), len(trash)) == expected
    Path(maildir.path, quota.FILE).unlink(missing_ok=True)
    assert quota.usage(maildir, LIMIT) == (13 * len(kept), len(kept))


def calls_of(work: Work, root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    maildir = build(root)
    with Calls().watched(monkeypatch) as calls:
        work(maildir, lambda: None)
    assert len(calls.made) > 10
    return len(calls.made)


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("work", [delete, restore, empty, sweep, count])
def test_errors(work: Work, code: int, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(calls_of(work, memory_path / "count", monkeypatch)):
        maildir = build(memory_path / str(at))
        promises: list[bool] = []
        with Calls(at, failing(code)).watched(monkeypatch), suppress(OSError):
            work(maildir, lambda promises=promises: promises.append(True))  # type: ignore[misc]
        check(work, maildir, len(promises))


@pytest.mark.parametrize("work", [delete, restore, empty, sweep, count])
def test_kill(work: Work, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(calls_of(work, memory_path / "count", monkeypatch)):
        maildir = build(memory_path / str(at))

        def killed(promise: Promise, at: int = at, maildir: Maildir = maildir) -> None:
            with Calls(at, dying).watched(monkeypatch):
                work(maildir, promise)

        check(work, maildir, died(killed))


@pytest.mark.parametrize("code", [*ERRORS, None], ids=str)
def test_a_trash_that_is_half_made(
    code: int | None, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first deletion of a mailbox whose Trash some other program has removed."""

    def without(root: Path) -> Maildir:
        maildir = build(root)
        shutil.rmtree(Path(maildir.path, ".Trash"))
        return maildir

    counted = without(memory_path / "count")
    with Calls().watched(monkeypatch) as calls:
        delete(counted, lambda: None)
    for at in range(len(calls.made)):
        maildir = without(memory_path / str(at))

        def trouble(promise: Promise, at: int = at, maildir: Maildir = maildir) -> None:
            act = dying if code is None else failing(code)
            with Calls(at, act).watched(monkeypatch), suppress(OSError):
                delete(maildir, promise)

        promises = died(trouble) if code is None else 0
        if code is not None:
            trouble(lambda: None)
        assert ids(maildir, "", ".Trash") == ["1", "2", "3"]
        assert not promises or ids(maildir, "") == []
        delete(maildir, lambda: None)
        assert ids(maildir, ".Trash") == ["1", "2", "3"]

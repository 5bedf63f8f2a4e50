"""A fault at every system call of a commit, one after the other: what was reported is true, the rest is gone.

The calls are enumerated by running once; then each is made to fail in turn, with each error, and once the
process ends there instead (in a child).
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from destinations import queued_content
from office import Office, content, without_trace
from system_calls import ERRORS, Calls, died, dying, failing

from mailserver.durable import commit, directories
from mailserver.durable.commit import Job, Staged
from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.mail.reply import Reply
from mailserver.mailbox.maildir import Maildir
from mailserver.mta.reception import Message, Reception
from mailserver.mta.route import Local
from mailserver.queue.spool import Spool

BODY = b"Subject: x\n\n" + b"body\n" * 2000


QUEUE = "queue"  # stands among the users for mail that leaves; the last one, as `Reception.commit` has it
AWAY = Envelope(Address("ann", "example.test"), (Recipient(Address("x", "far.test")),))


def spool_of(office: Office) -> Spool:
    return Spool(str(office.staging.parent))


def opened(root: Path, shape: str) -> Office:
    """An office; its mailboxes are there, except where the first message of one is what is looked at."""
    office = Office(root)
    for user in SHAPES[shape]["users"]:
        if shape != "one" and user != QUEUE:
            Maildir(str(office.mail / "example.test" / user)).create()
    return office


def committed(
    reception: Reception,
    message: Message,
    places: Sequence[Local],
    departures: Sequence[Envelope],
    **how: Any,
) -> asyncio.Future[list[Reply | None]]:
    """Commit `message`; the outcome."""
    done: asyncio.Future[list[Reply | None]] = asyncio.get_running_loop().create_future()
    reception.commit(message, 1, places, departures, told=done.set_result, **how)
    return done


def submit(
    office: Office, users: list[str], *, together: bool = True, times: int = 1
) -> list[list[Reply | None]]:
    """Commit `times` messages at once to `users`; the outcomes."""
    spool = spool_of(office)
    spool.prepare()
    reception = Reception(str(office.staging), office.committer, office.pool, spool)

    async def run() -> list[list[Reply | None]]:
        messages = []
        for _ in range(times):
            message = reception.begin()
            message.staged.append(b"Received: x\n" + BODY)
            places = []
            for user in [user for user in users if user != QUEUE]:
                route = await office.routing.route(Address(user, "example.test"), 0)
                assert isinstance(route, tuple)
                places += route
            departures = [AWAY] if QUEUE in users else []
            messages.append(committed(reception, message, places, departures, together=together))
        return list(await asyncio.gather(*messages))

    return asyncio.run(run())


def stored(office: Office) -> dict[str, int]:
    """Whole messages by user; fails on a torn one."""
    found: dict[str, int] = {}
    for file in office.mail.glob("example.test/*/new/*"):
        assert content(file) == BODY, f"torn: {file}"
        found[file.parent.parent.name] = found.get(file.parent.parent.name, 0) + 1
    spool = spool_of(office)
    for entry_id, _ in spool.ids():
        entry = spool.load(entry_id)
        assert entry.recipients[0].recipient.address == Address("x", "far.test")
        assert without_trace(queued_content(spool, entry)) == BODY, f"torn: {entry_id}"
        found[QUEUE] = found.get(QUEUE, 0) + 1
    return found


def swept(office: Office) -> bool:
    """What the next start does, and whether only accepted messages are left then."""
    commit.recover(str(office.staging))
    spool = spool_of(office)
    spool.recover()
    shared = sorted(entry_id for entry_id, _ in spool.ids() if not spool.load(entry_id).inside)
    return not office.staged() and sorted(os.listdir(Path(spool.root, "msg"))) == shared


def number_of_calls(memory_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str) -> int:
    office = opened(memory_path / "count", shape)
    with Calls(thread="commit").watched(monkeypatch) as calls:
        submit(office, **SHAPES[shape])
        office.close()
    assert len(calls.made) > 5
    return len(calls.made)


SHAPES: dict[str, dict[str, Any]] = {
    "one": {"users": ["ann"]},
    "three": {"users": ["ann", "bob", "postmaster"]},
    "each for itself": {"users": ["ann", "bob"], "together": False},
    "a group": {"users": ["ann"], "times": 3},
    "leaves": {"users": [QUEUE]},
    "stays and leaves": {"users": ["ann", QUEUE]},
    "leaves, each for itself": {"users": ["ann", QUEUE], "together": False},
    "a group that leaves": {"users": [QUEUE], "times": 3},
}


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_errors(shape: str, code: int, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = SHAPES[shape]
    users = how["users"]
    for at in range(number_of_calls(memory_path, monkeypatch, shape)):
        office = opened(memory_path / str(at), shape)
        with Calls(at, failing(code), "commit").watched(monkeypatch):
            outcomes = submit(office, **how)
            office.close()
        acknowledged = {user: sum(outcome[i] is None for outcome in outcomes) for i, user in enumerate(users)}
        for outcome in outcomes:
            assert all(reply is None or 400 <= reply.code < 500 for reply in outcome)
            if how.get("together", True):
                assert len({reply is None for reply in outcome}) == 1, "some have it and some do not"
        assert stored(office) == {user: n for user, n in acknowledged.items() if n}, f"at call {at}"
        # what an unlink or close could not remove goes at the next start
        assert swept(office)


@pytest.mark.parametrize("shape", SHAPES)
def test_kill(shape: str, memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    how = SHAPES[shape]
    users = how["users"]
    for at in range(number_of_calls(memory_path, monkeypatch, shape)):
        root = memory_path / str(at)

        def work(promise: Callable[[], None], at: int = at, root: Path = root) -> None:
            office = opened(root, shape)
            with Calls(at, dying, "commit").watched(monkeypatch):
                for outcome in submit(office, **how):  # type: ignore[arg-type]
                    for reply in outcome:
                        if reply is None:
                            promise()

        acknowledged = died(work)
        office = Office.__new__(Office)
        office.mail, office.staging = root / "maildirs", root / "maildirs" / ".queue" / "tmp"
        found = stored(office)
        assert sum(found.values()) >= acknowledged, f"lost at call {at}"
        assert set(found) <= set(users)
        assert swept(office)
        assert stored(office) == found


def test_a_failed_sync_counts_for_all_who_share_it(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of an error once; asked again it says that all is well."""
    arrival = Maildir(str(memory_path / "ann")).arrival("1.h", 1, 1)
    shared = directories.Directories()
    shared.of(arrival.directory, arrival.open)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=[OSError(errno.EIO, "Input/output error"), None]))
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                shared.sync(arrival.directory)
    shared.close()


def test_more_directories_than_may_be_open(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "OPEN", 2)
    monkeypatch.setattr(commit, "_syncfs", lambda fd: False)
    office = opened(memory_path, "three")
    users = ["ann", "bob", "postmaster"]
    before = len(os.listdir("/proc/self/fd"))
    assert submit(office, users, times=3) == [[None] * 3] * 3
    assert len(os.listdir("/proc/self/fd")) == before
    office.close()
    assert stored(office) == dict.fromkeys(users, 3)


def test_what_comes_while_others_are_written_comes_along(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = opened(memory_path, "a group")
    second_is_there = threading.Event()
    written: list[str] = []
    real_write, real_syncfs = Staged.write, commit._syncfs

    def write(staged: Staged) -> None:
        second_is_there.wait(10)
        real_write(staged)
        written.append("write")

    def syncfs(fd: int) -> bool:
        written.append("sync all")
        return real_syncfs(fd)

    monkeypatch.setattr(Staged, "write", write)
    monkeypatch.setattr(commit, "_syncfs", syncfs)
    for name in ("1.h", "2.h"):
        staged = Staged(str(office.staging / name))
        staged.append(b"x\n")
        arrival = Maildir(str(office.mail / "example.test" / "ann")).arrival(name, 2, 3)
        office.committer.submit(Job(staged, [arrival], lambda jobs: None, together=True))
    second_is_there.set()
    office.close()
    assert written == ["write", "write", "sync all"]
    assert len(office.messages("ann")) == 2


def test_what_was_discarded_is_not_written_any_more(tmp_path: Path) -> None:
    """Its client left while it was to be moved to its file, in another thread: no descriptor and no file stays."""
    staged = Staged(str(tmp_path / "x"))
    staged.append(b"x")
    staged.discard()
    staged.write()
    assert not (tmp_path / "x").exists()


def test_all_senders_have_their_replies_before_anything_is_logged(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass wakes the loop once. A crash between its replies would be mail that comes twice."""
    office = opened(memory_path, "a group")
    all_there = threading.Event()
    events: list[str] = []
    real_write = Staged.write

    def write(staged: Staged) -> None:
        all_there.wait(10)
        real_write(staged)

    async def send() -> None:
        message = office.reception.begin()
        message.staged.append(BODY)
        route = await office.routing.route(Address("ann", "example.test"), 0)
        assert isinstance(route, tuple)
        places = [place for place in route if isinstance(place, Local)]
        office.reception.commit(
            message,
            1,
            places,
            together=True,
            told=lambda _: events.append("replied"),
            settled=lambda _: events.append("logged"),
        )

    async def run() -> None:
        await asyncio.gather(*(send() for _ in range(3)))
        while not office.committer._jobs.qsize() >= 2:  # the thread has the first one
            await asyncio.sleep(0)
        all_there.set()
        while len(events) < 6:
            await asyncio.sleep(0)

    monkeypatch.setattr(Staged, "write", write)
    asyncio.run(asyncio.wait_for(run(), 20))
    office.close()
    assert events == ["replied"] * 3 + ["logged"] * 3


@pytest.mark.parametrize("at", ["reply", "log"])
def test_a_fault_after_the_commit_is_that_message_s_alone(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Committed together, and one of them cannot be answered or logged: all are told, the queue hears of all."""
    office = opened(memory_path, "a group")
    spool = spool_of(office)
    spool.prepare()
    reception = Reception(str(office.staging), office.committer, office.pool, spool)
    announced: list[str] = []
    outcomes: list[list[Reply | None]] = []
    faults: list[BaseException] = []
    reception.queued = lambda entry: announced.append(entry.id)
    all_there = threading.Event()
    real_write = Staged.write

    def write(staged: Staged) -> None:
        all_there.wait(10)
        real_write(staged)

    def told(outcome: list[Reply | None]) -> None:
        outcomes.append(outcome)
        if at == "reply":
            raise ValueError("nobody foresaw it")

    def settled(_: object) -> None:
        if at == "log":
            raise ValueError("nobody foresaw it")

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: faults.append(what["exception"]))
        for _ in range(3):
            message = reception.begin()
            message.staged.append(BODY)
            reception.commit(message, 1, [], [AWAY], together=True, told=told, settled=settled)
        while not office.committer._jobs.qsize() >= 2:  # the thread has the first one
            await asyncio.sleep(0)
        all_there.set()
        while len(faults) < 3 or len(announced) < 3:
            await asyncio.sleep(0)

    monkeypatch.setattr(Staged, "write", write)
    asyncio.run(asyncio.wait_for(run(), 20))
    office.close()
    assert outcomes == [[None]] * 3
    assert sorted(announced) == sorted(entry_id for entry_id, _ in spool.ids()) and len(announced) == 3

"""Mailboxes that other programs change at any time, and whose directories may hold anything."""

from __future__ import annotations

import errno
import os
import random
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from destinations import link

from mailserver import maillog
from mailserver.mailbox import arrival as arrival_module
from mailserver.mailbox import maildir as maildir_module
from mailserver.mailbox import names
from mailserver.mailbox.maildir import Gone, Maildir, Message, unique_name

Deliver = Callable[..., Message]


def inside(maildir: Maildir, *place: str) -> Path:
    return Path(maildir.path, *place)


def everything(maildir: Maildir) -> set[str]:
    return {str(path.relative_to(maildir.path)) for path in inside(maildir).rglob("*") if path.is_file()}


# -- names --


def test_names_are_unique_when_the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.time, "time_ns", lambda: 1_700_000_000_123_456_789)
    made = [unique_name() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"1700000000\.M123456P\d+Q\d+R[0-9a-f]{12}\.[!-~]+", name) for name in made)
    assert all(len(name) <= 70 and not set(name) & set("/:,") for name in made)


def test_names_are_unique_after_a_restart_with_the_same_pid_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.time, "time_ns", lambda: 1_700_000_000_123_456_789)
    made = set()
    for _ in range(100):
        monkeypatch.setattr(names, "_counter", iter([1]))
        monkeypatch.setattr(names, "_CHANCE", secrets.token_hex(6))  # as each start draws it
        made.add(unique_name())
    assert len(made) == 100


def test_a_host_name_cannot_break_a_name() -> None:
    assert names._host("a/b:c,d e\n") == r"a\057b\072c\054d\040e\012"


@pytest.mark.parametrize(
    ("name", "unique", "size", "wire_size", "flags"),
    [
        ("1.M2P3.h", "1.M2P3.h", None, None, ""),
        ("1.M2P3.h,S=12,W=15", "1.M2P3.h", 12, 15, ""),
        ("1.M2P3.h,W=15,S=12:2,FS", "1.M2P3.h", 12, 15, "FS"),
        ("1.M2P3.h:2,S,X=1", "1.M2P3.h", None, None, "S,X=1"),
        ("1.M2P3.h,S=x,W=", "1.M2P3.h", None, None, ""),
        ("1.h,S=" + "9" * 30, "1.h", None, None, ""),
        (",S=3", "", 3, None, ""),
    ],
)
def test_what_a_name_tells(
    name: str, unique: str, size: int | None, wire_size: int | None, flags: str
) -> None:
    message = Message(name, "cur")
    assert (message.unique, message.size, message.wire_size, message.flags) == (
        unique,
        size,
        wire_size,
        flags,
    )


# -- scan --


def test_scan_is_in_the_order_of_delivery(maildir: Maildir) -> None:
    maildir.create()
    expected = [
        "no number",
        "999999999.h",
        "1700000000.M5P1.h",
        "1700000000.V801I3M40P2.h",  # Postfix puts the microseconds behind device and inode
        "1700000000.M123456P1.aaa",
        "1700000000.M123456P1.bbb",
        "1700000001.12345.qmail",
        "17000000010.h",
    ]
    shuffled = random.Random(1).sample(expected, len(expected))
    for i, name in enumerate(shuffled):
        inside(maildir, ("new", "cur")[i % 2], name).touch()
    assert [message.name for message in maildir.scan()] == expected


def test_scan_of_a_mailbox_that_nothing_was_delivered_to(maildir: Maildir) -> None:
    assert maildir.scan() == []
    assert not maildir.exists()


def test_a_message_seen_in_new_and_in_cur_counts_once(maildir: Maildir) -> None:
    maildir.create()
    inside(maildir, "new", "1.a,S=1").touch()
    inside(maildir, "cur", "1.a,S=1:2,S").touch()
    assert maildir.scan() == [Message("1.a,S=1:2,S", "cur")]


def test_scan_opens_no_message_and_asks_nothing_about_one(
    maildir: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir.create()
    for i in range(50_000):
        os.close(
            os.open(
                f"{maildir.path}/{('new', 'cur')[i % 2]}/17{i:08}.M{i}P1.h,S=1,W=2", os.O_CREAT | os.O_WRONLY
            )
        )
    real_open, opened = os.open, []

    def directories_only(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        assert flags & os.O_DIRECTORY
        opened.append(path)
        return real_open(path, flags, *args, **kwargs)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked about a message")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", directories_only)
        for name in ("stat", "lstat", "fstat"):
            patched.setattr(os, name, forbidden)
        messages = maildir.scan()
        total = sum(map(maildir.wire_size, messages))
    assert [message.name[2:10] for message in messages] == [f"{i:08}" for i in range(50_000)]
    assert (total, len(opened)) == (100_000, 2)


def test_odd_things_in_a_mailbox_are_no_messages(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver()
    inside(maildir, "new", "directory").mkdir()
    inside(maildir, "new", ".hidden").touch()
    inside(maildir, "new", "link").symlink_to("/etc/passwd")
    os.mkfifo(inside(maildir, "new", "pipe"))
    odd = os.fsencode(maildir.path) + b"/cur/2.\xff\xfe\n" + b"x" * 240
    os.close(os.open(odd, os.O_CREAT | os.O_WRONLY))
    first, second = maildir.scan()
    assert os.fsencode(first.name) == os.path.basename(odd)
    assert second == message
    assert maildir.wire_size(first) == 0


# -- opening --


def read(maildir: Maildir, message: Message) -> bytes:
    return b"".join(maildir.read_wire(message))


def test_a_message_is_followed_where_another_program_moves_it(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver()
    for name in (f"{message.name}:2,", f"{message.name}:2,S", f"{message.unique},S=15:2,FS"):
        (current,) = maildir.scan()
        inside(maildir, current.subdirectory, current.name).rename(inside(maildir, "cur", name))
        assert read(maildir, message) == b"Subject: x\r\n\r\nhi\r\n"


def test_a_message_that_is_renamed_during_the_search_is_still_found(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = deliver()
    real, states = maildir._names, iter([":2,", ":2,F", ":2,FS"])
    inside(maildir, "new", message.name).rename(inside(maildir, "cur", f"{message.name}{next(states)}"))

    def then_rename(subdirectory: str) -> list[str]:
        found = real(subdirectory)
        if subdirectory == "cur" and (state := next(states, None)):
            (path,) = inside(maildir, "cur").iterdir()
            path.rename(inside(maildir, "cur", message.name + state))
        return found

    monkeypatch.setattr(maildir, "_names", then_rename)
    with pytest.raises(Gone):  # renamed after each look: it gives up, instead of running after it for ever
        maildir.open(message)
    assert read(maildir, message)


def test_a_removed_message_is_gone(maildir: Maildir, deliver: Deliver) -> None:
    message, other = deliver(), deliver(b"other\n")
    inside(maildir, "new", message.name).unlink()
    for use in (maildir.open, maildir.read_wire):
        with pytest.raises(Gone):
            use(message)
    assert maildir.scan() == [other]


def test_only_regular_files_are_opened(maildir: Maildir, tmp_path: Path) -> None:
    maildir.create()
    inside(maildir, "cur", "link").symlink_to("/etc/passwd")
    inside(maildir, "cur", "directory").mkdir()
    os.mkfifo(inside(maildir, "cur", "pipe"))
    before = os.listdir("/proc/self/fd")
    for name in ("link", "directory", "pipe"):
        with pytest.raises(OSError):
            maildir.open(Message(name, "cur"))
        assert maildir.read_small([(Message(name, "cur"), 10_000)]) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_small_messages_are_read_up_to_one_that_is_not_simple(maildir: Maildir, deliver: Deliver) -> None:
    first, second, large, last = (deliver(text) for text in (b"1\n", b"2\n", b"333\n", b"4\n"))
    inside(maildir, "new", second.name).rename(inside(maildir, "cur", second.name))
    asked = [(first, 3), (Message(second.name, "cur"), 3), (large, 4), (last, 3)]
    before = os.listdir("/proc/self/fd")
    assert maildir.read_small(asked) == [b"1\r\n", b"2\r\n"]
    assert maildir.read_small([(second, 3), (first, 3)]) == []  # it is not there any more
    assert maildir.read_small([(large, 6), (last, 3)]) == []  # it is shorter than it was
    assert maildir.read_small([(large, 5), (last, 3)]) == [b"333\r\n", b"4\r\n"]
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("subdirectory", ["new", "cur"])
def test_a_subdirectory_that_is_a_link_is_not_followed(
    maildir: Maildir, deliver: Deliver, tmp_path: Path, subdirectory: str
) -> None:
    deliver()
    elsewhere = tmp_path / "elsewhere"
    inside(maildir, subdirectory).rename(elsewhere)
    (elsewhere / "secret").write_bytes(b"secret")
    inside(maildir, subdirectory).symlink_to(elsewhere)
    with pytest.raises(OSError):
        maildir.scan()
    with pytest.raises(OSError):
        maildir.open(Message("secret", subdirectory))
    if subdirectory == "new":
        with pytest.raises(OSError):
            deliver(b"x\n")
        assert not [name for name in os.listdir(elsewhere) if name.endswith(",S=2,W=3")]


def test_the_mailbox_itself_may_be_a_link(maildir: Maildir, deliver: Deliver, tmp_path: Path) -> None:
    deliver()
    Path(maildir.path).rename(tmp_path / "moved")
    Path(maildir.path).symlink_to(tmp_path / "moved")
    deliver(b"x\n")
    assert [read(maildir, message) for message in maildir.scan()] == [b"Subject: x\r\n\r\nhi\r\n", b"x\r\n"]


# -- sizes --


def test_a_size_no_name_tells_is_counted_once(maildir: Maildir, monkeypatch: pytest.MonkeyPatch) -> None:
    maildir.create()
    inside(maildir, "cur", "1.foreign:2,S").write_bytes(b"a\nb\r\nc")
    message = maildir.scan()[0]
    assert maildir.wire_size(message) == 9 == len(read(maildir, message))
    monkeypatch.setattr(Maildir, "open", None)
    assert Maildir(maildir.path).wire_size(message) == 9


def test_remembered_sizes_are_bounded(maildir: Maildir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir_module, "REMEMBERED", 3)
    monkeypatch.setattr(maildir_module, "_counted", type(maildir_module._counted)())
    maildir.create()
    for i in range(9):
        inside(maildir, "cur", f"{i}.h").write_bytes(b"x" * i)
    assert [maildir.wire_size(message) for message in maildir.scan()] == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert len(maildir_module._counted) == 3


def test_a_reader_that_is_not_read_to_the_end_is_closed(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver(b"line\n" * 200_000)
    before = len(os.listdir("/proc/self/fd"))
    reader = maildir.read_wire(message)
    next(reader)
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


# -- arriving --


def test_what_arrives_is_private_whatever_the_umask(maildir: Maildir, tmp_path: Path) -> None:
    source = tmp_path / "staged"
    source.write_bytes(b"x\n")
    source.chmod(0o600)
    before = os.umask(0)
    try:
        link(maildir.arrival(unique_name(), 2, 3), str(source))
    finally:
        os.umask(before)
    for path in [Path(maildir.path), *Path(maildir.path).rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_one_content_in_two_mailboxes(maildir: Maildir, tmp_path: Path) -> None:
    source, other = tmp_path / "staged", Maildir(str(tmp_path / "example.test" / "bob"))
    source.write_bytes(b"x\n")
    unique = unique_name()
    arrivals = [box.arrival(unique, 2, 3) for box in (maildir, other)]
    for arrival in arrivals:
        link(arrival, str(source), last=arrival is arrivals[-1])
    assert not source.exists()
    for box in (maildir, other):
        assert [read(box, message) for message in box.scan()] == [b"x\r\n"]
    for arrival in arrivals:
        arrival.unlink()
        arrival.unlink()
    assert maildir.scan() == other.scan() == []


@pytest.fixture(params=[errno.EXDEV, errno.EPERM, errno.EMLINK])
def no_links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The staged file is on another file system, or cannot be linked: only the mailbox's own names can be moved."""
    for call in ("link", "rename"):
        real = getattr(os, call)

        def refuse(source: str, target: str, *, real: Any = real, **kwargs: Any) -> None:
            if source.endswith("/staged"):
                raise OSError(request.param, os.strerror(request.param))
            real(source, target, **kwargs)

        monkeypatch.setattr(arrival_module.os, call, refuse)
    yield


@pytest.mark.usefixtures("no_links")
@pytest.mark.parametrize("last", [True, False])
def test_a_mailbox_that_links_do_not_reach_gets_a_copy(maildir: Maildir, tmp_path: Path, last: bool) -> None:
    content = random.Random(1).randbytes(3_000_000)
    source = tmp_path / "staged"
    source.write_bytes(content)
    link(maildir.arrival(unique_name(), len(content), 0), str(source), last=last)
    (path,) = inside(maildir, "new").iterdir()
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert source.exists() is not last
    assert os.listdir(inside(maildir, "tmp")) == []


@pytest.mark.usefixtures("no_links")
def test_a_copy_that_fails_leaves_nothing(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maildir.create()
    before = everything(maildir)
    source = tmp_path / "staged"
    source.write_bytes(b"x" * 100)
    monkeypatch.setattr(arrival_module, "_BLOCK", 10)
    real = os.fdopen

    def full_disk(fd: int, mode: str, **kwargs: Any) -> Any:
        file = real(fd, mode, **kwargs)

        class Full:
            def __enter__(self) -> Full:
                return self

            def __exit__(self, *error: object) -> None:
                file.close()

            def write(self, data: bytes) -> int:
                if file.tell() >= 50:
                    raise OSError(errno.ENOSPC, "full")
                return file.write(data)

        return Full()

    monkeypatch.setattr(arrival_module.os, "fdopen", full_disk)
    with pytest.raises(OSError, match="full"):
        link(maildir.arrival(unique_name(), 100, 100), str(source))
    assert everything(maildir) == before
    assert source.exists()


def test_a_missing_source_is_an_error_and_not_an_endless_attempt(maildir: Maildir, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link(maildir.arrival(unique_name(), 1, 1), str(tmp_path / "none"))


def test_taking_back_never_raises(maildir: Maildir, deliver: Deliver, tmp_path: Path) -> None:
    """It runs in the thread that commits for all sessions."""
    deliver()
    inside(maildir, "new").rename(tmp_path / "new")
    inside(maildir, "new").symlink_to(tmp_path / "new")
    maildir.arrival("1.h", 1, 1).unlink()


@pytest.mark.parametrize("linked", [True, False])
def test_only_what_is_there_is_told_of_as_not_taken_back(
    maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    told: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, **fields: told.append(name))
    maildir.create()
    content = tmp_path / "content"
    content.write_bytes(b"Subject: x\n\nhi\n")
    arrival = maildir.arrival(unique_name(), 15, 18)
    if linked:
        new = arrival.open()
        arrival.link(str(content), new, last=True)
        os.close(new)
    shutil.rmtree(maildir.path)
    Path(maildir.path).write_bytes(b"")  # neither can anything be linked there
    arrival.unlink()
    assert told == (["not-taken-back"] if linked else [])

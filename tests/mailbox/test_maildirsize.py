"""The quota of a mailbox in `maildirsize`, as this server and other Maildir++ programs keep it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from destinations import link
from hypothesis import given
from hypothesis import strategies as st

from mailserver.mail.quota import Quota
from mailserver.mailbox import quota, tally
from mailserver.mailbox.maildir import Maildir, Message
from mailserver.mailbox.quota import Usage
from mailserver.mailbox.trash import Trash

Deliver = Callable[..., Message]
LIMITED = Quota(1000, 10)
_write = os.write


@pytest.fixture
def kept(maildir: Maildir) -> Path:
    return Path(maildir.path, "maildirsize")


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows by one whenever the mailbox is counted."""
    done: list[str] = []
    real = quota._count

    def count(path: str) -> Usage:
        done.append(path)
        return real(path)

    monkeypatch.setattr(quota, "_count", count)
    return done


def test_a_mailbox_without_a_quota_keeps_no_file(maildir: Maildir, deliver: Deliver, kept: Path) -> None:
    deliver(b"x" * 50)
    assert not quota.is_over(maildir, Quota(), 10**12)
    assert quota.usage(maildir, Quota()) == Usage(50, 1)
    assert not kept.exists()


def test_a_mailbox_that_does_not_exist_is_empty(maildir: Maildir) -> None:
    assert quota.usage(maildir, LIMITED) == Usage(0, 0)
    assert not quota.is_over(maildir, LIMITED, 1000)
    assert quota.is_over(maildir, LIMITED, 1001)
    assert not os.path.exists(maildir.path)


@pytest.mark.parametrize(
    ("limits", "octets", "over"),
    [
        (Quota(150, 0), 50, False),
        (Quota(150, 0), 51, True),
        (Quota(0, 3), 10**9, False),
        (Quota(0, 2), 0, True),
        (Quota(150, 2), 1, True),
    ],
)
def test_one_more_message(maildir: Maildir, deliver: Deliver, limits: Quota, octets: int, over: bool) -> None:
    deliver(b"x" * 60)
    deliver(b"x" * 40)
    assert quota.is_over(maildir, limits, octets) is over
    assert quota.is_over(maildir, limits, octets) is over


def test_mail_that_comes_and_goes_is_noted_and_not_counted_again(
    maildir: Maildir, deliver: Deliver, kept: Path, counts: list[str]
) -> None:
    message = deliver(b"x" * 60)
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    deliver(b"x" * 40)
    trash = Trash(maildir)
    trash.discard(message)
    assert quota.usage(maildir, LIMITED) == Usage(40, 1)
    trash.restore(message.unique)
    assert quota.usage(maildir, LIMITED) == Usage(100, 2)
    assert kept.read_text() == "1000S,10C\n60 1\n40 1\n-60 -1\n60 1\n"
    assert len(counts) == 1
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_busy_mailbox_is_not_read_for_each_message(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(b"x" * 60)
    assert not quota.fits(maildir, LIMITED, 40), "nobody has looked yet"
    assert not quota.is_over(maildir, LIMITED, 40)  # counts
    assert not quota.is_over(maildir, LIMITED, 40)  # reads
    with monkeypatch.context() as patch:
        patch.setattr(quota, "open_regular", lambda *_: pytest.fail("read again"))
        for _ in range(8):
            deliver(b"x" * 100)
            assert not quota.is_over(maildir, LIMITED, 40)
        assert quota.fits(maildir, LIMITED, 140)
        assert not quota.fits(maildir, LIMITED, 141)
    assert quota.is_over(maildir, LIMITED, 141)
    assert quota.usage(maildir, LIMITED) == Usage(860, 9)


def test_a_long_file_is_counted_anew_though_its_sum_is_known(
    maildir: Maildir, deliver: Deliver, kept: Path, counts: list[str]
) -> None:
    big = Quota(10**6, 10**6)
    deliver(b"x" * 60)
    kept.write_text("1000000S,1000000C\n" + "7 1\n" * 1275)
    assert quota.usage(maildir, big) == Usage(7 * 1275, 1275)
    assert quota.fits(maildir, big, 1)
    for _ in range(3):
        quota.add(maildir, 1, 1)
    assert not quota.fits(maildir, big, 1)
    assert not quota.is_over(maildir, big, 1)
    assert quota.usage(maildir, big) == Usage(60, 1)
    assert len(counts) == 1


CHANGES = [
    "our note",
    "another's note",
    "both at once",
    "replaced",
    "first note replaced",
    "another quota",
    "no whole line",
    "removed",
]


def change(maildir: Maildir, kept: Path, kind: str, octets: int, messages: int) -> None:
    """What may happen to `maildirsize`, by us or by others."""
    line, text = f"{octets} {messages}\n", kept.read_text() if kept.exists() else "1000S,10C\n"
    if kind == "our note":
        quota.add(maildir, octets, messages)
    elif kind == "both at once":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", lambda fd, data: _write(fd, line.encode() + data))
            quota.add(maildir, octets, messages)
    elif kind in ("another's note", "no whole line"):
        with kept.open("a") as file:
            file.write(line.strip() if kind == "no whole line" else line)
    elif kind == "removed":
        kept.unlink(missing_ok=True)
    else:
        notes = text.splitlines(keepends=True)[2:] if kind == "first note replaced" else []
        first = "999S\n" if kind == "another quota" else "1000S,10C\n"
        kept.with_name("new").write_text(first + line + "".join(notes))
        kept.with_name("new").rename(kept)


@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(-60, 60), st.integers(-2, 2)), max_size=12))
def test_what_is_known_of_a_file_is_what_is_in_it(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int, int]]
) -> None:
    maildir = Maildir(str(tmp_path_factory.mktemp("alice")))
    kept = Path(maildir.path, "maildirsize")
    for kind, octets, messages in [("replaced", 90, 3), *changes]:
        change(maildir, kept, kind, octets, messages)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tally, "_kept", {})
            true = quota._read(maildir.path, LIMITED)
        known = tally.recall(str(kept), LIMITED)
        assert known is None or (true is not None and known == true.usage)
        assert quota._read(maildir.path, LIMITED) == true
        if true is not None and kept.read_text().endswith("\n"):
            assert tally.recall(str(kept), LIMITED) == true.usage


def test_what_was_read_and_what_we_noted_is_not_parsed_again(
    maildir: Maildir, deliver: Deliver, kept: Path
) -> None:
    deliver(b"x" * 60)
    kept.write_text("1000S,10C\n60 1\n")
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    quota.add(maildir, 7, 1)
    known = kept.stat().st_size
    change(maildir, kept, "another's note", 30, 1)
    assert tally.beginning(str(kept), kept.read_bytes(), LIMITED) == (known, 67, 2)
    assert quota.usage(maildir, LIMITED) == Usage(97, 3)
    assert quota.fits(maildir, LIMITED, 1)


def test_what_is_known_is_bounded(maildir: Maildir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "REMEMBERED", 10)
    monkeypatch.setattr(tally, "_kept", {})
    for number in range(30):
        box = Maildir(f"{maildir.path}{number}")
        box.create()
        assert not quota.is_over(box, LIMITED, 1)
        assert not quota.is_over(box, LIMITED, 1)
        assert quota.fits(box, LIMITED, 1)
    assert len(tally._kept) == 10


def test_folders_count_and_trash_does_not(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver(b"x" * 60)
    Trash(maildir).discard(message)
    for place, name in [
        (".Sent/cur", "1.h,S=500:2,S"),
        (".Sent/new", "2.foreign"),
        (".Trash.Old/cur", "3.h,S=7:2,"),
    ]:
        Path(maildir.path, place).mkdir(parents=True)
        Path(maildir.path, place, name).write_bytes(b"x" * 11)
    Path(maildir.path, ".Linked").symlink_to(Path(maildir.path, ".Sent"))
    assert quota.usage(maildir, LIMITED) == Usage(500 + 11 + 7, 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "1000S,10C",
        "1000S,10C\n",
        "1000S\n5 1\n",  # another quota
        "1000S,10C\n5 one\n",
        "1000S,10C\n5\n",
        "1000S,10C\n\n5 1\n",
        "1000S,10C\n5 1\n-9 -1\n",  # less than nothing
        "10X\n5 1\n",
        "\0\xff",
        "1000S,10C\n" + "1 0\n" * 1280,  # 5120 octets and more
    ],
)
def test_a_file_that_cannot_be_right_is_counted_anew(
    maildir: Maildir, deliver: Deliver, kept: Path, text: str
) -> None:
    deliver(b"x" * 60)
    kept.write_text(text)
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    assert kept.read_text() == "1000S,10C\n60 1\n"


@pytest.mark.parametrize(
    "text",
    [
        "1000S,10C\n5 1\n",
        "10C,1000S\n5 1\n",
        "1000S,10C\n           5            1\n",
        " 1000S , 10C\n7 2\n-2 -1\n",
    ],
)
def test_files_of_other_programs_are_read(maildir: Maildir, deliver: Deliver, kept: Path, text: str) -> None:
    deliver(b"x" * 60)
    kept.write_text(text)
    assert quota.usage(maildir, LIMITED) == Usage(5, 1)


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_file_that_is_none_is_not_followed(
    maildir: Maildir, deliver: Deliver, kept: Path, kind: str
) -> None:
    deliver(b"x" * 60)
    outside = Path(maildir.path).parent / "outside"
    outside.write_text("1000S,10C\n5 1\n")
    {"link": lambda: kept.symlink_to(outside), "pipe": lambda: os.mkfifo(kept), "directory": kept.mkdir}[
        kind
    ]()
    deliver(b"x" * 40)
    assert quota.usage(maildir, LIMITED) == Usage(100, 2)
    assert outside.read_text() == "1000S,10C\n5 1\n"


def test_nobody_is_over_by_a_sum_that_is_not_fresh(
    maildir: Maildir, deliver: Deliver, kept: Path, counts: list[str]
) -> None:
    deliver(b"x" * 60)
    kept.write_text("1000S,10C\n900 1\n90 1\n")  # notes of messages that are gone
    assert not quota.is_over(maildir, LIMITED, 100)
    assert len(counts) == 1
    kept.write_text("1000S,10C\n990 1\n")
    an_hour_ago = time.time() - 3600
    os.utime(kept, (an_hour_ago, an_hour_ago))
    assert not quota.is_over(maildir, LIMITED, 100)
    assert len(counts) == 2


def test_a_full_mailbox_is_not_counted_for_each_message_it_refuses(
    maildir: Maildir, deliver: Deliver, counts: list[str]
) -> None:
    deliver(b"x" * 999)
    assert all(quota.is_over(maildir, LIMITED, 100) for _ in range(20))
    assert len(counts) == 1


def test_a_clock_set_back_does_not_keep_a_wrong_sum_alive(
    maildir: Maildir, deliver: Deliver, kept: Path
) -> None:
    deliver(b"x" * 60)
    kept.write_text("1000S,10C\n990 1\n")
    next_year = time.time() + 365 * 86400
    os.utime(kept, (next_year, next_year))
    assert not quota.is_over(maildir, LIMITED, 100)


def test_a_full_disk_does_not_stop_counting(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(b"x" * 60)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(quota, "_write", full)
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    monkeypatch.setattr(quota.os, "write", full)
    Path(maildir.path, "maildirsize").write_text("1000S,10C\n60 1\n")
    quota.add(maildir, 1, 1)


def test_a_file_that_is_another_one_at_each_look_is_counted_anew(
    maildir: Maildir, deliver: Deliver, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that numbers files anew: what was noted how often is not known, and `add` ends."""
    deliver(b"x" * 60)
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    real, looks = os.lstat, iter(range(1000))

    def lstat(path: str) -> os.stat_result:
        status = real(path)
        return os.stat_result((status[0], 10**9 + next(looks), *status[2:]))

    with monkeypatch.context() as patched:
        patched.setattr(quota.os, "lstat", lstat)
        deliver(b"x" * 40)
    assert not kept.exists()
    assert quota.usage(maildir, LIMITED) == Usage(100, 2)
    assert kept.read_text() == "1000S,10C\n100 2\n"


def test_mail_that_comes_during_a_count_is_counted(
    maildir: Maildir, deliver: Deliver, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(b"x" * 60)
    real, later = quota._count, [b"x" * 40]

    def count(path: str) -> Usage:
        counted = real(path)
        if later:
            deliver(later.pop())
        return counted

    monkeypatch.setattr(quota, "_count", count)
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    assert kept.read_text() == "1000S,10C\n60 1\n40 1\n"
    assert quota.usage(maildir, LIMITED) == Usage(100, 2)


def test_a_count_that_was_cut_off_counts_for_nothing(maildir: Maildir, deliver: Deliver, kept: Path) -> None:
    deliver(b"x" * 60)
    kept.write_bytes(b"-\n60 1\n")
    assert quota.usage(maildir, LIMITED) == Usage(60, 1)
    assert kept.read_text() == "1000S,10C\n60 1\n"


NOTES = """
import sys
from mailserver.mailbox import quota, tally
from mailserver.mailbox.maildir import Maildir
maildir = Maildir(sys.argv[1])
sys.stdin.read()
for i in range(150):
    quota.add(maildir, 3, 1)
    quota.add(maildir, -1, 0)
"""


def test_notes_of_parallel_processes_are_all_there(maildir: Maildir, kept: Path) -> None:
    maildir.create()
    big = Quota(10**6, 10**6)
    assert quota.usage(maildir, big) == Usage(0, 0)
    command = [sys.executable, "-c", NOTES, maildir.path]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(3)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.close()
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert quota.usage(maildir, big) == Usage(3 * 150 * 2, 3 * 150)


def test_parallel_deliveries_overshoot_by_no_more_than_themselves(maildir: Maildir, tmp_path: Path) -> None:
    """Twenty threads that ask and then deliver: each may be one message late, and then it is over."""
    maildir.create()

    def fill(worker: int) -> None:
        box = Maildir(maildir.path)
        for i in range(10):
            source = tmp_path / f"staged-{worker}-{i}"
            source.write_bytes(b"x" * 50)
            if not quota.is_over(box, Quota(2000, 0), 50):
                arrival = box.arrival(f"{i}.w{worker}", 50, 52)
                link(arrival, str(source))
                quota.add(box, 50, 1)

    threads = [threading.Thread(target=fill, args=(worker,)) for worker in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 2000 <= 50 * len(maildir.scan()) <= 2000 + 20 * 50
    assert quota.is_over(maildir, Quota(2000, 0), 50)

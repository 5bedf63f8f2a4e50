"""The Trash: what is deleted waits there, seen by other programs, and comes back whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mailserver.durable import files
from mailserver.mail.quota import Quota
from mailserver.mailbox import quota, tree
from mailserver.mailbox.maildir import Gone, Maildir, Message
from mailserver.mailbox.trash import Trash

Deliver = Callable[..., Message]


def inside(maildir: Maildir, *place: str) -> Path:
    return Path(maildir.path, *place)


def test_a_deleted_message_is_in_the_folder_with_its_flags_and_date(
    maildir: Maildir, deliver: Deliver
) -> None:
    message = deliver()
    flagged = inside(maildir, "cur", f"{message.name}:2,STRF")
    inside(maildir, "new", message.name).rename(flagged)
    os.utime(flagged, (1_000_000_000, 1_000_000_000))
    Trash(maildir).discard(message)
    assert maildir.scan() == []
    (path,) = inside(maildir, ".Trash", "cur").iterdir()
    assert path.name == f"{message.name}:2,FRS"  # not T: other programs would hide it
    assert path.stat().st_mtime == 1_000_000_000
    (trashed,) = Trash(maildir).list()
    assert (trashed.name, trashed.unique, trashed.size) == (path.name, message.unique, 15)
    assert abs(trashed.trashed_at - path.stat().st_ctime) < 1


def test_the_folder_is_a_maildir_folder(maildir: Maildir, deliver: Deliver) -> None:
    Trash(maildir).discard(deliver())
    assert sorted(os.listdir(inside(maildir, ".Trash"))) == ["cur", "maildirfolder", "new", "tmp"]
    assert inside(maildir, ".Trash", "maildirfolder").read_bytes() == b""
    assert inside(maildir, ".Trash").stat().st_mode & 0o777 == 0o700


def test_a_name_too_long_for_flags_is_no_hindrance(maildir: Maildir) -> None:
    maildir.create()
    inside(maildir, "new", "m" * 255).write_bytes(b"long\n")
    trash = Trash(maildir)
    assert trash.discard(*maildir.scan()) == []
    (trashed,) = trash.list()
    restored = trash.restore(trashed.unique)
    assert b"".join(maildir.read_wire(restored)) == b"long\r\n"


def test_the_mark_of_a_folder_is_there_when_all_else_is_durable(
    maildir: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = inside(maildir, ".Trash")
    synced: list[list[str]] = []
    sync = files.sync_directory
    monkeypatch.setattr(
        files,
        "sync_directory",
        lambda at: (Path(at) == path and synced.append(sorted(os.listdir(at))), sync(at)),
    )
    for _ in range(2):
        tree.make_folder(maildir.path, tree.TRASH)
        assert synced == [["cur", "new", "tmp"]]  # once, and no more where the folder is whole
    assert (path / "maildirfolder").exists()


def test_a_folder_made_by_another_program_is_used(maildir: Maildir, deliver: Deliver) -> None:
    maildir.create()
    shutil.rmtree(inside(maildir, ".Trash"))
    inside(maildir, ".Trash", "cur").mkdir(parents=True)
    Trash(maildir).discard(deliver())
    assert len(Trash(maildir).list()) == 1


def test_restored_messages_are_what_they_were(maildir: Maildir, deliver: Deliver) -> None:
    messages = [deliver(), deliver(b"other\n")]
    inside(maildir, "new", messages[0].name).rename(inside(maildir, "cur", f"{messages[0].name}:2,FS"))
    trash = Trash(maildir)
    for message in messages:
        trash.discard(message)
    restored = [Trash(maildir).restore(message.unique) for message in messages]
    assert [message.unique for message in restored] == [message.unique for message in messages]
    assert [message.flags for message in restored] == ["FS", ""]
    assert maildir.scan() == restored
    assert b"".join(maildir.read_wire(restored[1])) == b"other\r\n"
    assert Trash(maildir).list() == []


def test_many_are_restored_by_one_look(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash = Trash(maildir)
    for _ in range(5):
        trash.discard(deliver())
    looks = []
    scan = maildir.scan
    monkeypatch.setattr(maildir, "scan", lambda: looks.append(1) or scan())
    for trashed in trash.list():
        trash.restore(trashed.unique)
    assert (len(looks), len(scan())) == (1, 5)


def test_restoring_never_overwrites(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver()
    trash = Trash(maildir)
    trash.discard(message)
    inside(maildir, "new", message.unique).write_bytes(b"another\n")
    with pytest.raises(FileExistsError):
        trash.restore(message.unique)
    assert len(trash.list()) == 1
    assert inside(maildir, "new", message.unique).read_bytes() == b"another\n"


def test_restoring_what_is_not_there(maildir: Maildir, deliver: Deliver) -> None:
    deliver()
    for unique in ("none", "../cur/x", ""):
        with pytest.raises(Gone):
            Trash(maildir).restore(unique)


def test_two_files_of_one_name_are_both_kept(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver()
    Trash(maildir).discard(message)
    inside(maildir, "cur", f"{message.name}:2,").write_bytes(b"not the same\n")
    Trash(maildir).discard(message)
    trashed = Trash(maildir).list()
    assert sorted(entry.size for entry in trashed) == [13, 15]
    assert len({entry.unique for entry in trashed}) == 2


def test_a_hard_link_to_what_is_in_trash_is_moved_too(maildir: Maildir, deliver: Deliver) -> None:
    """rename(2) of two names of one file does nothing and reports success."""
    message = deliver()
    Trash(maildir).discard(message)
    name = f"{message.name}:2,"
    os.link(inside(maildir, ".Trash", "cur", name), inside(maildir, "cur", name))
    Trash(maildir).discard(Message(name, "cur"))
    assert maildir.scan() == []
    assert len(Trash(maildir).list()) == 2


def test_what_another_program_removed_or_moved_meanwhile(maildir: Maildir, deliver: Deliver) -> None:
    moved, removed = deliver(), deliver()
    inside(maildir, "new", removed.name).unlink()
    inside(maildir, "new", moved.name).rename(inside(maildir, "cur", f"{moved.name}:2,S"))
    trash = Trash(maildir)
    assert trash.discard(removed, moved) == []
    assert [entry.name for entry in trash.list()] == [f"{moved.name}:2,S"]


def test_one_note_in_the_quotas_file_tells_of_all(maildir: Maildir, deliver: Deliver) -> None:
    messages = [deliver(b"12\n"), deliver(b"1234\n"), deliver()]
    assert quota.usage(maildir, Quota(1000, 0)) == (23, 3)
    Trash(maildir).discard(messages[0], Message("gone", "cur"), messages[1])
    assert inside(maildir, quota.FILE).read_text().splitlines()[2:] == ["-8 -2"]


def test_directories_are_synced_once_for_many_messages(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, trash = [deliver() for _ in range(5)], Trash(maildir)
    trash.discard(messages.pop())
    synced: list[str] = []
    monkeypatch.setattr(
        files, "sync_directory", lambda path: synced.append(os.path.relpath(path, maildir.path))
    )
    for message in messages:
        trash.discard(message)
    assert synced == []
    trash.sync()
    trash.sync()
    assert synced == [".Trash/cur", "new"]  # a cut between the two leaves a message in both places
    trash.restore(message.unique)
    assert synced[2:] == ["cur", ".Trash/cur"]


def test_a_sync_that_failed_is_made_up_for(
    maildir: Maildir, deliver: Deliver, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash = Trash(maildir)
    trash.discard(deliver())
    synced: list[str] = []

    def fail_once(path: str) -> None:
        synced.append(path)
        if len(synced) == 1:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(files, "sync_directory", fail_once)
    with pytest.raises(OSError):
        trash.sync()
    trash.sync()
    assert len(synced) == 3


def test_purging(maildir: Maildir, deliver: Deliver) -> None:
    trash = Trash(maildir)
    for _ in range(3):
        trash.discard(deliver())
    inside(maildir, ".Trash", "new", "1.by-another-program").touch()
    assert trash.list(older_than=3600) == []
    assert len(trash.list(older_than=-3600)) == 4
    newest = trash.list()[0]
    assert trash.remove(newest)
    assert not trash.remove(newest)
    assert sum(map(trash.remove, trash.list())) == 3
    assert trash.list() == []


def test_a_trash_without_anything(maildir: Maildir) -> None:
    assert Trash(maildir).list() == []


@pytest.mark.parametrize("name", [".Trash", ".Trash/cur"])
def test_a_trash_that_is_a_link_is_not_followed(
    maildir: Maildir, deliver: Deliver, tmp_path: Path, name: str
) -> None:
    message = deliver()
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "cur").mkdir(parents=True)
    (elsewhere / "cur" / "secret").write_bytes(b"secret")
    (elsewhere / "secret").write_bytes(b"secret")
    shutil.rmtree(inside(maildir, name))
    inside(maildir, name).symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    trash = Trash(maildir)
    assert len(trash.discard(message)) == 1
    for use in (trash.list, lambda: trash.restore("secret")):
        with pytest.raises(OSError):
            use()
    assert sorted(elsewhere.rglob("*")) == before
    assert maildir.scan() == [message]

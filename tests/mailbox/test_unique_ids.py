"""POP3's unique ids: stable for ever, whatever other programs do, and as Dovecot's clients know them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailserver.durable import files
from mailserver.mailbox import uidl
from mailserver.mailbox.maildir import Maildir, Message
from mailserver.mailbox.trash import Trash
from mailserver.mailbox.uidl import unique_ids

Deliver = Callable[..., Message]

# Written by Dovecot 2.3: an IMAP session; then POP3 with and without pop3_save_uidl.
UIDLIST = """\
3 V1795355700 N5 Gf033ce2b34f4026b4431000083ecc375
1 W21 P000000016b02f434 :1700000000.M1P2.host
2 W19 :1700000001.M1P2.host,S=17
3 :1700000002.V1I2M3.host
4 W16 Pother-server-7 O2 :1700000003.M4.host,S=15,W=16
"""
DOVECOT_IDS = ["000000016b02f434", "000000026b02f434", "000000036b02f434", "other-server-7"]


@pytest.fixture
def migrated(maildir: Maildir) -> Maildir:
    """A mailbox as Dovecot leaves it."""
    for name in ("new", "cur", "tmp"):
        Path(maildir.path, name).mkdir(parents=True)
    for name in (
        "cur/1700000000.M1P2.host:2,",
        "cur/1700000001.M1P2.host,S=17:2,S",
        "new/1700000002.V1I2M3.host",
        "cur/1700000003.M4.host,S=15,W=16:2,F",
    ):
        Path(maildir.path, name).write_bytes(b"Subject: x\n\nhi\n")
    Path(maildir.path, "dovecot-uidlist").write_text(UIDLIST)
    return maildir


def ids(maildir: Maildir) -> list[str]:
    """A login, by another instance each time."""
    box = Maildir(maildir.path)
    return unique_ids(box, box.snapshot().uniques)


def test_the_id_is_the_stable_part_of_the_name(maildir: Maildir, deliver: Deliver) -> None:
    messages = [deliver(), deliver()]
    expected = [message.unique for message in messages]
    assert ids(maildir) == expected
    Path(maildir.path, "new", messages[0].name).rename(
        Path(maildir.path, "cur", f"{messages[0].unique},S=9:2,FS")
    )
    assert ids(maildir) == expected


def test_a_name_that_pop3_would_not_allow_is_hashed(maildir: Maildir) -> None:
    maildir.create()
    odd = ["a b", "é", "x" * 71, "\udcff\udcfe", "tab\t", ",S=3"]
    for name in odd:
        Path(maildir.path, "cur", name).touch()
    found = ids(maildir)
    assert len(set(found)) == len(odd)
    assert all(len(found_id) == 40 and found_id.isalnum() for found_id in found)
    assert ids(maildir) == found


def test_dovecots_ids_are_adopted_at_the_first_login(migrated: Maildir) -> None:
    assert ids(migrated) == DOVECOT_IDS
    assert os.stat(f"{migrated.path}/pop3-uidl").st_mode & 0o777 == 0o600


def test_adopted_ids_stay_without_and_against_dovecots_list(migrated: Maildir) -> None:
    assert ids(migrated) == DOVECOT_IDS
    Path(migrated.path, "dovecot-uidlist").write_text(
        UIDLIST.replace("V1795355700", "V1") + "9 :1800000000.new\n"
    )
    Path(migrated.path, "new", "1800000000.new").touch()
    assert ids(migrated) == [*DOVECOT_IDS, "1800000000.new"]
    Path(migrated.path, "dovecot-uidlist").unlink()
    assert ids(migrated) == [*DOVECOT_IDS, "1800000000.new"]


def test_a_delivery_before_the_first_login_does_not_hinder_adoption(
    migrated: Maildir, deliver: Deliver
) -> None:
    Path(migrated.path, "tmp").rmdir()
    migrated.create()
    message = deliver()
    assert ids(migrated) == [*DOVECOT_IDS, message.unique]


def test_a_mailbox_that_was_read_once_never_adopts_later(maildir: Maildir, deliver: Deliver) -> None:
    message = deliver()
    assert ids(maildir) == [message.unique]
    Path(maildir.path, "dovecot-uidlist").write_text(f"3 V1 N2\n1 :{message.name}\n")
    assert ids(maildir) == [message.unique]


def test_a_mailbox_of_another_program_without_a_list_never_adopts_later(migrated: Maildir) -> None:
    uidlist = Path(migrated.path, "dovecot-uidlist")
    uidlist.rename(uidlist.with_suffix(".aside"))
    before = ids(migrated)
    uidlist.with_suffix(".aside").rename(uidlist)
    assert ids(migrated) == before == [message.unique for message in migrated.scan()]


def test_an_adopted_message_that_comes_back_from_trash_has_its_id(migrated: Maildir) -> None:
    ids(migrated)
    message, trash = migrated.scan()[1], Trash(migrated)
    trash.discard(message)
    assert ids(migrated) == [DOVECOT_IDS[0], *DOVECOT_IDS[2:]]
    trash.restore(message.unique)
    assert ids(migrated) == DOVECOT_IDS


def test_one_id_for_two_messages_is_told_once_and_never_passed_on(migrated: Maildir) -> None:
    """Dovecot allows it; a client would not fetch the second message."""
    Path(migrated.path, "dovecot-uidlist").write_text(
        UIDLIST.replace(" P000000016b02f434", " Pother-server-7")
    )
    found = ids(migrated)
    assert found[0] == "other-server-7"
    assert len(set(found)) == 4
    Trash(migrated).discard(migrated.scan()[0])
    assert ids(migrated) == found[1:]


def test_a_name_like_another_messages_recorded_id(migrated: Maildir) -> None:
    ids(migrated)
    Path(migrated.path, "new", "other-server-7").touch()
    found = ids(migrated)
    assert found[1:] == DOVECOT_IDS
    assert found[0] not in DOVECOT_IDS
    assert ids(migrated) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "3 N5\n1 :1700000000.M1P2.host\n",
        "1 1795355700 5\n1 1700000000.M1P2.host\n",
        "3 V99999999999999999999\n1 :1700000000.M1P2.host\n",
        "x" * 2_000_000,
        "\0" * 5000,
        "3 V1 N2\n" + "1 " + "W1 " * 100_000 + ":1700000000.M1P2.host\n",
        "3 V1 N2\n1 :\n2 :../../etc/passwd\n99999999999 :a\n-1 :a\n1 W1\n",
    ],
)
def test_a_list_that_is_none_is_no_harm(migrated: Maildir, text: str) -> None:
    Path(migrated.path, "dovecot-uidlist").write_text(text)
    assert ids(migrated) == [message.unique for message in migrated.scan()]
    assert migrated.wire_size(migrated.scan()[0]) == 18


def test_bad_values_in_a_list_are_not_told(migrated: Maildir) -> None:
    lines = [
        "3 V1 N9",
        "1 P :1700000000.M1P2.host",
        f"2 P{'x' * 71} :1700000001.M1P2.host",
        "3 Pé :1700000002.V1I2M3.host",
    ]
    Path(migrated.path, "dovecot-uidlist").write_text(
        "\n".join([*lines, "4 W99999999999999999999 Pok :1700000003.M4.host", "5 :cut"])
    )
    found = ids(migrated)
    assert (found[0], found[3]) == ("0000000100000001", "ok")
    assert all(0 < len(found_id) <= 70 and found_id.isascii() for found_id in found)
    assert len(set(found)) == 4


def test_sizes_in_the_list_save_reading(migrated: Maildir) -> None:
    first, second, third, fourth = migrated.scan()
    assert [migrated.wire_size(message) for message in (first, second, fourth)] == [21, 19, 16]
    assert migrated.wire_size(third) == 18  # counted: the list does not have it


def test_a_list_that_is_a_link_or_a_pipe_is_not_followed(migrated: Maildir, tmp_path: Path) -> None:
    uidlist = Path(migrated.path, "dovecot-uidlist")
    uidlist.rename(tmp_path / "list")
    uidlist.symlink_to(tmp_path / "list")
    with pytest.raises(OSError):
        ids(migrated)
    uidlist.unlink()
    os.mkfifo(uidlist)
    with pytest.raises(OSError):
        ids(migrated)


def test_a_full_disk_does_not_keep_anybody_from_reading(
    migrated: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "replace", full)
        assert ids(migrated) == DOVECOT_IDS
    assert ids(migrated) == DOVECOT_IDS


def test_ids_of_vanished_messages_are_dropped_in_time(
    maildir: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uidl, "SPARE", 3)
    maildir.create()
    lines = [f"old-{i} {i}.h\n" for i in range(10)]
    Path(maildir.path, "pop3-uidl").write_text("pop3-uidl 1\n" + "".join(lines))
    for i in range(3):
        Path(maildir.path, "cur", f"{i}.h:2,").touch()
    assert ids(maildir) == ["old-0", "old-1", "old-2"]
    assert ids(maildir) == ["old-0", "old-1", "old-2"]
    assert Path(maildir.path, "pop3-uidl").read_text() == "pop3-uidl 1\n" + "".join(lines[:3])


def test_a_scan_that_missed_a_message_does_not_cost_it_its_id(
    migrated: Maildir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uidl, "SPARE", 0)
    ids(migrated)
    assert unique_ids(migrated, migrated.snapshot().uniques[:1]) == DOVECOT_IDS[:1]
    assert ids(migrated) == DOVECOT_IDS


_lines = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abcdef")), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_lines, st.sets(st.sampled_from("abcdef")))
def test_ids_never_repeat_whatever_the_record_says(
    maildir: Maildir, lines: list[tuple[str, str]], uniques: set[str]
) -> None:
    os.makedirs(maildir.path, exist_ok=True)
    record = Path(maildir.path, "pop3-uidl")
    record.write_text("pop3-uidl 1\n" + "".join(f"{told} {unique}\n" for told, unique in lines))
    found = unique_ids(maildir, sorted(uniques))
    assert len(set(found)) == len(uniques)
    assert all(
        unique_ids(maildir, [unique]) == [told] for unique, told in zip(sorted(uniques), found, strict=True)
    )

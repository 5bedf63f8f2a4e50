"""Dovecot's IMAP and POP3 serve a mailbox of ours, and ours serves one of theirs.

Dovecot's session programs are started by themselves, already logged in on standard input and output, with
a configuration and directories of their own; no port is opened.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from destinations import link

from mailserver.mail.quota import Quota
from mailserver.mailbox import quota
from mailserver.mailbox.maildir import Maildir, unique_name
from mailserver.mailbox.trash import Trash
from mailserver.mailbox.uidl import unique_ids

LIBEXEC = "/usr/lib/dovecot"
NOBODY = 65534  # Dovecot serves no mail as root

pytestmark = [
    pytest.mark.skipif(not os.path.exists(f"{LIBEXEC}/{name}"), reason=f"Dovecot's {name} is not installed")
    for name in ("imap", "pop3")
]

CONFIGURATION = """
base_dir = {root}/base
state_dir = {root}/state
log_path = {root}/log
ssl = no
first_valid_uid = 0
first_valid_gid = 0
default_internal_user = {user}
default_login_user = {user}
mail_location = maildir:{root}/mail
mail_plugins = quota
protocol imap {{
  mail_plugins = quota imap_quota
}}
plugin {{
  quota = maildir:User quota
  quota_rule = *:storage=100k:messages=50
  quota_rule2 = Trash:ignore
}}
"""
LIMITS = Quota(100 * 1024, 50)


class Dovecot:
    """A private Dovecot over one mailbox."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.maildir = Maildir(str(root / "mail"))
        self.uid = NOBODY if os.getuid() == 0 else os.getuid()
        user = pwd.getpwuid(self.uid).pw_name
        (root / "dovecot.conf").write_text(CONFIGURATION.format(root=root, user=user))
        for name in ("base", "state", "mail"):
            (root / name).mkdir()
        root.chmod(0o755)

    def run(self, program: str, *lines: str) -> str:
        """A session of `program` in which a client says `lines`; what the server says."""
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, self.uid, -1, follow_symlinks=False)
        result = subprocess.run(
            [f"{LIBEXEC}/{program}", "-c", str(self.root / "dovecot.conf")],
            input="".join(f"{line}\r\n" for line in lines),
            env={"USER": "alice", "HOME": str(self.root / "mail"), "PATH": os.environ["PATH"]},
            user=self.uid if os.getuid() == 0 else None,
            extra_groups=[] if os.getuid() == 0 else None,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert "Fatal" not in result.stderr, result.stderr
        return result.stdout

    def imap(self, *commands: str) -> str:
        answer = self.run("imap", *(f"a {command}" for command in commands), "a LOGOUT")
        assert not re.search(r"^a (NO|BAD)", answer, re.MULTILINE), answer
        return answer

    def pop3_ids(self) -> list[str]:
        """What Dovecot's own POP3 server tells as unique ids."""
        return re.findall(r"^\d+ (\S{16})$", self.run("pop3", "UIDL", "QUIT"), re.MULTILINE)

    def deliver(self, content: bytes) -> None:
        staged = self.root / "staged"
        staged.write_bytes(content)
        wire_size = len(content) + content.count(b"\n")
        arrival = self.maildir.arrival(unique_name(), len(content), wire_size)
        link(arrival, str(staged))
        quota.add(self.maildir, len(content), 1)

    def ids(self) -> list[str]:
        """A login to our POP3."""
        maildir = Maildir(self.maildir.path)
        return unique_ids(maildir, maildir.snapshot().uniques)


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    root = tempfile.mkdtemp(prefix="mailserver-")
    yield Dovecot(Path(root))
    shutil.rmtree(root)


def numbers(pattern: str, answer: str) -> list[int]:
    return [int(number) for number in re.findall(pattern, answer)]


def test_it_flags_and_moves_our_mail_and_our_ids_and_sizes_stay(dovecot: Dovecot) -> None:
    for i in range(3):
        dovecot.deliver(b"Subject: number %d\n\n" % i + b"line\n" * i)
    before = dovecot.ids()
    messages = dovecot.maildir.scan()
    sizes = [dovecot.maildir.wire_size(message) for message in messages]
    answer = dovecot.imap("SELECT INBOX", "FETCH 1:* RFC822.SIZE", r"STORE 2 +FLAGS (\Seen \Flagged)")
    assert numbers(r"RFC822\.SIZE (\d+)", answer) == sizes
    after = dovecot.maildir.scan()
    assert [message.subdirectory for message in after] == ["cur"] * 3  # it did move them
    assert [message.flags for message in after] == ["", "FS", ""]
    assert os.path.exists(f"{dovecot.maildir.path}/dovecot-uidlist")
    assert dovecot.ids() == before == [message.unique for message in messages]
    assert [len(b"".join(dovecot.maildir.read_wire(message))) for message in messages] == sizes


def test_it_shows_our_trash_and_restores_from_it(dovecot: Dovecot) -> None:
    for i in range(3):
        dovecot.deliver(b"Subject: number %d\n\ntext\n" % i)
    ids = dovecot.ids()  # the first login settles whose ids count, before Dovecot made its own
    dovecot.imap("SELECT INBOX", r"STORE 2 +FLAGS (\Seen \Deleted)", "UNSELECT")
    trash = Trash(dovecot.maildir)
    for message in dovecot.maildir.scan()[:2]:
        trash.discard(message)
    trash.sync()
    answer = dovecot.imap('LIST "" *', "SELECT Trash", "FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    assert re.search(r'^\* LIST .* "\." Trash\r?$', answer, re.MULTILINE)
    assert "Subject: number 0" in answer and "Subject: number 1" in answer
    flags = re.findall(r"FETCH \(FLAGS \((.*?)\)", answer)
    assert [" ".join(word for word in found.split() if word != "\\Recent") for found in flags] == [
        "",
        "\\Seen",
    ]
    dovecot.imap("SELECT Trash", "EXPUNGE", "MOVE 1 INBOX")
    trash.restore(ids[1])
    assert len(dovecot.ids()) == 3
    assert set(ids[1:]) < set(dovecot.ids())  # to IMAP, a message that was moved is a new one
    assert "* 3 EXISTS" in dovecot.imap("SELECT INBOX")


def test_its_own_subfolders_and_trash_are_ours_too(dovecot: Dovecot) -> None:
    dovecot.deliver(b"Subject: one\n\ntext\n")
    dovecot.deliver(b"Subject: two\n\ntext\n")
    shutil.rmtree(Path(dovecot.maildir.path, ".Trash"))
    dovecot.imap("CREATE Trash", "CREATE Archive", "SELECT INBOX", "UID MOVE 1 Trash", "UID MOVE 2 Archive")
    assert dovecot.maildir.scan() == []
    (trashed,) = Trash(dovecot.maildir).list()
    Trash(dovecot.maildir).restore(trashed.unique)
    assert b"Subject: one" in b"".join(dovecot.maildir.read_wire(dovecot.maildir.scan()[0]))
    assert quota.usage(dovecot.maildir, LIMITS).messages == 2


def foreign(dovecot: Dovecot) -> None:
    """A mailbox that other programs filled."""
    for name, content in {
        "new/1700000000.M1P2.host": b"Subject: a\n\nhello\n",
        "new/1700000001.M1P2.host,S=18": b"Subject: b\n\nhello\n",
        "cur/1700000002.V1I2M3.host:2,S": b"Subject: c\r\n\r\nmixed\nends\r\n",
    }.items():
        path = Path(dovecot.maildir.path, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    Path(dovecot.maildir.path, "tmp").mkdir()


def saved(dovecot: Dovecot) -> None:
    with open(dovecot.root / "dovecot.conf", "a") as file:
        file.write("pop3_save_uidl = yes\n")


@pytest.mark.parametrize("prepare", [lambda dovecot: None, saved], ids=["default", "pop3_save_uidl"])
def test_its_pop3_clients_find_their_ids_with_us(
    dovecot: Dovecot, prepare: Callable[[Dovecot], None]
) -> None:
    foreign(dovecot)
    prepare(dovecot)
    told = dovecot.pop3_ids()
    assert len(told) == 3
    assert dovecot.ids() == told
    dovecot.deliver(b"Subject: d\n\nnew\n")
    dovecot.imap("SELECT INBOX", r"STORE 1:* +FLAGS (\Flagged)")
    assert dovecot.ids() == [*told, dovecot.maildir.scan()[3].unique]


def test_we_tell_the_sizes_it_tells(dovecot: Dovecot) -> None:
    foreign(dovecot)
    told = numbers(r"RFC822\.SIZE (\d+)", dovecot.imap("SELECT INBOX", "FETCH 1:* RFC822.SIZE"))
    assert [dovecot.maildir.wire_size(message) for message in dovecot.maildir.scan()] == told


def test_the_quota_is_shared(dovecot: Dovecot) -> None:
    dovecot.maildir.create()
    assert quota.usage(dovecot.maildir, LIMITS) == (0, 0)
    kept = Path(dovecot.maildir.path, "maildirsize")
    counted = kept.stat().st_ino
    dovecot.deliver(b"x" * 2047 + b"\n")
    answer = dovecot.imap("APPEND INBOX {16+}\r\nSubject: a\r\n\r\nbc", "GETQUOTAROOT INBOX")
    assert numbers(r"STORAGE (\d+) 100 MESSAGE 2 50", answer) == [3]  # in units of 1024 octets, rounded up
    assert quota.usage(dovecot.maildir, LIMITS) == (2048 + 14, 2)
    Trash(dovecot.maildir).discard(dovecot.maildir.scan()[0])
    assert numbers(r"MESSAGE (\d+) 50", dovecot.imap("GETQUOTAROOT INBOX")) == [1]
    assert quota.usage(dovecot.maildir, LIMITS) == (14, 1)
    assert kept.stat().st_ino == counted  # neither found a reason to count anew

"""Dovecot's IMAP server beside ours, on the same mailboxes: one delivers and serves POP3, the other IMAP.

Dovecot serves no mail that is root's, so ours becomes another user. What Dovecot thinks of a mailbox by itself is in `tests/mailbox`.
"""

from __future__ import annotations

import imaplib
import os
import poplib
import pwd
import re
import smtplib
from collections.abc import Iterator
from typing import NamedTuple

import private
import programs
import pytest
import serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot's master starts only as root")

OWNER = "nobody"
CONFIGURATION = """\
log_path = /dev/stderr
protocols = imap
mail_location = maildir:{mail}/%d/%n
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={mail}/%d/%n
}}
service imap-login {{
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
"""


class Both(NamedTuple):
    site: serving.Site
    smtp: int
    pop3: int
    imap: int

    def send(self, subject: str) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=serving.LIMIT) as client:
            client.sendmail("a@client.test", ["ann@example.test"], f"Subject: {subject}\r\n\r\ntext\r\n")

    def ids(self) -> list[str]:
        """The unique ids that a POP3 client sees, with the subject of each: id, subject, id, subject."""
        client = self.login()
        found = []
        for line in client.uidl()[1]:
            number, unique = line.decode().split()
            top = b"\n".join(client.top(int(number), 0)[1]).decode()
            found += [unique, re.findall(r"^Subject: (.*)$", top, re.MULTILINE)[0]]
        client.quit()
        return found

    def login(self) -> poplib.POP3:
        client = poplib.POP3("127.0.0.1", self.pop3, timeout=serving.LIMIT)
        client.user("ann@example.test")
        client.pass_(serving.PASSWORD)
        return client


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    programs.need("/usr/lib/dovecot/imap")
    account = pwd.getpwnam(OWNER)
    with serving.site() as site:
        smtp, pop3, imap = (site.ports.take() for _ in range(3))
        site.configure(
            [("smtp", f"tcp:127.0.0.1:{smtp}"), ("pop3", f"tcp:127.0.0.1:{pop3}")], top=f'user = "{OWNER}"\n'
        )
        site.give(OWNER)
        settings = CONFIGURATION.format(mail=site.mail, uid=account.pw_uid, gid=account.pw_gid, port=imap)
        with site.serve(), programs.Daemon(*private.dovecot(site.root, settings)) as dovecot:
            dovecot.says("starting up for imap")
            yield Both(site, smtp, pop3, imap)


@pytest.fixture
def imap(both: Both) -> Iterator[imaplib.IMAP4]:
    """A session of ann's, in an empty mailbox, with three messages to come."""
    both.site.empty("ann")
    for subject in ("one", "two", "three"):
        both.send(subject)
    with imaplib.IMAP4("127.0.0.1", both.imap, timeout=serving.LIMIT) as client:
        client.login("ann@example.test", "any")
        yield client


def subjects(imap: imaplib.IMAP4, folder: str) -> list[str]:
    imap.select(folder)
    kind, found = imap.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
    assert kind == "OK"
    return [part[1].decode().split()[1] for part in found if isinstance(part, tuple)]


def good(answer: tuple[str, list[object]]) -> None:
    assert answer[0] == "OK", answer


def test_what_it_flags_and_moves_keeps_its_ids(both: Both, imap: imaplib.IMAP4) -> None:
    before = both.ids()
    good(imap.select("INBOX"))
    good(imap.store("1:2", "+FLAGS", r"(\Seen \Flagged)"))
    assert both.ids() == before  # it has renamed all three
    good(imap.create("Archive"))
    good(imap._simple_command("MOVE", "2", "Archive"))
    assert both.ids() == before[:2] + before[4:]
    good(imap.select("Archive"))
    good(imap._simple_command("MOVE", "1", "INBOX"))
    both.send("four")
    after = both.ids()
    assert set(after[1::2]) == {"one", "two", "three", "four"}
    assert set(before) - set(after) <= {
        before[2]
    }  # of what was moved there and back it may make a new message


def test_what_pop3_deletes_is_in_its_trash_and_comes_back(both: Both, imap: imaplib.IMAP4) -> None:
    before = both.ids()
    client = both.login()
    client.dele(1)
    client.quit()
    assert any(line.endswith(b" Trash") for line in imap.list()[1])
    assert subjects(imap, "Trash") == ["one"]
    assert subjects(imap, "INBOX") == ["two", "three"]
    good(imap.select("Trash"))
    good(imap._simple_command("MOVE", "1", "INBOX"))
    assert sorted(both.ids()[1::2]) == ["one", "three", "two"]
    assert set(both.ids()[::2]) >= {before[2], before[4]}


def test_what_it_expunges_within_a_session_is_gone_and_numbers_stay(both: Both, imap: imaplib.IMAP4) -> None:
    client = both.login()
    good(imap.select("INBOX"))
    good(imap.store("1", "+FLAGS", r"(\Deleted)"))
    good(imap.expunge())
    with pytest.raises(poplib.error_proto, match="gone, removed by another program"):
        client.retr(1)
    assert b"Subject: two" in client.retr(2)[1]
    assert client.stat()[0] == 3
    client.dele(1)
    assert client.quit().startswith(b"+OK")


def test_mail_of_both_ways_in(both: Both, imap: imaplib.IMAP4) -> None:
    """A program that appends by IMAP, and ours that delivers, fill one mailbox."""
    good(imap.append("INBOX", "", "", b"Subject: draft\r\n\r\nby IMAP\r\n"))
    both.send("four")
    assert both.ids()[1::2] == ["one", "two", "three", "draft", "four"]
    assert subjects(imap, "INBOX") == ["one", "two", "three", "draft", "four"]


def test_trash_by_the_command_line(both: Both, imap: imaplib.IMAP4) -> None:
    client = both.login()
    client.dele(2)
    client.quit()
    done = both.site.run("trash", "restore", "ann@example.test", "--all")
    assert "1 message restored" in done.stdout, done.stderr
    assert sorted(subjects(imap, "INBOX")) == ["one", "three", "two"]

"""Operations on domains, users and aliases, their mail, and what they refuse."""

import errno
import os
import threading

import pytest

from mailserver.admin import mailboxes
from mailserver.admin.accounts import Accounts
from mailserver.admin.refused import Refused
from mailserver.directory import Exists, Malformed, Missing, Unavailable, passwords
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mailbox.maildir import Maildir
from mailserver.mailbox.trash import Trash

ANN = Address("ann", "example.org")


@pytest.fixture
def accounts(tmp_path):
    made = Accounts(str(tmp_path / "config" / "domains"), str(tmp_path / "maildirs"))
    made.add_domain("example.org")
    return made


def deliver(maildir: Maildir, name: str, text: bytes = b"From: a@b\nSubject: hi\n\nbody\n") -> None:
    with open(f"{maildir.path}/new/{name}", "wb") as file:
        file.write(text)


def files_below(path):
    return sorted(name for _, _, names in os.walk(path) for name in names)


def test_a_user_comes_with_a_mailbox_and_a_hash(accounts):
    added = accounts.add_user(Address("Ann", "example.org"), "secret", {"quota": "1M"})
    user, maildir = accounts.user(ANN)
    assert (added.address, added.messages, added.set_aside) == ("ann@example.org", 0, ())
    assert passwords.verify("secret", user.password).ok
    assert maildir.exists()
    assert os.stat(maildir.path).st_mode & 0o077 == 0
    assert accounts.show_user(ANN).quota == 1 << 20


def test_a_name_is_a_user_or_an_alias_once(accounts):
    accounts.add_user(ANN, "secret")
    accounts.add_alias(Address("info", "example.org"), [ANN])
    for name in ("ANN", "Info"):
        with pytest.raises(Exists):
            accounts.add_user(Address(name, "example.org"), "other")
        with pytest.raises(Exists):
            accounts.add_alias(Address(name, "example.org"), [Address("x", "example.org")])


@pytest.mark.parametrize("password", ["", "x" * 1025, "é" * 513, "a\nb", "a\0b", "a\x7fb", "\udc80"])
def test_passwords_that_nobody_could_use(accounts, password):
    with pytest.raises(Refused, match="expected a password"):
        accounts.add_user(ANN, password)
    assert accounts.list_users() == []
    assert not os.path.exists(accounts.mailboxes.root)


def test_one_of_many_wins_the_same_name(accounts):
    outcomes = []

    def add(password):
        try:
            accounts.add_user(ANN, password)
            outcomes.append(password)
        except Exists:
            outcomes.append(None)

    threads = [threading.Thread(target=add, args=(f"secret{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [password for password in outcomes if password]
    user, _ = accounts.user(ANN)
    assert passwords.verify(winner, user.password).ok


@pytest.mark.parametrize("local", ["../x", "/etc/passwd", "a/b", ".hidden", "a\\b", "%2e%2e"])
def test_no_name_leads_out_of_its_place(accounts, tmp_path, local):
    address = Address(local, "example.org")
    added = accounts.add_user(address, "secret")
    assert os.path.dirname(added.mailbox) == str(tmp_path / "maildirs" / "example.org")
    assert os.path.basename(added.mailbox)[0] != "."
    assert [user.address for user in accounts.list_users()] == [str(address)]
    assert accounts.remove_user(address).mail == "kept"


def test_a_name_too_long_for_a_file_is_refused(accounts):
    with pytest.raises(Refused, match="255 octets"):
        accounts.add_user(Address("/" * 64 + "é" * 100, "example.org"), "secret")


def test_removed_mail_is_kept_aside_and_never_inherited(accounts):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    deliver(maildir, "1.a")
    removed = accounts.remove_user(ANN)
    assert removed.mail == "kept"
    assert os.path.exists(f"{removed.kept_at}/new/1.a")
    assert not os.path.exists(maildir.path)
    again = accounts.add_user(ANN, "other")
    assert (again.messages, again.set_aside) == (0, (removed.kept_at,))
    second = accounts.remove_user(ANN)
    assert second.kept_at not in (None, removed.kept_at)


def test_who_still_leads_to_a_removed_user(accounts):
    accounts.add_user(ANN, "secret")
    bob = Address("bob", "example.org")
    accounts.add_user(bob, "secret")
    accounts.add_alias(Address("info", "example.org"), [bob, Address("Ann", "example.org")])
    accounts.add_alias(Address("other", "example.org"), [bob])
    accounts.set_domain("example.org", {"catch_all": "ann@example.org"})
    assert accounts.remove_user(ANN).still_led_to == ("info@example.org", "*@example.org")
    assert accounts.remove_user(bob).still_led_to == ("info@example.org", "other@example.org")


def test_what_lies_aside_of_a_longer_name_is_not_ours(accounts):
    longer = Address("ann.b", "example.org")
    accounts.add_user(longer, "secret")
    accounts.remove_user(longer)
    assert accounts.add_user(ANN, "secret").set_aside == ()


def test_deleting_mail_follows_no_link(accounts, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    deliver(maildir, "1.a")
    os.symlink(outside, f"{maildir.path}/.Folder")
    os.symlink(outside / "precious", f"{maildir.path}/cur/link")
    assert accounts.remove_user(ANN, delete_mail=True).mail == "deleted"
    assert (outside / "precious").read_text() == "x"
    assert files_below(accounts.mailboxes.root) == []


def test_a_mailbox_that_lives_elsewhere_is_left_there(accounts, tmp_path):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    os.rename(maildir.path, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", maildir.path)
    removed = accounts.remove_user(ANN, delete_mail=True)
    assert (removed.mail, removed.kept_at) == ("kept", str(tmp_path / "elsewhere"))
    assert (tmp_path / "elsewhere" / "new").is_dir()


def test_a_mailbox_that_was_there_is_reported(accounts):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    deliver(maildir, "1.a")
    accounts.directory.remove_user(ANN)
    assert accounts.add_user(ANN, "secret").messages == 1


def test_a_broken_user_can_be_removed_and_mended(accounts):
    accounts.add_user(ANN, "secret")
    path = f"{accounts.domain('example.org').directory}/users/ann"
    with open(path, "w"):
        pass
    accounts.set_password(ANN, "new")
    assert accounts.show_user(ANN).enabled
    with open(path, "w"):
        pass
    assert accounts.remove_user(ANN).mail == "kept"


def test_a_domain_with_users_goes_only_with_them(accounts):
    accounts.add_user(ANN, "secret")
    accounts.add_user(Address("bob", "example.org"), "secret")
    with pytest.raises(Refused, match="2 users"):
        accounts.remove_domain("example.org")
    removed = accounts.remove_domain("EXAMPLE.org", with_users=True)
    assert [user.address for user in removed.users] == ["ann@example.org", "bob@example.org"]
    assert all(os.path.isdir(user.kept_at) for user in removed.users)
    assert accounts.list_domains() == []


def test_u_labels_and_a_labels_are_one_domain(accounts):
    shown = accounts.add_domain("Bücher.example", {"catch_all": "info"})
    assert (shown.domain, shown.display) == ("xn--bcher-kva.example", "bücher.example")
    with pytest.raises(Exists):
        accounts.add_domain("xn--bcher-kva.example")
    accounts.add_user(parse_mailbox("ann@bücher.example"), "secret")
    assert [user.address for user in accounts.list_users("BÜCHER.example")] == ["ann@xn--bcher-kva.example"]


def test_missing_things(accounts):
    nobody = Address("nobody", "example.org")
    elsewhere = Address("ann", "elsewhere.org")
    for call in (
        lambda: accounts.show_user(nobody),
        lambda: accounts.remove_user(nobody),
        lambda: accounts.set_password(nobody, "x"),
        lambda: accounts.show_alias(nobody),
        lambda: accounts.remove_alias(nobody),
        lambda: accounts.add_user(elsewhere, "x"),
        lambda: accounts.add_alias(elsewhere, [ANN]),
        lambda: accounts.show_domain("elsewhere.org"),
        lambda: accounts.remove_domain("elsewhere.org"),
        lambda: accounts.list_users("elsewhere.org"),
    ):
        with pytest.raises(Missing):
            call()


def test_an_alias_cannot_be_itself(accounts):
    with pytest.raises(Refused, match="itself"):
        accounts.add_alias(ANN, [Address("ANN", "example.org")])


def test_settling_changes_only_what_differs(accounts, tmp_path):
    root = str(tmp_path / "own")
    for _ in range(2):
        accounts.settle_domain("own.example", root, False)
    user = Address("joe", "own.example")
    accounts.settle_user(user, "secret")
    before = accounts.user(user)[0].password
    accounts.settle_user(user, "secret")
    assert accounts.user(user)[0].password == before
    accounts.settle_user(user, "other")
    assert passwords.verify("other", accounts.user(user)[0].password).ok
    assert accounts.user(user)[1].path == f"{root}/joe"
    with pytest.raises(Refused, match="has its mail in"):
        accounts.settle_domain("own.example", str(tmp_path / "else"), False)


def test_settling_keeps_what_a_person_wrote(accounts, tmp_path):
    root = str(tmp_path / "own")
    accounts.settle_domain("own.example", root, False)
    path = f"{accounts.domain('own.example').directory}/domain.toml"
    with open(path, "a") as file:
        file.write('# why\nquota = "1G" # much\n')
    accounts.settle_domain("own.example", root, True)
    with open(path) as file:
        text = file.read()
    assert '# why\nquota = "1G" # much\n' in text
    usual = str(tmp_path / "maildirs" / "example.org")
    assert accounts.settle_domain("example.org", usual, True).undeliverable_to_postmaster
    shown = accounts.show_domain("own.example")
    assert (shown.undeliverable_to_postmaster, shown.quota) == (True, 1 << 30)


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("Jörg 你好".encode(), "Jörg 你好"),
        ("Jörg 你好 =?utf-8?q?gr=C3=BC=C3=9Ft?=".encode(), "Jörg 你好 grüßt"),
        ("=?iso-8859-1?q?gr=FC=DFt?= 你".encode(), "grüßt 你"),
        (b"=?utf-8?q?two?=\n =?utf-8?q?_words?=", "two words"),
        ("Jörg".encode("latin-1"), "J\ufffdrg"),
        (b"=?no-such-charset?q?a?=", "=?no-such-charset?q?a?="),
        (b"=?utf-8?q?=FF?= end", "\ufffd end"),
    ],
)
def test_a_subject_in_trash_is_shown_as_it_was_written(accounts, field, shown):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    deliver(maildir, "1.a", b"Subject: " + field + b"\n\nbody\n")
    trash = Trash(maildir)
    trash.discard(*maildir.scan())
    trash.sync()
    assert [entry.subject for entry in mailboxes.list_trash(accounts, ANN)] == [shown]


def test_mail_in_trash_whose_names_are_no_text_is_shown_and_restored(accounts):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    for name in ("1.\udcff", "2.\n\x1b"):
        deliver(maildir, name, b"body\n")
    Trash(maildir).discard(*maildir.scan())
    ids = {entry.id for entry in mailboxes.list_trash(accounts, ANN)}
    assert ids == {r"1.\udcff", r"2.\u000a\u001b"}
    assert mailboxes.restore(accounts, ANN, [r"1.\udcff"]).restored == 1
    assert mailboxes.purge(accounts, ANN, [r"2.\u000a\u001b"], None).purged == 1
    assert [message.unique for message in maildir.scan()] == ["1.\udcff"]


def test_what_cannot_be_restored_keeps_no_other_mail_in_trash(accounts):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    for name in ("1.a", "2.b", "3.c"):
        deliver(maildir, name, b"body\n")
    Trash(maildir).discard(*maildir.scan())
    deliver(maildir, "2.b", b"brought back from a backup\n")
    with pytest.raises(Refused, match=r"2\.b is in the mailbox already; 1 not restored, 2 restored"):
        mailboxes.restore(accounts, ANN, None)
    assert [entry.id for entry in mailboxes.list_trash(accounts, ANN)] == ["2.b"]


def test_what_cannot_be_purged_keeps_no_other_mail_in_trash(accounts, monkeypatch):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    for name in ("1.a", "2.b", "3.c"):
        deliver(maildir, name, b"body\n")
    Trash(maildir).discard(*maildir.scan())
    unlink = os.unlink

    def refusing(path, **place):
        if str(path).startswith("2.b"):
            raise OSError(errno.EPERM, "Operation not permitted")
        unlink(path, **place)

    monkeypatch.setattr(os, "unlink", refusing)
    with pytest.raises(Refused, match=r"2\.b cannot be removed: .*; 1 not removed, 2 removed"):
        mailboxes.purge(accounts, ANN, None, None)
    assert [entry.id for entry in mailboxes.list_trash(accounts, ANN)] == ["2.b"]


def test_trash_is_listed_restored_and_purged(accounts):
    accounts.add_user(ANN, "secret")
    _, maildir = accounts.user(ANN)
    hostile = b"From: =?utf-8?q?J=C3=B6rg?= <j@x>\nSubject: =?utf-8?b?!!!?= \x1b[31m\xff\n\nbody\n"
    for name, text in (("1.a", hostile), ("2.b", b"no header at all"), ("3.c", b"")):
        deliver(maildir, name, text)
    trash = Trash(maildir)
    for message in maildir.scan():
        trash.discard(message)
    trash.sync()
    listed = {entry.id: entry for entry in mailboxes.list_trash(accounts, ANN)}
    assert set(listed) == {"1.a", "2.b", "3.c"}
    assert listed["1.a"].sender == "Jörg <j@x>"
    assert listed["1.a"].subject.isprintable()
    assert listed["1.a"].deleted_at.endswith("+00:00")
    with pytest.raises(Refused, match="no message 9"):
        mailboxes.restore(accounts, ANN, ["1.a", "9"])
    assert mailboxes.restore(accounts, ANN, ["1.a", "1.a"]).restored == 1
    assert [message.unique for message in maildir.scan()] == ["1.a"]
    assert mailboxes.purge(accounts, ANN, None, 3600.0).purged == 0
    assert mailboxes.purge(accounts, ANN, ["2.b"], None).purged == 1
    assert mailboxes.purge(accounts, ANN, None, None).purged == 1
    summary = mailboxes.summary(accounts, ANN)
    assert (summary.messages, summary.unread, summary.trash_messages) == (1, 1, 0)
    assert summary.storage == len(hostile)


@pytest.mark.parametrize(
    "place",
    [
        "",
        "config",
        "config/domains",
        "config/domains/example.org",
        "config/operators",
        "config/tls/x",
        "config/.history",
        "config/mail",
        "maildirs",
        "maildirs/.queue",
        "maildirs/.run/x",
        "maildirs/other.test",
        "link",
        "theirs",
        "theirs/ann",
        "over",
        "new\nline",
        "escape\x1b[2J",
    ],
)
def test_a_domain_has_no_mail_where_other_things_are(tmp_path, place):
    accounts = Accounts(str(tmp_path / "config" / "domains"), str(tmp_path / "maildirs"))
    accounts.add_domain("theirs.test", {"maildirs": str(tmp_path / "theirs")})
    accounts.add_domain("below.test", {"maildirs": str(tmp_path / "over" / "below")})
    accounts.add_domain("new.test")
    (tmp_path / "link").symlink_to("config/operators")
    path = str(tmp_path / place)
    with pytest.raises((Refused, Malformed), match="maildirs: expected"):
        accounts.add_domain("x.test", {"maildirs": path})
    with pytest.raises((Refused, Malformed), match="maildirs: expected"):
        accounts.set_domain("new.test", {"maildirs": path})
    with pytest.raises(Missing):
        accounts.show_domain("x.test")


def test_a_domain_may_hold_a_hidden_configuration_and_have_its_usual_place(tmp_path):
    accounts = Accounts(str(tmp_path / ".config" / "domains"), str(tmp_path / ".config" / "maildirs"))
    accounts.settle_domain("x.test", str(tmp_path), False)
    usual = str(tmp_path / ".config" / "maildirs" / "y.test")
    assert accounts.add_domain("y.test", {"maildirs": usual}).mailboxes == usual


def test_what_a_person_wrote_about_the_configuration_is_malformed(accounts, tmp_path):
    config = tmp_path / "config"
    file = config / "domains" / "example.org" / "domain.toml"
    for path in (config / "operators", config):
        file.write_text(f'maildirs = "{path}"\n')
        with pytest.raises(Unavailable, match="not of the configuration"):
            accounts.domain("example.org")


@pytest.mark.parametrize("name", ["operators.invalid", "invalid", "a.b.INVALID"])
def test_nobody_s_domain_is_not_ours(accounts, name):
    with pytest.raises(Refused, match="nobody's domain"):
        accounts.add_domain(name)
    with pytest.raises(Refused, match="nobody's domain"):
        accounts.settle_domain(name, "/srv/x", False)

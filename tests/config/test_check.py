"""`check` over whole configuration directories, and what the first start makes."""

import os

import pytest

from mailserver.admin.first_start import first_start
from mailserver.config.check import check
from mailserver.config.load import ConfigError, load
from mailserver.config.template import render
from mailserver.directory import Directory, passwords
from mailserver.mail.address import Address


@pytest.fixture
def started(tmp_path):
    """The directory of a server after its first start."""
    directory = tmp_path / "config"
    assert first_start(str(directory)) is not None
    return directory


def told(directory):
    return [str(problem) for problem in check(str(directory))]


def test_the_first_start_makes_all_that_is_missing_and_nothing_twice(tmp_path):
    directory = str(tmp_path / "config")
    made = first_start(directory)
    assert made.address == "postmaster@example.test"
    user = Directory(f"{directory}/domains").user("example.test", "postmaster")
    assert passwords.verify(made.password, user.password).ok
    assert told(directory) == []
    assert first_start(directory) is None
    assert Directory(f"{directory}/domains").user("example.test", "postmaster") == user


def test_the_first_start_keeps_settings_that_are_there(tmp_path):
    text = render().replace("2525", "3525")
    (tmp_path / "mailserver.toml").write_text(text)
    first_start(str(tmp_path))
    assert (tmp_path / "mailserver.toml").read_text() == text


def test_a_server_that_lost_its_domains_is_no_first_start(tmp_path):
    (tmp_path / "mailserver.toml").write_text(render("example.org"))
    with pytest.raises(ConfigError, match="domains: no such directory"):
        first_start(str(tmp_path))
    assert os.listdir(tmp_path) == ["mailserver.toml"]


def test_secrets_are_closed_to_others(started):
    for path in ("domains", "domains/example.test/users/postmaster", "tls/mail.example.test/privkey.pem"):
        assert os.stat(started / path).st_mode & 0o077 == 0


def test_every_kind_of_problem_is_found(started):
    domain = started / "domains" / "example.test"
    settings = (started / "mailserver.toml").read_text()
    (started / "mailserver.toml").write_text(settings.replace('#message_size = "50M"', 'message_size = "5"'))
    (started / "notes.txt").write_text("stray")
    (domain / "domain.toml").write_text("cach_all = 1")
    (domain / "users" / "ann").write_text("")
    (domain / "users" / "BOB").write_text("x")
    (started / "domains" / "b\u00fccher.test").mkdir()
    (started / "domains" / "xn--bcher-kva.test").mkdir()
    found = told(started)
    for expected in (
        "mailserver.toml: limits.message_size: expected a size such as 50M, at least 64K",
        "notes.txt: not part of a configuration",
        "domain.toml: ",
        "xn--bcher-kva.test is the same domain",
    ):
        assert any(expected in line for line in found), (expected, found)
    (domain / "domain.toml").unlink()
    found = told(started)
    assert any("users/ann: line 1: expected a password hash" in line for line in found)
    assert any("users/BOB: " in line for line in found)


def test_aliases_that_lead_nowhere(started):
    aliases = started / "domains" / "example.test" / "aliases"
    for name, targets in {
        "nobody": "no-such-user",
        "one": "two",
        "two": "three",
        "three": "one",
        "half": "half2\npostmaster",
        "half2": "half",
        "away": "ann@example.org",
        "tagged": "postmaster+tag",
        "postmaster": "away",
    }.items():
        (aliases / name).write_text(targets + "\n")
    found = sorted(line.partition("/aliases/")[2] for line in told(started))
    assert found == [
        "nobody: no-such-user@example.test: no such user or alias",
        "one: leads back to itself and to nobody",
        "postmaster: not used: a user has this name",
        "three: leads back to itself and to nobody",
        "two: leads back to itself and to nobody",
    ]


@pytest.mark.parametrize("rest", ["", "undeliverable_to_postmaster = true\n"])
def test_a_catch_all_that_leads_nowhere(started, rest):
    domain = started / "domains" / "example.test"
    (domain / "domain.toml").write_text(f'catch_all = "nobody"\n{rest}')
    assert [line.partition("/domains/")[2] for line in told(started)] == [
        "example.test/domain.toml: catch_all: no user or alias nobody@example.test"
    ]


def test_a_catch_all_takes_every_target(started):
    domain = started / "domains" / "example.test"
    (domain / "domain.toml").write_text('catch_all = "postmaster"\n')
    (domain / "aliases" / "x").write_text("nobody\n")
    assert told(started) == []


def test_hashes_that_everybody_can_read(started):
    for path in ("domains", "domains/example.test", "domains/example.test/users"):
        os.chmod(started / path, 0o755)
    assert told(started) == []  # the file itself is closed
    os.chmod(started / "domains/example.test/users/postmaster", 0o644)
    [line] = told(started)
    assert line.endswith("users: password hashes readable by every user of this machine; expected mode 700")


def test_certificates(started):
    tls = started / "tls" / "mail.example.test"
    os.chmod(tls / "privkey.pem", 0o644)
    assert any("privkey.pem: readable by every user" in line for line in told(started))
    (tls / "fullchain.pem").write_text("no certificate")
    assert any("fullchain.pem: expected certificates in PEM form" in line for line in told(started))


def relaying(started, text):
    """Give the started server a relay."""
    settings = (started / "mailserver.toml").read_text()
    (started / "mailserver.toml").write_text(settings.replace("[limits]", f"[[relay]]\n{text}\n[limits]"))


RELAY = 'name = "out"\nhosts = ["smtp.example.net:587"]\n'


def test_secrets_of_relays(started):
    relaying(started, RELAY + 'user = "ann"\nsecret_file = "out.secret"\n')
    secret = started / "out.secret"
    assert [line.partition("out.secret: ")[2] for line in told(started)] == [
        "the secret file cannot be read: No such file or directory"
    ]
    secret.write_text("tulip\n")
    secret.chmod(0o640)
    assert any("out.secret: the secret file may be read by others" in line for line in told(started))
    secret.chmod(0o600)
    assert told(started) == []
    secret.write_text("\n")
    assert any("first line is empty" in line for line in told(started))
    file = started / "mailserver.toml"
    file.write_text(file.read_text().replace('user = "ann"\n', ""))
    assert any(
        "relay[out].user: missing: whose password is in secret_file?" in line for line in told(started)
    )
    (started / "other.secret").write_text("x")
    assert any("other.secret: not part of a configuration" in line for line in told(started))


def test_authorities_of_relays(started):
    relaying(started, RELAY + 'authorities = "ca.pem"\n')
    (started / "ca.pem").write_text("no certificate")
    [line] = told(started)
    assert line.endswith("ca.pem: expected certificates of authorities in PEM form")
    (started / "ca.pem").write_bytes((started / "tls/mail.example.test/fullchain.pem").read_bytes())
    assert told(started) == []


def test_accounts_that_vouch(started):
    settings = (started / "mailserver.toml").read_text()
    fresh = settings.replace("[submission]", '[submission]\naccounts = { no-such-account = "*" }')
    (started / "mailserver.toml").write_text(fresh)
    [line] = told(started)
    assert line.endswith("submission.accounts: no account no-such-account on this machine")


def test_an_unknown_account_and_an_unknown_default_domain(started):
    text = render("other.test", user="no-such-account-here")
    (started / "mailserver.toml").write_text(text)
    found = told(started)
    assert any("default_domain: no domain other.test below domains/" in line for line in found)
    if os.geteuid() == 0:
        assert any("user: no account no-such-account-here on this machine" in line for line in found)


def test_a_flood_of_problems_ends(started, monkeypatch):
    monkeypatch.setattr("mailserver.config.check._MAX_PROBLEMS", 20)
    users = started / "domains" / "example.test" / "users"
    for number in range(40):
        (users / f"u{number}").write_text("")
    found = told(started)
    assert len(found) == 21
    assert found[-1].endswith("more problems than are listed here")


def test_an_empty_directory_and_none(tmp_path):
    assert any("no such file" in line for line in told(tmp_path))
    assert any("no such file" in line.lower() for line in told(tmp_path / "missing"))


def test_progress_is_told(started):
    directory = Directory(load(str(started)).domains)
    for number in range(3):
        directory.add_alias(Address(f"a{number}", "example.test"), [Address("postmaster", "example.test")])
    steps = []
    check(str(started), lambda done, total: steps.append((done, total)))
    assert steps == [(0, 3), (1, 3), (2, 3)]


def test_a_domain_s_mail_in_the_configuration_is_named_before_it_is_there(started):
    settings = started / "domains" / "example.test" / "domain.toml"
    settings.write_text(f'maildirs = "{started}/mail"\n')
    assert told(started) == [
        f"{settings}: maildirs: expected a directory that is not of the configuration",
    ]

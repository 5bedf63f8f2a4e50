"""Commands as people and scripts run them: output, exit codes, one line for every trouble."""

import json
import os
import pwd
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mailserver.cli.program import program
from mailserver.config.load import load
from mailserver.directory import Directory, passwords
from mailserver.mailbox.maildir import Maildir
from mailserver.mailbox.trash import Trash

COMMAND = [sys.executable, "-m", "mailserver"]


class Shell:
    """Runs commands on one configuration directory."""

    def __init__(self, directory):
        self.directory = str(directory)

    def run(self, *arguments, stdin=""):
        return CliRunner().invoke(program, ["--config", self.directory, *arguments], input=stdin)

    def done(self, *arguments, stdin=""):
        """The output of a command that must succeed and say nothing else."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    def json(self, *arguments, stdin=""):
        return json.loads(self.done(*arguments, "--json", stdin=stdin))

    def refused(self, *arguments, stdin="", code=1):
        """The one line of a command that must fail."""
        result = self.run(*arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith("mailserver: ")
        assert result.stderr.count("\n") == 1
        return result.stderr[len("mailserver: ") : -1]

    @property
    def users(self):
        return Directory(f"{self.directory}/domains")


@pytest.fixture
def shell(tmp_path):
    made = Shell(tmp_path / "config")
    made.done("init", "example.org", "--password-stdin", stdin="pm\n")
    return made


def test_init_makes_a_configuration_that_check_likes(shell):
    assert shell.done("check").endswith(": no problems\n")
    assert passwords.verify("pm", shell.users.user("example.org", "postmaster").password).ok
    assert load(shell.directory).hostname == "mail.example.org"


def test_init_says_what_to_do_next(tmp_path):
    text = Shell(tmp_path / "c").done("init", "example.org", "--hostname", "mx.example.org")
    for word in ("MX 10 mx.example.org", "user add", "serve", "check", "fullchain.pem"):
        assert word in text
    password = text.partition("password ")[2].split()[0]
    user = Directory(f"{tmp_path}/c/domains").user("example.org", "postmaster")
    assert passwords.verify(password, user.password).ok


def test_init_overwrites_nothing(shell, tmp_path):
    before = (tmp_path / "config" / "mailserver.toml").read_bytes()
    assert shell.refused("init", "other.org").endswith("mailserver.toml exists already")
    assert (tmp_path / "config" / "mailserver.toml").read_bytes() == before


def test_init_with_a_bad_password_leaves_nothing(tmp_path):
    line = Shell(tmp_path / "c").refused("init", "example.org", "--password-stdin", stdin="\n")
    assert line == "expected a password of 1 to 1024 octets"
    assert os.listdir(tmp_path) == []


def test_users(shell):
    assert shell.json("user", "add", "Ann@Example.org", "--password-stdin", stdin="secret word \r\n") == {
        "address": "ann@example.org",
        "mailbox": f"{os.path.dirname(shell.directory)}/maildirs/example.org/ann",
        "messages": 0,
        "set_aside": [],
    }
    assert passwords.verify("secret word ", shell.users.user("example.org", "ann").password).ok
    assert shell.done("user", "list") == "ann@example.org\npostmaster@example.org\n"
    assert shell.json("user", "list", "example.org")[0] == {"address": "ann@example.org"}
    assert shell.json("user", "show", "ann@example.org") == {
        "address": "ann@example.org",
        "enabled": True,
        "quota": 0,
        "quota_messages": 0,
        "mailbox": f"{os.path.dirname(shell.directory)}/maildirs/example.org/ann",
    }
    assert shell.done("user", "passwd", "ann@example.org", "--password-stdin", stdin="new").endswith(" set\n")
    assert passwords.verify("new", shell.users.user("example.org", "ann").password).ok
    removed = shell.json("user", "remove", "ann@example.org", "--yes")
    assert (removed["address"], removed["mail"]) == ("ann@example.org", "kept")
    assert os.path.isdir(removed["kept_at"])
    note = shell.done("user", "add", "ann@example.org", "--password-stdin", stdin="x")
    assert f"lies aside in {removed['kept_at']}" in note
    gone = shell.json("user", "remove", "ann@example.org", "--yes", "--mail", "delete")
    assert gone == {"address": "ann@example.org", "mail": "deleted", "kept_at": None, "still_led_to": []}


def test_domains_and_aliases(shell):
    added = shell.json("domain", "add", "Bücher.example", "--quota", "1G", "--undeliverable-to-postmaster")
    assert added == {
        "domain": "xn--bcher-kva.example",
        "display": "bücher.example",
        "users": 0,
        "aliases": 0,
        "catch_all": None,
        "undeliverable_to_postmaster": True,
        "quota": 1 << 30,
        "quota_messages": 0,
        "mailboxes": f"{os.path.dirname(shell.directory)}/maildirs/xn--bcher-kva.example",
        "unknown": [],
    }
    told = shell.done("domain", "set", "bücher.example", "--catch-all", "nobody@example.org")
    assert told.splitlines()[1:] == ["nobody@example.org is neither a user nor an alias yet"]
    told = shell.done("domain", "set", "bücher.example", "--no-catch-all")
    assert told == "xn--bcher-kva.example changed\n"
    alias = {
        "address": "info@xn--bcher-kva.example",
        "targets": ["postmaster@example.org", "joe@elsewhere.org"],
    }
    added = shell.json("alias", "add", "info@bücher.example", *alias["targets"])
    assert added == {**alias, "unknown": []}
    told = shell.done("alias", "add", "x@bücher.example", "nobody@bücher.example", "info@bücher.example")
    assert told.splitlines()[1:] == ["nobody@xn--bcher-kva.example is neither a user nor an alias yet"]
    shell.done("alias", "remove", "x@bücher.example")
    assert shell.json("alias", "show", "INFO@bücher.example") == alias
    assert shell.json("alias", "list") == [{**alias, "unreadable": ""}]
    assert shell.json("domain", "list") == [
        {"domain": "example.org", "users": 1, "aliases": 0},
        {"domain": "xn--bcher-kva.example", "users": 0, "aliases": 1},
    ]
    assert shell.json("alias", "remove", "info@bücher.example") == alias
    assert shell.json("domain", "remove", "bücher.example", "--yes") == {
        "domain": "xn--bcher-kva.example",
        "users": [],
    }
    assert "has 1 user:" in shell.refused("domain", "remove", "example.org", "--yes")
    aside = f"{os.path.dirname(shell.directory)}/maildirs/example.org/.removed"
    told = shell.done("domain", "remove", "example.org", "--with-users", "--yes")
    assert told == f"example.org removed, and 1 user\nmail is kept in {aside}\n"
    [kept] = os.listdir(aside)
    assert kept.startswith("postmaster.")
    shell.done("domain", "add", "example.org")
    shell.done("user", "add", "ann@example.org", "--password-stdin", stdin="x")
    [user] = shell.json("domain", "remove", "example.org", "--with-users", "--yes")["users"]
    assert user["address"] == "ann@example.org"


def test_trash_and_mailbox(shell):
    address = "postmaster@example.org"
    maildir = Maildir(shell.json("user", "show", address)["mailbox"])
    for name in ("1.a", "2.b"):
        with open(f"{maildir.path}/new/{name}", "w") as file:
            file.write("From: joe@example.net\nSubject: [red]hi\n\nbody\n")
    trash = Trash(maildir)
    for message in maildir.scan():
        trash.discard(message)
    trash.sync()
    assert {entry["id"] for entry in shell.json("trash", "list", address)} == {"1.a", "2.b"}
    assert "[red]hi" in shell.done("trash", "list", address)
    assert shell.json("trash", "restore", address, "1.a") == {"address": address, "restored": 1, "purged": 0}
    assert shell.refused("trash", "restore", address).startswith("name the messages, or say --all")
    assert shell.refused("trash", "restore", address, "7") == "no message 7 in the Trash"
    assert shell.json("trash", "purge", address, "--older-than", "1d", "--yes")["purged"] == 0
    assert shell.refused("trash", "purge", address) == "no terminal to ask on; say --yes"
    assert shell.json("mailbox", "show", address)["trash_messages"] == 1
    assert shell.json("trash", "purge", address, "--all", "--yes")["purged"] == 1
    shown = shell.json("mailbox", "show", address)
    assert (shown["messages"], shown["trash_messages"]) == (1, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["user", "add", "ann@example.org"], "no terminal to ask for a password"),
        (["user", "add", "ann@elsewhere.org", "--password-stdin"], "no domain elsewhere.org"),
        (["user", "add", "postmaster@example.org", "--password-stdin"], "exists already"),
        (["user", "remove", "postmaster@example.org"], "no terminal to ask on; say --yes"),
        (["user", "remove", "nobody@example.org", "--yes"], "no user nobody@example.org"),
        (["user", "passwd", "nobody@example.org", "--password-stdin"], "no user nobody@example.org"),
        (["domain", "add", "example.org"], "exists already"),
        (["alias", "add", "a@example.org", "a@example.org"], "cannot lead to itself"),
        (["alias", "remove", "a@example.org"], "no alias a@example.org"),
    ],
)
def test_what_cannot_be_done_is_exit_code_1(shell, arguments, words):
    assert words in shell.refused(*arguments, stdin="pw\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["user", "add"],
        ["user", "add", "ann"],
        ["user", "add", "../x@example.org", "--password-stdin"],
        ["user", "add", "ann@../x", "--password-stdin"],
        ["user", "add", "ann@[127.0.0.1]", "--password-stdin"],
        ["user", "add", "a\nb@example.org", "--password-stdin"],
        ["user", "add", "ann@example.org", "--quota", "lots", "--password-stdin"],
        ["domain", "add", "no domain"],
        ["domain", "remove", "../tls", "--yes"],
        ["trash", "purge", "ann@example.org", "--older-than", "soon"],
        ["serve", "-s", "nonsense"],
        ["serve", "-d", "example.org"],
        ["serve", "-u", "ann=secret"],
        ["fly"],
        ["--fly"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(shell, arguments):
    line = shell.refused(*arguments, stdin="pw\n", code=2)
    assert "secret" not in line


@pytest.mark.parametrize("password", ["", "\n", "x" * 1025 + "\n", "a\x07b\n", b"\xff\n"])
def test_passwords_that_are_refused(shell, password):
    assert "password" in shell.refused("user", "add", "ann@example.org", "--password-stdin", stdin=password)
    assert shell.json("user", "list") == [{"address": "postmaster@example.org"}]


def test_a_local_part_that_looks_like_a_path_is_one_file(shell):
    added = shell.json("user", "add", "a/b@example.org", "--password-stdin", stdin="x")
    assert added["mailbox"].endswith("/maildirs/example.org/a%2Fb")
    assert sorted(os.listdir(f"{shell.directory}/domains/example.org/users")) == ["a%2Fb", "postmaster"]


def test_faults_of_the_file_stop_every_command(shell):
    with open(f"{shell.directory}/mailserver.toml", "a") as file:
        file.write("\n[limits2]\n")
    for arguments in (["user", "list"], ["domain", "add", "x.org"], ["mailbox", "show", "a@example.org"]):
        assert 'limits2: unknown setting; did you mean "limits"?' in shell.refused(*arguments)
    result = shell.run("check")
    assert (result.exit_code, result.stdout) == (1, "")
    [problem] = json.loads(shell.run("check", "--json").stdout)
    assert (problem["key"], problem["file"]) == ("limits2", f"{shell.directory}/mailserver.toml")


def test_a_malformed_user_is_told_by_file_and_line(shell):
    path = f"{shell.directory}/domains/example.org/users/postmaster"
    with open(path, "w") as file:
        file.write("")
    assert (
        shell.refused("user", "show", "postmaster@example.org") == f"{path}: line 1: expected a password hash"
    )


def test_storage_trouble_names_the_file(shell):
    users = f"{shell.directory}/domains/example.org/aliases"
    os.rmdir(users)
    with open(users, "w"):
        pass
    assert "aliases" in shell.refused("alias", "add", "x@example.org", "postmaster@example.org")


def test_a_fault_of_the_program_is_one_line_too(shell, monkeypatch):
    monkeypatch.setattr(Directory, "users", lambda *_: {}["secret"])
    line = shell.refused("user", "list")
    assert line.startswith("internal error: KeyError at ")
    assert "secret" not in line


def test_help_for_everybody():
    for arguments in (["--help"], ["user", "--help"], ["serve", "-h"], ["--version"]):
        assert CliRunner().invoke(program, arguments).exit_code == 0
    bare = CliRunner().invoke(program, [])
    assert (bare.exit_code, bare.stdout) == (2, "")
    assert "Commands:" in bare.stderr


def test_where_the_configuration_is(shell, tmp_path, monkeypatch):
    def listed():
        return CliRunner().invoke(program, ["user", "list"]).stdout

    monkeypatch.chdir(tmp_path)
    assert listed() == "postmaster@example.org\n"  # ./config
    monkeypatch.chdir("/")
    monkeypatch.setenv("MAILSERVER_CONFIG", shell.directory)
    assert listed() == "postmaster@example.org\n"


def test_two_commands_at_once_add_one_user(shell):
    command = [*COMMAND, "--config", shell.directory, "user", "add", "ann@example.org", "--password-stdin"]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for number, process in enumerate(running):
        process.stdin.write(b"secret%d\n" % number)
        process.stdin.flush()
    outputs = [process.communicate() for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 1, 1]
    winner = codes.index(0)
    assert passwords.verify(f"secret{winner}", shell.users.user("example.org", "ann").password).ok
    for code, (_, error) in zip(codes, outputs, strict=True):
        assert code == 0 or b"exists already" in error
        assert b"Traceback" not in error


def test_nobody_reads_the_output(shell):
    for number in range(50):
        with open(f"{shell.directory}/domains/example.org/aliases/a{number}", "w") as file:
            file.write("postmaster\n" * 10 + f"x{'y' * 50}@elsewhere.org\n" * 20)
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [*COMMAND, "--config", shell.directory, "alias", "list"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (1, b"")


@pytest.mark.parametrize("broken", ["broken", None])
def test_a_broken_configuration_is_mended_where_it_says_its_mail_is(shell, tmp_path, broken):
    file = tmp_path / "config" / "mailserver.toml"
    shell.done("config", "set", "limits.recipients", "200")
    if broken is None:
        file.unlink()
    else:
        file.write_text(broken)
    assert "limits.recipients 200" in shell.done("config", "history")
    assert "--- version" in shell.done("config", "diff")
    assert "is written; no server is running" in shell.done("config", "rollback", "2")
    assert load(shell.directory).limits.recipients == 200
    assert shell.done("check").endswith(": no problems\n")


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("trash restore", "[OPTIONS] ADDRESS [ID]..."),
        ("relay add", "[OPTIONS] NAME HOST:PORT..."),
        ("domain list", "[OPTIONS]"),
        ("user list", "[OPTIONS] [DOMAIN]"),
    ],
)
def test_usage_says_what_may_be_left_out_and_what_repeated(shell, words, usage):
    first = shell.run(*words.split(), "--help").stdout.splitlines()[0]
    assert first.endswith(f" {words} {usage}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for another user")
def test_a_log_that_root_makes_is_the_server_s(shell, tmp_path):
    log, file = tmp_path / "mail.log", tmp_path / "config" / "mailserver.toml"
    file.write_text(f'user = "nobody"\nlog_file = "{log}"\n' + file.read_text())
    shell.done("user", "list")
    user = pwd.getpwnam("nobody")
    assert (log.stat().st_uid, log.stat().st_gid) == (user.pw_uid, user.pw_gid)
    assert "event=audit" in log.read_text()
    os.chown(log, 0, 0)
    log.chmod(0o600)
    assert f"{log}: the server, as user nobody, may not write this log" in shell.run("check").stderr


@pytest.mark.parametrize("words", ["stop", "drain"])
def test_nobody_is_asked_about_a_server_that_does_not_run(shell, words):
    assert shell.refused(words) == shell.refused(words, "--yes") == "no server is running"


def test_a_change_without_a_server_says_so(shell):
    assert shell.refused("reload") == "no server is running"
    assert shell.done("config", "set", "limits.recipients", "200", "--confirm", "2m").splitlines() == [
        "version 2 of the configuration is written; no server is running",
        "it goes back when the server starts unless you say: config confirm",
    ]
    shell.done("config", "confirm")
    assert json.loads(shell.done("config", "set", "limits.recipients", "300", "--json"))["live"] is False


def test_a_relative_directory_is_a_wrong_command_line(shell):
    result = shell.run("domain", "add", "two.test", "--maildirs", "two")
    assert result.exit_code == 2
    assert "'two': no absolute path" in result.stderr
    assert "two.test" not in list(shell.users.domains())


def test_a_malformed_file_keeps_nothing_else_out_of_a_list(shell):
    for name in ("a.test", "b.test", "c.test"):
        shell.done("domain", "add", name)
        shell.done("alias", "add", f"x@{name}", "y@elsewhere.test")
    with open(f"{shell.directory}/domains/a.test/aliases/x", "w") as file:
        file.write("no address\n")
    with open(f"{shell.directory}/domains/b.test/domain.toml", "w") as file:
        file.write("quota = ")
    result = shell.run("alias", "list", "--json")
    assert result.exit_code == 1
    good, *bad = json.loads(result.stdout)
    assert good == {"address": "x@c.test", "targets": ["y@elsewhere.test"], "unreadable": ""}
    assert [(one["address"], one["targets"]) for one in bad] == [("x@a.test", []), ("x@b.test", [])]
    assert "line 1" in bad[0]["unreadable"]
    assert bad[1]["unreadable"]
    assert [one["domain"] for one in shell.json("domain", "list")] == [
        "a.test",
        "b.test",
        "c.test",
        "example.org",
    ]
    assert shell.done("user", "list") == "postmaster@example.org\n"
    assert "b.test/domain.toml" in shell.refused("domain", "show", "b.test")

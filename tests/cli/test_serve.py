"""`serve`: letters become files, options become overrides, and a server that other commands work beside."""

import os
import pwd
import signal
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mailserver.cli.program import program
from mailserver.directory import Directory, passwords
from mailserver.server import appliance


@pytest.fixture
def served(monkeypatch):
    """What the engine was asked to serve, instead of serving."""
    calls = []
    monkeypatch.setattr(appliance, "serve", lambda directory, overrides: calls.append((directory, overrides)))
    return calls


def run(*arguments):
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


def test_letters_belong_to_the_domain_before_them(tmp_path, served):
    one, two = tmp_path / "one", tmp_path / "two"
    letters = ["-d", f"one.test={one}", "-u", "postmaster=se=cret", "-uann=x", "-b"]
    letters += [f"--domain=two.test={two}", "-u", "ann=y"]
    result = run("serve", *letters, "-p", "tcp:127.0.0.1:2110", "-s", "tcp:127.0.0.1:2525", "-s", "unix:/x")
    assert (result.exit_code, result.output) == (0, "")
    [(directory, overrides)] = served
    assert directory == str(one / ".config")
    assert [(one.protocol, one.endpoint) for one in overrides.listeners] == [
        ("smtp", "tcp:127.0.0.1:2525"),
        ("smtp", "unix:/x"),
        ("pop3", "tcp:127.0.0.1:2110"),
    ]
    database = Directory(f"{directory}/domains")
    assert database.domain("one.test").postmaster_gets_undeliverable
    assert not database.domain("two.test").postmaster_gets_undeliverable
    assert database.domain("two.test").maildirs == str(two)
    for domain, local, password in (
        ("one.test", "postmaster", "se=cret"),
        ("one.test", "ann", "x"),
        ("two.test", "ann", "y"),
    ):
        assert passwords.verify(password, database.user(domain, local).password).ok
    assert (one / "ann" / "new").is_dir()
    with open(f"{directory}/domains/one.test/users/ann") as file:
        assert file.read().startswith("$argon2id$")
    assert run("--config", directory, "check").exit_code == 0


def test_the_same_letters_again_change_nothing(tmp_path, served):
    letters = ["serve", "-d", f"one.test={tmp_path}/one", "-u", "ann=x", "-b"]
    assert run(*letters).exit_code == 0
    path = tmp_path / "one" / ".config" / "domains" / "one.test"
    before = ((path / "users" / "ann").read_bytes(), (path / "domain.toml").read_bytes())
    assert run(*letters).exit_code == 0
    assert ((path / "users" / "ann").read_bytes(), (path / "domain.toml").read_bytes()) == before
    assert run(*letters[:-3], "-u", "ann=changed").exit_code == 0
    user = Directory(str(path.parent)).user("one.test", "ann")
    assert passwords.verify("changed", user.password).ok


def test_letters_add_to_a_configuration_that_is_named(tmp_path, served):
    config = tmp_path / "config"
    assert CliRunner().invoke(program, ["--config", str(config), "init", "example.org"]).exit_code == 0
    result = run("--config", config, "serve", "-d", f"one.test={tmp_path}/one")
    assert (result.exit_code, result.output) == (0, "")
    assert set(Directory(str(config / "domains")).domains()) == {"example.org", "one.test"}
    assert not (tmp_path / "one" / ".config").exists()
    elsewhere = run("--config", config, "serve", "-d", f"one.test={tmp_path}/two")
    assert elsewhere.exit_code == 1
    assert "one.test has its mail in" in elsewhere.stderr


def test_the_first_start_shows_its_password_once(tmp_path, served):
    config = tmp_path / "config"
    result = run("--config", config, "serve")
    password = result.stdout.partition("password ")[2].split()[0]
    user = Directory(str(config / "domains")).user("example.test", "postmaster")
    assert passwords.verify(password, user.password).ok
    assert run("--config", config, "serve").stdout == ""


def test_options_are_handed_on(tmp_path, served, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [
        "--group",
        "mail",
        "--allow-root",
        "--log-file",
        "log",
        "--pid-file",
        "pid",
        "--lmtp",
        "fd:lmtp",
    ]
    assert run("--config", tmp_path / "config", "serve", *options).exit_code == 0
    [(_, overrides)] = served
    assert (overrides.group, overrides.allow_root, overrides.user) == ("mail", True, None)
    assert (overrides.log_file, overrides.pid_file) == (str(tmp_path / "log"), str(tmp_path / "pid"))
    assert [one.protocol for one in overrides.listeners] == ["lmtp"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes things for others")
def test_what_root_makes_belongs_to_the_user_who_serves(tmp_path, served):
    assert run("--config", tmp_path / "new" / "config", "serve", "--user", "nobody").exit_code == 0
    assert run("serve", "-d", f"x.test={tmp_path}/new/x/y", "-u", "ann=b", "--user", "nobody").exit_code == 0
    assert run("--config", tmp_path / "c", "init", "example.org", "--user", "nobody").exit_code == 0
    owners = {
        os.lstat(os.path.join(place, name)).st_uid
        for place, directories, names in os.walk(tmp_path)
        for name in directories + names
    }
    assert owners == {pwd.getpwnam("nobody").pw_uid}


@pytest.mark.parametrize("letters", [["-u", "a=b", "-d", "x.test=/tmp/x"], ["-b"], ["-d", "x.test"]])
def test_letters_in_the_wrong_place(served, letters):
    result = run("serve", *letters)
    assert (result.exit_code, served) == (2, [])


def test_what_stops_the_engine_is_one_line(tmp_path):
    with open(tmp_path / "occupied", "w"):
        pass
    result = run(
        "--config",
        tmp_path / "config",
        "serve",
        "-s",
        f"unix:{tmp_path}/occupied",
        "-p",
        f"unix:{tmp_path}/p",
        "--submission",
        f"unix:{tmp_path}/submission",
    )
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("mailserver: unix:")


def test_commands_work_beside_a_running_server(tmp_path):
    place = f"{tmp_path}/p"
    command = [sys.executable, "-m", "mailserver", "serve", "-d", f"one.test={tmp_path}/one", "-u", "ann=x"]
    command += ["-s", f"unix:{tmp_path}/s", "-p", f"unix:{place}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert any("event=serving" in line for line in iter(server.stderr.readline, ""))
            assert login(place, "ann@one.test", "x") == b"+OK"
            assert login(place, "bob@one.test", "y") == b"-ERR"
            arguments = [
                "--config",
                f"{tmp_path}/one/.config",
                "user",
                "add",
                "bob@one.test",
                "--password-stdin",
            ]
            assert CliRunner().invoke(program, arguments, input="y\n").exit_code == 0
            assert login(place, "bob@one.test", "y") == b"+OK"
        finally:
            server.send_signal(signal.SIGTERM)
            server.stderr.read()
    assert server.returncode == 0
    assert not os.path.exists(place)


def login(place, name, password):
    """The first word of the answer to a POP3 login."""
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as lines:
        client.settimeout(20)
        client.connect(place)
        lines.readline()
        for verb, argument in (("USER", name), ("PASS", password)):
            client.sendall(f"{verb} {argument}\r\n".encode())
            answer = lines.readline()
        return answer.split()[0]

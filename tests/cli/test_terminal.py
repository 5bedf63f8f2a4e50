"""Commands on a terminal: prompts that do not echo, questions, tables."""

import os
import pty
import select
import subprocess
import sys

import pytest
from click.testing import CliRunner

from mailserver.cli.program import program
from mailserver.directory import Directory, passwords


def talk(arguments, answers):
    """Run a command on a terminal of its own: wait for each prompt, type its answer; (exit code, all shown)."""
    terminal, its_end = pty.openpty()
    command = [sys.executable, "-m", "mailserver", *arguments]
    with subprocess.Popen(
        command, stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True
    ) as process:
        os.close(its_end)
        shown = b""
        waiting = list(answers)
        while block := read(terminal):
            shown += block
            if waiting and waiting[0][0].encode() in shown:
                os.write(terminal, waiting.pop(0)[1].encode() + b"\n")
    os.close(terminal)
    return process.returncode, shown.decode()


def read(terminal):
    """What was shown since, or nothing at the end."""
    if not select.select([terminal], [], [], 30)[0]:
        raise TimeoutError
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


@pytest.fixture
def directory(tmp_path):
    made = str(tmp_path / "config")
    arguments = ["--config", made, "init", "example.org", "--password-stdin"]
    assert CliRunner().invoke(program, arguments, input="pm").exit_code == 0
    return made


def test_a_password_is_asked_for_twice_and_never_shown(directory):
    answers = [("Password for ann@example.org", "s3cret"), ("Repeat", "s3cret")]
    code, shown = talk(["--config", directory, "user", "add", "ann@example.org"], answers)
    assert code == 0
    assert "s3cret" not in shown
    user = Directory(f"{directory}/domains").user("example.org", "ann")
    assert passwords.verify("s3cret", user.password).ok


def test_removing_asks_what_becomes_of_the_mail(directory):
    arguments = ["--config", directory, "user", "remove", "postmaster@example.org"]
    code, shown = talk(arguments, [("Remove postmaster@example.org and keep the mail?", "n")])
    assert code == 130
    assert shown.splitlines()[-1] == "mailserver: nothing was changed"
    code, shown = talk(arguments, [("and keep the mail?", "\x04")])  # as Ctrl-C: no answer
    assert code == 130
    assert shown.splitlines()[-1] == "mailserver: interrupted"
    code, shown = talk([*arguments, "--mail", "delete"], [("and delete the mail?", "y")])
    assert code == 0
    assert "the mail is deleted" in shown


def test_a_list_of_nothing_is_said_on_a_terminal_alone(directory):
    code, shown = talk(["--config", directory, "alias", "list"], [])
    assert (code, shown.strip()) == (0, "(none)")
    assert CliRunner().invoke(program, ["--config", directory, "alias", "list"]).output == ""


def test_lists_are_tables(directory):
    code, shown = talk(["--config", directory, "domain", "list"], [])
    assert code == 0
    assert "aliases" in shown
    assert "example.org" in shown

"""`sendmail` as cron and scripts call it: with the server and without, in every way they write messages."""

import fcntl
import itertools
import os
import pickle
import pwd
import stat
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import serving
from click.testing import CliRunner

from mailserver.cli.program import program
from mailserver.cli.sendmail.failed import Failed
from mailserver.cli.sendmail.letter import Letter
from mailserver.queue.spool import Spool

LETTER = b"Subject: hello\nTo: ann@example.test\n\nwords\n"


@pytest.fixture
def site():
    with serving.site() as made:
        made.configure([])
        made.mail.mkdir()
        yield made


class Ended(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


def send(site, *arguments, stdin=LETTER, **more):
    """Run the command, in a process of its own only where there is more to say about that."""
    line = ["--config", str(site.config), "sendmail", *arguments]
    if more:
        more.pop("process", None)
        ended = subprocess.run([*serving.MODULE, *line], input=stdin, capture_output=True, timeout=30, **more)
        return Ended(ended.returncode, ended.stdout, ended.stderr)
    result = CliRunner().invoke(program, line, input=stdin)
    return Ended(result.exit_code, result.stdout_bytes, result.stderr_bytes)


def as_account(account, site, *arguments):
    """The command as another user runs it, who need not be able to read the program."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
            os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
            os.write(writing, pickle.dumps(tuple(send(site, *arguments))))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    return Ended(*pickle.loads(said))


def taken(site, *arguments, stdin=LETTER, **more):
    assert send(site, *arguments, stdin=stdin, **more) == (0, b"", b"")


def refused(site, code, *arguments, stdin=LETTER, **more):
    result = send(site, *arguments, stdin=stdin, **more)
    assert (result.returncode, result.stdout) == (code, b"")
    assert result.stderr.startswith(b"sendmail: ")
    assert result.stderr.count(b"\n") == 1
    return result.stderr.decode()


def queued(site):
    spool = Spool(str(site.mail / ".queue"))
    return [spool.load(entry_id) for entry_id, _ in spool.ids()]


def content(site):
    [entry] = queued(site)
    spool = Spool(str(site.mail / ".queue"))
    return spool.beginning(entry, 1 << 20).decode()


# ---- what is sent


def test_a_message_for_people_here_is_in_their_mailboxes(site):
    taken(site, "ann", "bob@example.test")
    for user in ("ann", "bob"):
        [message] = site.messages(user)
        assert b"Subject: hello\n" in message
        assert b"\nFrom: root@example.test\n" in message or os.getuid() != 0
    assert queued(site) == []


def test_what_cron_gives(site):
    taken(
        site, "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "ann", stdin=b"Subject: Cron <x>\n\n.\nb\xc3\xbc\n"
    )
    [message] = site.messages("ann")
    assert b"From: CronDaemon <" in message
    assert message.endswith(b"\n\n.\nb\xc3\xbc\n")


@pytest.mark.parametrize("dots", ["-i", "-oi"])
def test_a_lone_dot_ends_the_message_unless_it_must_not(site, dots):
    taken(site, "ann", stdin=b"Subject: x\n\none\n.\ntwo\n")
    taken(site, dots, "ann", stdin=b"Subject: x\n\none\n.\ntwo\n")
    endings = sorted(message.partition(b"\n\n")[2] for message in site.messages("ann"))
    assert endings == [b"one\n", b"one\n.\ntwo\n"]


def test_the_header_names_recipients_and_bcc_is_told_nobody(site):
    letter = (
        b"To: Ann <ann@example.test>,\n joe@far.test\nCC: friends: bob@example.test;\n"
        b"Bcc: secret@far.test\nSubject: x\n\nTo: body@far.test\n"
    )
    taken(site, "-t", "eve@far.test", stdin=letter)
    [entry] = queued(site)
    assert {str(queued.recipient.address) for queued in entry.recipients} == {
        "eve@far.test",
        "joe@far.test",
        "secret@far.test",
    }
    assert [len(site.messages(user)) for user in ("ann", "bob")] == [1, 1]
    assert "secret" not in content(site)
    assert "Bcc" not in content(site)


def test_a_resent_message_goes_to_whom_it_is_resent(site):
    taken(site, "-t", stdin=b"To: old@far.test\nResent-To: new@far.test\nSubject: x\n\n")
    [entry] = queued(site)
    assert [str(queued.recipient.address) for queued in entry.recipients] == ["new@far.test"]


@pytest.mark.parametrize(
    ("options", "sender"),
    [
        (("-f", "ann@example.test"), "ann@example.test"),
        (("-fbob",), "bob@example.test"),
        (("-r", "<ann@example.test>"), "ann@example.test"),
        (("-f", ""), None),
        (("-f", "<>"), None),
    ],
)
def test_the_sender(site, options, sender):
    taken(site, *options, "joe@far.test")
    [entry] = queued(site)
    assert (str(entry.sender) if entry.sender else None) == sender


def test_an_account_sends_as_the_user_it_stands_for(site):
    uid = os.getuid()
    site.configure([], f'[submission]\naccounts = {{ {uid} = "ann@example.test" }}\n')
    taken(site, "-F", "Änn", "joe@far.test")
    [entry] = queued(site)
    assert str(entry.sender) == "ann@example.test"
    assert "From: =?utf-8?" in content(site)
    assert "<ann@example.test>\n" in content(site)


def test_wishes_for_reports(site):
    taken(site, "-N", "failure,delay", "-R", "hdrs", "-V", "no-1", "joe@far.test")
    [entry] = queued(site)
    assert (entry.ret, entry.envid) == ("HDRS", "no-1")
    assert entry.recipients[0].recipient.notify == {"FAILURE", "DELAY"}


def test_a_header_that_is_complete_stays_as_it_is(site):
    letter = b"From: Ann <ann@example.test>\nDate: Thu, 1 Jan 1970 00:00:00 +0000\nMessage-ID: <a@b>\n\nx\n"
    taken(site, "-F", "Other", "-f", "ann", "joe@far.test", stdin=letter)
    assert content(site).endswith(letter.decode())


@pytest.mark.parametrize(
    ("written", "rests"),
    [
        (b"S: x\r\n\r\na\r\n", b"S: x\n\na\n"),
        (b"S: x\n\nno end", b"S: x\n\nno end\n"),
        (b"S: x\n\n10%\r20%\r\n", b"S: x\n\n10%\n20%\n"),
        (b"S: x\n\na\0b\n", b"S: x\n\nab\n"),
        (b"S: x\n\nend\r", b"S: x\n\nend\n"),
        (b"From ann Thu Jan  1 00:00:00 1970\nS: x\n\na\n", b"S: x\n\na\n"),
        (b"words alone\n", b"\nwords alone\n"),
        (b".\xef\xbb\xbf: x\nS: x", b"\n.\xef\xbb\xbf: x\nS: x\n"),
        (b" folded\n", b"\n folded\n"),
        (b"S: x\n y\nwords: at once: x\nand more\n", b"S: x\n y\nwords: at once: x\n\nand more\n"),
        (b"S: x", b"S: x\n"),
        (b"", b""),
    ],
)
def test_line_ends_become_those_of_mail(site, written, rests):
    taken(site, "joe@far.test", stdin=written)
    text = content(site).encode()
    assert text.endswith(rests)
    assert b"\r" not in text


def test_a_letter_is_read_in_blocks_however_long_its_lines_are(tmp_path):
    body = b"\r".join([b"x" * 200_000, b"." * 70_000, b"y"]) + b"\r\n." + b"z" * 65_536 + b"\n.\n"
    path = tmp_path / "letter"
    path.write_bytes(b"S: x\n\n" + body)
    with open(path, "rb") as stream, Letter() as letter:
        letter.read(stream, dots=False)
        wire = b"".join(letter.encoded())
    assert wire.endswith(b"\r\n.\r\n")
    lines = wire.removesuffix(b".\r\n").split(b"\r\n")
    unstuffed = b"\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    assert unstuffed == b"S: x\n\n" + body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_a_letter_has_an_end(monkeypatch):
    monkeypatch.setattr("mailserver.cli.sendmail.letter.MOST", 1000)
    endless = itertools.chain.from_iterable(itertools.repeat([b"line\n"]))
    stream = SimpleNamespace(readline=lambda most: next(endless))
    with Letter() as letter, pytest.raises(Failed, match="too large"):
        letter.read(stream, dots=True)


# ---- what is not sent


@pytest.mark.parametrize(
    ("code", "arguments", "words"),
    [
        (64, [], "no recipients"),
        (64, ["-Z"], "No such option"),
        (64, ["-b", "d", "ann"], "Invalid value"),
        (64, ["ann@@far.test"], "no address"),
        (64, ["-f", "a b@c", "ann"], "no address"),
        (64, ["-N", "sometimes", "ann"], "NOTIFY is"),
        (64, ["-V", "a b", "ann"], "ENVID is"),
        (64, ["ann\r\nDATA@example.test"], "no address"),
        (67, ["ann", "nobody"], "nobody@example.test: 550 5.1.1"),
        (77, ["-f", "joe@far.test", "ann"], "553 5.7.1"),
    ],
)
def test_refusals(site, code, arguments, words):
    site.configure([], f"[submission]\naccounts = {{ {os.getuid()} = '*' }}\n")
    assert words in refused(site, code, *arguments)
    assert site.messages("ann") == []


@pytest.mark.parametrize(
    "line", ["garbage line\nBcc", "\ufeffBcc", "Bcc\v", " leading: space\nResent-Bcc ", "Bcc\n "]
)
@pytest.mark.parametrize("before", ["", "Subject: x\nText\n"])
def test_no_blind_copy_becomes_text(site, before, line):
    letter = f"{before}{line}: secret@far.test\n\nx\n".encode()
    assert "554 5.6.0 Malformed header" in refused(site, 65, "ann", stdin=letter)
    assert site.messages("ann") == []


def test_a_header_without_recipients(site):
    assert "no recipients" in refused(site, 64, "-t", stdin=b"Subject: x\n\nTo: ann\n")
    assert "no recipients" in refused(site, 64, "-t", stdin=b"To: undisclosed-recipients:;\n\nx\n")


def test_a_message_that_is_too_large(site):
    site.configure([], '[limits]\nmessage_size = "64K"\n')
    assert "552 5.3.4" in refused(site, 65, "ann", stdin=b"S: x\n\n" + b"x" * 70_000)


def test_no_configuration(site):
    (site.config / "mailserver.toml").unlink()
    assert "no such file" in refused(site, 78, "ann")


def test_no_mail_directory(site):
    site.mail.rmdir()
    refused(site, 75, "ann")
    assert not site.mail.exists()


def test_a_state_that_others_are_at(site, monkeypatch):
    (site.mail / ".run").mkdir(mode=0o700)
    monkeypatch.setattr("mailserver.cli.sendmail.ways.PATIENCE", 0.0)
    with open(site.mail / ".run" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "starting or stopping" in refused(site, 75, "ann")
    taken(site, "ann")


# ---- with a server


def test_the_running_server_takes_it(site):
    with site.serve() as server:
        taken(site, "-F", "Cron", "ann", stdin=b"hello\n", process=True)
        assert server.event("received", stored=1)["peer"] == "unix"
        assert "550 5.1.1" in refused(site, 67, "nobody")
    [message] = site.messages("ann")
    assert message.endswith(b"\n\nhello\n")


def test_a_listener_that_other_accounts_reach(site):
    if os.getuid() != 0:
        pytest.skip("needs root, to become somebody else")
    nobody = pwd.getpwnam("nobody")
    socket = site.root / "submission.sock"
    site.root.chmod(0o755)
    site.configure(
        [("submission", f"unix:{socket}:mode=666")],
        '[submission]\naccounts = { nobody = "ann@example.test" }\n',
    )
    site.config.chmod(0o711)
    (site.config / "mailserver.toml").chmod(0o644)
    with site.serve() as server:
        assert as_account(nobody, site, "bob") == (0, b"", b"")
        assert server.event("received")["sender"] == "<ann@example.test>"
        assert as_account(nobody, site, "-f", "bob", "bob").returncode == 77
    assert as_account(nobody, site, "bob").returncode == 75  # nobody serves, and the queue is closed


def test_root_leaves_files_to_the_user_that_serves(site):
    if os.getuid() != 0:
        pytest.skip("needs root")
    nobody = pwd.getpwnam("nobody")
    taken(site, "ann", "joe@far.test")
    os.chown(site.mail, nobody.pw_uid, nobody.pw_gid)
    for path in site.mail.rglob("*"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    site.give("nobody")
    taken(site, "ann", "joe@far.test")
    assert len(queued(site)) == 2
    for path in site.mail.rglob("*"):
        assert path.lstat().st_uid == nobody.pw_uid, path
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0


def test_what_waits_is_on_its_way_when_the_server_starts(site):
    taken(site, "-f", "ann", "joe@far.test")
    relay = (
        f'[[relay]]\nname = "out"\nhosts = ["127.0.0.1:{site.ports.take()}"]\ntls = "none"\ndefault = true\n'
    )
    site.configure([], relay)
    with site.serve() as server:
        server.event("delivery", outcome="deferred", to="joe@far.test")


# ---- -bs


@pytest.mark.parametrize("served", [True, False])
def test_smtp_on_standard_input(site, served):
    dialogue = (
        b"EHLO client.test\r\nMAIL FROM:<ann@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
        b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n"
    )
    if served:
        with site.serve():
            result = send(site, "-bs", stdin=dialogue, process=True)
    else:
        result = send(site, "-bs", stdin=dialogue, process=True)
    codes = [line[:3] for line in result.stdout.splitlines() if line[3:4] == b" "]
    assert (result.returncode, result.stderr) == (0, b"")
    assert codes == [b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    assert len(site.messages("bob")) == 1


# ---- what is no message


@pytest.mark.parametrize("options", [["-bi"], ["-I"], ["-q"], ["-q30m"], ["-b", "i", "-v"]])
def test_what_needs_no_doing_is_done(site, options):
    taken(site, *options)
    assert list(site.mail.iterdir()) == []


def test_the_queue_is_shown(site):
    taken(site, "-f", "ann", "joe@far.test")
    shown = send(site, "-bp")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert b"joe@far.test" in shown.stdout
    listed = CliRunner().invoke(program, ["--config", str(site.config), "queue", "list"])
    assert shown.stdout == listed.stdout_bytes


# ---- the name


def test_called_sendmail_it_looks_in_the_place_of_the_system(site, tmp_path):
    called = "import sys; sys.argv[0] = '/usr/sbin/sendmail'; from mailserver.cli import main; main()"
    (tmp_path / "config").symlink_to(site.config)
    line = [sys.executable, "-c", called, "-i", "ann"]
    environment = {**os.environ, "MAILSERVER_CONFIG": str(site.config)}
    result = subprocess.run(line, input=LETTER, capture_output=True, env=environment, cwd="/")
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(site.messages("ann")) == 1
    environment.pop("MAILSERVER_CONFIG")
    if not os.path.exists("/etc/mailserver"):
        result = subprocess.run(line, input=LETTER, capture_output=True, env=environment, cwd=tmp_path)
        assert (result.returncode, result.stderr.count(b"/etc/mailserver")) == (78, 1)

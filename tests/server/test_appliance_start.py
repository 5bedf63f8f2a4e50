"""How a server starts: as whom, on which sockets, and what it says when it cannot."""

from __future__ import annotations

import os
import poplib
import pwd
import signal
import smtplib
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import serving

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user: run as root")
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def site() -> Iterator[serving.Site]:
    with serving.site() as made:
        yield made


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=serving.LIMIT) as client:
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")


def count(port: int) -> int:
    """How many messages ann reads there."""
    client = poplib.POP3("127.0.0.1", port, timeout=serving.LIMIT)
    client.user("ann")
    client.pass_(serving.PASSWORD)
    found = client.stat()[0]
    client.quit()
    return found


# ---- as whom


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@as_root
@pytest.mark.parametrize("where", ["file", "option"])
def test_root_becomes_the_user_for_good(site: serving.Site, where: str) -> None:
    smtp, pop3, pop3s = (site.ports.take() for _ in range(3))
    top = 'user = "nobody"\n' if where == "file" else ""
    endpoints = [("smtp", f"tcp:127.0.0.1:{smtp}"), ("pop3", f"tcp:127.0.0.1:{pop3}")]
    site.configure([*endpoints, ("pop3", f"tls:127.0.0.1:{pop3s}"), ("pop3", f"unix:{site.root}/s")], top=top)
    site.give("nobody")
    with site.serve(*(["--user", "nobody"] if where == "option" else [])) as server:
        for pid in family(server.pid):
            found = status(pid)
            assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
            assert found["Gid"] == [str(NOBODY.pw_gid)] * 4
            assert found["Groups"] == []
            assert found["NoNewPrivs"] == ["1"]
            for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(found[capabilities][0], 16) == 0
        send(smtp)
        assert count(pop3) == 1
        assert (site.root / "s").stat().st_uid == NOBODY.pw_uid
    mailbox = site.mailbox("ann")
    for path in (mailbox, mailbox / "new", *(mailbox / "cur").iterdir(), *(mailbox / "new").iterdir()):
        assert path.stat().st_uid == NOBODY.pw_uid
        assert path.stat().st_mode & 0o077 == 0


@as_root
def test_a_key_that_only_root_can_read(site: serving.Site) -> None:
    """It is read before root is given up; a reload cannot, says so, and keeps it."""
    port = site.ports.take()
    site.configure([("smtp", f"tls:127.0.0.1:{port}")], top='user = "nobody"\n')
    site.give("nobody")
    key = site.certificate.parent / "privkey.pem"
    os.chown(key, 0, 0)
    context = ssl.create_default_context(cafile=str(site.certificate))
    with site.serve() as server:
        server.signal(signal.SIGHUP)
        assert server.event("certificate-problem")["problem"] == f"{key}: Permission denied"
        server.event("reloaded")
        with smtplib.SMTP_SSL("localhost", port, context=context, timeout=serving.LIMIT) as client:
            assert client.noop()[0] == 250


@as_root
def test_a_low_port(site: serving.Site) -> None:
    """Bound as root, served as somebody else."""
    port = next((port for port in range(1, 1024) if port not in (22, 25) and is_free(port)), None)
    assert port
    site.configure([("smtp", f"tcp:127.0.0.3:{port}")], top='user = "nobody"\n')
    site.give("nobody")
    with site.serve(), smtplib.SMTP("127.0.0.3", port, timeout=serving.LIMIT) as client:
        assert client.noop()[0] == 250


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.3", port)) != 0


@as_root
def test_the_letters_make_a_server_for_another_user(site: serving.Site) -> None:
    """`-d` and `--user` together, as root: what they make is the user's."""
    site.root.chmod(0o755)
    smtp, pop3 = site.ports.take(), site.ports.take()
    with serving.Server(
        *("serve", "-d", f"example.test={site.root}/mail", "-u", f"ann={serving.PASSWORD}"),
        *("-s", f"tcp:127.0.0.1:{smtp}", "-p", f"tcp:127.0.0.1:{pop3}", "--user", "nobody"),
    ):
        send(smtp)
        assert count(pop3) == 1


# ---- what it is given


def test_sockets_of_a_service_manager(site: serving.Site) -> None:
    """By name and by number, TCP and UNIX, clear and TLS; two may have one name."""
    site.configure([("smtp", "fd:smtp"), ("pop3", "fd:5"), ("pop3", "fd+tls:pop3s"), ("lmtp", "fd:lmtp")])
    path = str(site.root / "lmtp")
    names = ("smtp", "smtp2", "pop3", "pop3s")
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in names}
    sockets["lmtp"] = socket.socket(socket.AF_UNIX)
    sockets["lmtp"].bind(path)
    sockets["lmtp"].listen()
    port = {name: sockets[name].getsockname()[1] for name in names}
    try:
        with site.serve(
            descriptors=[("smtp", sockets["smtp"]), ("smtp", sockets["smtp2"]), ("pop3", sockets["pop3"])]
            + [(name, sockets[name]) for name in ("pop3s", "lmtp")]
        ) as server:
            for sock in sockets.values():
                sock.close()
            for signalled in (False, True):
                if signalled:
                    server.signal(signal.SIGHUP)
                    server.event("reloaded")
                before = len(site.messages("ann"))
                send(port["smtp"])
                send(port["smtp2"])
                with smtplib.LMTP(path, timeout=serving.LIMIT) as client:
                    client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
                assert count(port["pop3"]) == before + 3
                context = ssl.create_default_context(cafile=str(site.certificate))
                poplib.POP3_SSL("localhost", port["pop3s"], context=context, timeout=serving.LIMIT).quit()
    finally:
        for sock in sockets.values():
            sock.close()
    assert Path(path).exists()  # it is not ours to remove


def test_a_watchdog_is_fed(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/smtp")])
    with site.serve(environment={"WATCHDOG_USEC": "200000"}) as server:
        server.notified("WATCHDOG=1")
        server.notified("WATCHDOG=1")


def test_ipv6_and_names_of_hosts(site: serving.Site) -> None:
    try:
        port = site.ports.take("::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    other = site.ports.take()
    site.configure([("smtp", f"tcp:[::1]:{port}"), ("smtp", f"tcp:localhost:{other}")])
    with site.serve():
        with smtplib.SMTP("::1", port, timeout=serving.LIMIT) as client:
            client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
        send(other)
    assert b"([IPv6:::1])" in site.messages("ann")[0]


# ---- its traces


def test_the_pid_file(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/smtp")])
    file = site.root / "pid"
    with site.serve("--pid-file", file) as server:
        assert file.read_text() == f"{server.pid}\n"
    assert not file.exists()


def test_after_a_crash(site: serving.Site) -> None:
    """What was staged and told to nobody goes; the socket file and the lock of the dead are no obstacle."""
    path = site.root / "smtp"
    site.configure([("smtp", f"unix:{path}")])
    server = site.serve()
    server.kill()
    assert path.exists()
    (site.mail / ".queue" / "tmp" / "left").write_text("half a mess")
    for place in ("tmp", "msg"):  # what another program left there
        (site.mail / ".queue" / place / ".~tmp~").mkdir()
    with site.serve() as server:
        assert server.event("recovered") == {"staged-files-removed": "1"}
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(path))
            assert sock.recv(4) == b"220 "


# ---- what stops it


def refusal(site: serving.Site, *arguments: str | Path) -> str:
    """The one line with which a start fails."""
    done = site.run("serve", *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("mailserver: ")
    return line.removeprefix("mailserver: ")


def test_a_second_server_on_the_same_state(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/one")])
    # with a configuration of its own: the first would serve what is written into its own one before long
    with site.serve(), serving.site() as other:
        other.mail = site.mail
        other.configure([("smtp", f"unix:{site.root}/two")])
        assert refusal(other) == f"{site.mail}: another server is running on this state"
        assert (site.root / "one").exists()
        assert not (site.root / "two").exists()


@pytest.mark.parametrize(
    ("listener", "settings", "said"),
    [
        (("smtp", "tcp:127.0.0.1:99999"), "", "listener[0].endpoint: "),
        (("smtp", "25"), "", "listener[0].endpoint: "),
        (("smpt", "unix:/x"), "", 'listener[unix:/x].protocol: expected "smtp" or '),
        (
            ("lmtp", "tcp:127.0.0.1:25"),
            "",
            "listener[tcp:127.0.0.1:25].endpoint: expected another port than 25 for LMTP",
        ),
        (("smtp", "unix:/x"), "[limits]\nrecipients = 5\n", "limits.recipients: expected a whole number of"),
        (("smtp", "unix:/x"), "[limit]\n", 'limit: unknown setting; did you mean "limits"?'),
        (("smtp", "unix:/x"), "[trash]\nretention = 'for ever'\n", "trash.retention: expected a duration"),
        (("smtp", "unix:/x"), "[trash\n", "no valid TOML"),
    ],
)
def test_a_file_that_is_wrong(
    site: serving.Site, listener: tuple[str, str], settings: str, said: str
) -> None:
    site.configure([listener], settings)
    line = refusal(site)
    assert line.startswith(f"{site.config}/mailserver.toml: ")
    assert said in line


def test_a_socket_that_cannot_be_had(site: serving.Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
        assert refusal(site) == f"tcp:127.0.0.1:{port}: Address already in use"
    (site.root / "file").touch()
    for endpoint, said in (
        (f"unix:{site.root}/file", "the path exists and is no socket"),
        (f"unix:{site.root}/none/x", "No such file or directory"),
        ("fd:smtp", "no descriptor of that name was passed to us (passed: none)"),
    ):
        assert refusal(site, "-s", endpoint).startswith(f"{endpoint}: {said}")
    assert (site.root / "file").exists()


def test_places_that_cannot_be_written(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/smtp")])
    (site.root / "file").touch()
    for option in ("--log-file", "--pid-file"):
        assert refusal(site, option, site.root / "file" / "x").startswith(f"{site.root}/file/x: cannot write")
        assert not (site.root / "smtp").exists()  # bound by then, and let go
    site.mail = site.root / "file" / "mail"
    site.settings([("smtp", f"unix:{site.root}/smtp")])
    assert refusal(site) == f"{site.mail}: cannot make this: Not a directory"


def test_a_directory_without_its_domains(site: serving.Site) -> None:
    """Users who are no longer known would be refused for good."""
    site.configure([("smtp", f"unix:{site.root}/smtp")], users=[])
    text = (site.config / "mailserver.toml").read_text()
    site.write("mailserver.toml", text.replace("example.test", "example.org"))
    assert refusal(site).startswith(f"{site.config}/domains: no such directory")


@as_root
def test_not_as_root_for_other_machines(site: serving.Site) -> None:
    """Nothing is bound, and the line says what to do."""
    site.configure([("smtp", f"unix:{site.root}/smtp"), ("smtp", "tcp:*:25")])
    line = refusal(site)
    assert line.startswith("started as root, but no user to become: set user in ")
    assert line.endswith("tcp:*:25 is open to other machines")
    assert not (site.root / "smtp").exists()
    assert refusal(site, "--user", "no-such-user") == "unknown user 'no-such-user'"
    assert refusal(site, "--user", "root").startswith("expected an ordinary user")


@as_root
def test_a_state_that_the_user_cannot_write(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/smtp")])
    site.give("nobody")
    site.mail.mkdir(0o700)
    line = refusal(site, "--user", "nobody")
    assert line.startswith(f"{site.mail}")
    assert "not writable for the user the server runs as" in line
    assert not (site.root / "smtp").exists()


def test_the_command_line_is_wrong(site: serving.Site) -> None:
    site.configure([("smtp", f"unix:{site.root}/smtp")])
    done = site.run("serve", "-s", "2525")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("mailserver: ")


def test_no_traceback_when_the_log_is_gone(site: serving.Site) -> None:
    """Whoever reads standard error may go away: `mailserver serve 2>&1 | head`."""
    smtp, pop3 = site.ports.take(), site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{smtp}"), ("pop3", f"tcp:127.0.0.1:{pop3}")])
    command = [*serving.MODULE, "--config", str(site.config), "serve"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        assert process.stderr
        assert any(b"event=serving" in line for line in process.stderr)
        process.stderr.close()
        send(smtp)
        assert count(pop3) == 1
        process.terminate()
        assert process.wait(serving.LIMIT) == 0
    finally:
        process.kill()
        process.wait()

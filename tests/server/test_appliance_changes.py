"""A server that goes on while its files change: reload by signal and by itself, certificates, the log."""

from __future__ import annotations

import os
import shutil
import signal
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
import serving

from mailserver.transport.tls import make_self_signed

IMPATIENT = serving.patched({"mailserver.server.supervisor:WATCH_INTERVAL": 0.05})
SIZE = '[limits]\nmessage_size = "{}"\n'


@pytest.fixture
def site() -> Iterator[serving.Site]:
    with serving.site() as made:
        yield made


def smtp(port: int) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=serving.LIMIT)
    client.ehlo()
    return client


def size(client: smtplib.SMTP) -> int:
    """The limit that the server tells this session."""
    client.ehlo()
    return int(client.esmtp_features["size"])


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + serving.LIMIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def reload(server: serving.Server) -> None:
    """SIGHUP, and wait until the server says that it is done."""
    server.signal(signal.SIGHUP)
    server.notified("RELOADING=1")
    server.notified("READY=1")


def test_whoever_comes_during_a_reload_is_served(site: serving.Site) -> None:
    """Old workers leave and new ones come; a client half-way through its handshake notices nothing."""
    port, plain = site.ports.take(), site.ports.take()
    site.configure([("smtp", f"tls:127.0.0.1:{port}"), ("smtp", f"tcp:127.0.0.1:{plain}")])
    with site.serve() as server:
        began = [socket.create_connection(("127.0.0.1", port), serving.LIMIT) for _ in range(4)]
        smtp(plain).quit()  # and those that came before have been accepted
        smtp(plain).quit()
        server.signal(signal.SIGHUP)
        for _ in range(50):
            smtp(plain).quit()
        server.event("reloaded")
        for sock in began:
            with sock, unchecked().wrap_socket(sock) as secure:
                assert secure.recv(4) == b"220 "


def test_new_limits_are_for_new_sessions(site: serving.Site) -> None:
    port = site.ports.take()
    listeners = [("smtp", f"tcp:127.0.0.1:{port}")]
    site.configure(listeners, SIZE.format("100K"))
    with site.serve() as server, smtp(port) as old:
        site.settings(listeners, SIZE.format("200K"))
        reload(server)
        with smtp(port) as new:
            assert (size(old), size(new)) == (100 * 1024, 200 * 1024)
        old.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
    assert len(site.messages("ann")) == 1


def test_listeners_come_and_go(site: serving.Site) -> None:
    first, second = site.ports.take(), site.ports.take()
    path = site.root / "smtp.sock"
    site.configure([("smtp", f"tcp:127.0.0.1:{first}"), ("smtp", f"unix:{path}")])
    with site.serve() as server, smtp(first) as old:
        site.settings([("smtp", f"tcp:127.0.0.1:{second}")])
        reload(server)
        assert not listens(first)
        assert not path.exists()
        for client in (old, smtp(second)):
            client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
        client.quit()
        site.settings([("smtp", f"tcp:127.0.0.1:{first}"), ("lmtp", f"unix:{path}:mode=666")])
        reload(server)
        assert listens(first)
        assert not listens(second)
        assert path.stat().st_mode & 0o777 == 0o666
    assert len(site.messages("ann")) == 2
    assert not path.exists()


def test_a_listener_that_cannot_be_had_keeps_nobody_from_the_others(site: serving.Site) -> None:
    port, taken, more = (site.ports.take() for _ in range(3))
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
    with site.serve() as server, socket.socket() as other:
        other.bind(("127.0.0.2", taken))
        other.listen()
        site.settings([("smtp", f"tcp:127.0.0.{n}:{p}") for n, p in ((1, port), (2, taken), (1, more))])
        reload(server)
        assert "Address already in use" in server.event("listener-failed")["problem"]
        assert listens(port) and listens(more)
        other.close()
        reload(server)  # the file is the same: what failed is tried again
        with socket.create_connection(("127.0.0.2", taken), serving.LIMIT) as sock:
            assert sock.recv(4) == b"220 "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hostname = [", "no valid TOML"),
        ('hostname = "mx.example.test"\n[limits]\nmessage_sise = "1M"\n', "limits.message_sise"),
        (None, "no such file"),
    ],
    ids=["toml", "key", "missing"],
)
def test_a_broken_file_keeps_what_was(site: serving.Site, text: str | None, said: str) -> None:
    port = site.ports.take()
    listeners = [("smtp", f"tcp:127.0.0.1:{port}")]
    site.configure(listeners, SIZE.format("100K"))
    with site.serve() as server:
        if text is None:
            (site.config / "mailserver.toml").unlink()
        else:
            site.write("mailserver.toml", text)
        reload(server)
        problem = server.event("config-refused")["problem"]
        assert problem.startswith(f"{site.config}/mailserver.toml: ") and said in problem
        with smtp(port) as client:
            assert size(client) == 100 * 1024
        site.settings(listeners, SIZE.format("200K"))
        reload(server)
        with smtp(port) as client:
            assert size(client) == 200 * 1024


def test_a_pipe_in_place_of_the_file_holds_up_nobody(site: serving.Site) -> None:
    port = site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
    with site.serve() as server:
        (site.config / "mailserver.toml").unlink()
        os.mkfifo(site.config / "mailserver.toml")
        reload(server)
        assert "Not a regular file" in server.event("config-refused")["problem"]
        with smtp(port):
            pass


def test_a_name_that_is_no_text_is_told_and_ends_nothing(site: serving.Site) -> None:
    port = site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
    with site.serve() as server:
        os.mkdir(os.fsencode(site.config / "tls") + b"/\xff")
        reload(server)
        assert "\\udcff" in server.event("certificate-problem")["problem"]
        server.event("reloaded")
        reload(server)
        server.event("reloaded")
        with smtp(port):
            pass


def test_what_needs_a_restart_is_said(site: serving.Site) -> None:
    port = site.ports.take()
    listeners = [("smtp", f"tcp:127.0.0.1:{port}")]
    site.configure(listeners)
    with site.serve() as server:
        site.settings(listeners, top=f'allow_root = true\npid_file = "{site.root}/no/pid"\n')
        reload(server)
        assert set(server.event("config-needs-restart")["keys"].split()) == {"allow_root", "pid_file"}
        server.event("reloaded")


def test_log_and_process_number_move(site: serving.Site) -> None:
    port = site.ports.take()
    listeners = [("smtp", f"tcp:127.0.0.1:{port}")]
    site.configure(listeners, top=f'pid_file = "{site.root}/pid"\n')
    log = site.root / "log"
    with site.serve() as server:
        server.event("console-serving")
        site.settings(listeners, top=f'pid_file = "{site.root}/pid2"\nlog_file = "{log}"\n')
        reload(server)
        wait_for(lambda: log.exists() and "event=reloaded" in log.read_text())
        assert not (site.root / "pid").exists()
        assert (site.root / "pid2").read_text() == f"{server.pid}\n"
        with smtp(port) as client:
            client.sendmail("x@far.test", ["ann@example.test"], "Subject: x\n\nx\n")
        wait_for(lambda: "event=received" in log.read_text())
        site.settings(listeners)
        reload(server)
        server.event("reloaded")
        assert not (site.root / "pid2").exists()


def test_a_file_edited_by_hand_is_noticed(site: serving.Site) -> None:
    port = site.ports.take()
    listeners = [("smtp", f"tcp:127.0.0.1:{port}")]
    site.configure(listeners, SIZE.format("100K"))
    with site.serve(command=IMPATIENT) as server:
        site.settings(listeners, SIZE.format("200K"))
        server.event("reloaded")
        with smtp(port) as client:
            assert size(client) == 200 * 1024
        site.write("mailserver.toml", "broken")
        server.event("config-refused")
        site.settings(listeners, SIZE.format("300K"))
        server.event("reloaded")


# ---- certificates


def certificate(port: int) -> bytes:
    """What a new session is shown."""
    with tls(port) as sock:
        return shown(sock)


def tls(port: int) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), serving.LIMIT) as sock:
        return context.wrap_socket(sock)


def shown(sock: ssl.SSLSocket) -> bytes:
    found = sock.getpeercert(binary_form=True)
    assert found
    return found


def test_a_new_certificate_is_for_new_sessions(site: serving.Site) -> None:
    port, plain = site.ports.take(), site.ports.take()
    site.configure([("smtp", f"tls:127.0.0.1:{port}"), ("smtp", f"tcp:127.0.0.1:{plain}")])
    with site.serve() as server, tls(port) as old:
        assert old.recv(100).startswith(b"220 ")
        first = certificate(port)
        make_self_signed(str(site.config / "tls"), [serving.HOST])
        reload(server)
        second = certificate(port)
        assert first == shown(old) != second
        old.sendall(b"NOOP\r\n")
        assert old.recv(100).startswith(b"250 ")
        with smtp(plain) as client:
            client.starttls(context=unchecked())
            assert shown(client.sock) == second


def unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize("part", ["fullchain", "privkey"])
def test_a_broken_certificate_keeps_the_one_that_was(site: serving.Site, part: str) -> None:
    port = site.ports.take()
    site.configure([("smtp", f"tls:127.0.0.1:{port}")])
    with site.serve(command=IMPATIENT) as server:
        first = certificate(port)
        site.write(f"tls/{serving.HOST}/{part}.pem", "broken")
        assert f"{serving.HOST}/{part}.pem" in server.event("certificate-problem")["problem"]
        server.event("reloaded")
        assert certificate(port) == first
        shutil.rmtree(site.config / "tls")
        server.event("reloaded")
        assert certificate(port) == first


def test_the_first_certificate_makes_starttls_possible(site: serving.Site) -> None:
    port = site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")], certificate=False)
    with site.serve(command=IMPATIENT) as server:
        with smtp(port) as client:
            assert not client.has_extn("starttls")
        made = site.config.parent / "made"
        make_self_signed(str(made), [serving.HOST])
        (made / serving.HOST).rename(
            site.config / "tls" / serving.HOST
        )  # at once: a look between certificate and key would find half of it
        server.event("reloaded")
        with smtp(port) as client:
            client.starttls(context=unchecked())


# ---- people


def test_people_and_aliases_count_at_the_next_look_up(site: serving.Site) -> None:
    """Files written by hand, as an editor or cp leaves them; no signal, no reload."""
    port = site.ports.take()
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
    with site.serve() as server, smtp(port) as client:

        def reply(address: str) -> int:
            client.rset()
            client.mail("a@client.test")
            return client.rcpt(address)[0]

        assert reply("carl@example.test") == 550
        site.write("domains/example.test/users/carl", serving.HASH + "\n")
        site.write("domains/example.test/aliases/chuck", "carl\n")
        site.write("domains/new.test/users/dora", serving.HASH + "\n")
        assert [reply(f"{a}.test") for a in ("carl@example", "chuck@example", "dora@new")] == [250] * 3
        site.write("domains/example.test/users/carl", "what is this\n")
        assert reply("carl@example.test") == 451
        assert server.event("unavailable")["file"] == f"{site.config}/domains/example.test/users/carl"
        (site.config / "domains/example.test/users/carl").unlink()
        assert reply("carl@example.test") == 550
        shutil.rmtree(site.config / "domains/new.test")
        assert reply("dora@new.test") == 550


# ---- the log


def test_the_log_is_reopened(site: serving.Site) -> None:
    port = site.ports.take()
    log, old = site.root / "log" / "mail", site.root / "old"
    log.parent.mkdir()
    site.configure([("smtp", f"tcp:127.0.0.1:{port}")])
    with site.serve("--log-file", log) as server:
        log.rename(old)
        server.signal(signal.SIGUSR1)
        with smtp(port) as client:
            until(log.exists, client)
            client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
        away = log.parent.rename(site.root / "away")
        server.signal(signal.SIGUSR1)  # cannot be opened: the file it has goes on
        with smtp(port) as client:
            until(lambda: "event=log-not-reopened" in (away / "mail").read_text(), client)
    assert "event=serving" in old.read_text()
    assert "event=received" not in old.read_text()
    names = [line.split()[1] for line in (away / "mail").read_text().splitlines()]
    assert {"event=received", "event=log-not-reopened"} <= set(names)
    assert names[-1] == "event=stopped"
    assert os.stat(old).st_mode & 0o007 == 0


def until(condition, client: smtplib.SMTP) -> None:
    """Talk to the server until it has done something, as it does between two answers."""
    end = time.monotonic() + serving.LIMIT
    while not condition():
        assert time.monotonic() < end
        client.noop()

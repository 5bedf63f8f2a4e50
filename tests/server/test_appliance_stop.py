"""How a server stops: it lets go of nobody in the middle of a word, and waits for nobody for ever."""

from __future__ import annotations

import contextlib
import poplib
import signal
import smtplib
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import serving


class Busy(NamedTuple):
    """A server with ann's mail, and clients in all states."""

    site: serving.Site
    server: serving.Server
    smtp: int
    pop3: int


@pytest.fixture
def busy() -> Iterator[Busy]:
    with serving.site() as site:
        smtp, pop3 = site.ports.take(), site.ports.take()
        listeners = [("smtp", f"tcp:127.0.0.1:{smtp}"), ("smtp", f"unix:{site.root}/smtp")]
        site.configure([*listeners, ("pop3", f"tcp:127.0.0.1:{pop3}")])
        with site.serve() as server:
            yield Busy(site, server, smtp, pop3)


class Lines:
    """A connection, line by line."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), serving.LIMIT)
        self._file = self._sock.makefile("rb")
        self.hear()

    def say(self, *lines: str) -> None:
        self._sock.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self) -> str:
        """The last line of the next reply; empty at the end of the connection."""
        while (line := self._file.readline().decode())[3:4] == "-" and line[:3].isdigit():
            pass
        return line.rstrip("\r\n")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()


def in_transaction(port: int) -> Lines:
    """A client that has named a recipient."""
    client = Lines(port)
    for line in ("EHLO client.test", "MAIL FROM:<a@client.test>", "RCPT TO:<ann@example.test>"):
        assert client.ask(line).startswith("250 ")
    return client


def logged_in(port: int) -> Lines:
    client = Lines(port)
    for line in ("USER ann", f"PASS {serving.PASSWORD}"):
        assert client.ask(line).startswith("+OK")
    return client


def terminate(server: serving.Server, number: signal.Signals = signal.SIGTERM) -> None:
    server.signal(number)
    server.notified("STOPPING=1")


def refused(port: int) -> None:
    """Nobody listens any more, as soon as all workers have heard of it; who still came in is sent away."""
    end = time.monotonic() + serving.LIMIT
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), serving.LIMIT) as sock:
                while sock.recv(4096):
                    pass
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            pass
    raise AssertionError(f"somebody listens on {port}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["term", "int"])
def test_the_idle_are_told_and_nobody_new_comes_in(busy: Busy, number: signal.Signals) -> None:
    with Lines(busy.smtp) as idle, logged_in(busy.pop3) as reader, in_transaction(busy.smtp) as sender:
        terminate(busy.server, number)
        assert idle.hear() == "421 4.3.2 Service shutting down, try again later"
        assert idle.hear() == ""
        assert reader.hear() == ""  # RFC 1939 §3: as after a time-out, without a word
        for port in (busy.smtp, busy.pop3):
            refused(port)
        assert not (busy.site.root / "smtp").exists()
        assert sender.ask("RSET").startswith(("250 ", "421 "))
    assert busy.server.wait() == 0
    assert cut(busy.server) == 0


def cut(server: serving.Server) -> int:
    """How many sessions were cut at the end."""
    assert server.events("stopped") == [{"killed": "0"}]
    return sum(int(ended["cut"]) for ended in server.events("worker-ended"))


@pytest.mark.parametrize("said", [0, 1, 2])
def test_a_message_under_way_is_taken(busy: Busy, said: int) -> None:
    """After RCPT, after DATA, within the content: what is then answered with 250 is in the mailbox."""
    with in_transaction(busy.smtp) as client:
        steps = [("DATA", "354"), ("Subject: x", ""), ("\r\ny\r\n.", "250")]
        for line, reply in steps[:said]:
            client.say(line)
            assert not reply or client.hear().startswith(reply)
        terminate(busy.server)
        for line, reply in steps[said:]:
            client.say(line)
            assert not reply or client.hear().startswith(reply)
        assert client.hear().startswith("421 4.3.2 ")
        assert client.hear() == ""
    assert busy.server.wait() == 0
    assert busy.site.messages("ann")[0].endswith(b"Subject: x\n\ny\n")
    assert cut(busy.server) == 0


def test_what_was_only_marked_stays(busy: Busy) -> None:
    with smtplib.SMTP("127.0.0.1", busy.smtp, timeout=serving.LIMIT) as client:
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
    with logged_in(busy.pop3) as reader:
        assert reader.ask("DELE 1").startswith("+OK")
        terminate(busy.server)
        assert reader.hear() == ""
    assert busy.server.wait() == 0
    assert len(busy.site.messages("ann")) == 1


def test_a_large_message_is_read_to_its_end(busy: Busy) -> None:
    """A client in the middle of a download gets the rest."""
    body = b"".join(b"line %d\r\n" % n for n in range(400_000))
    with smtplib.SMTP("127.0.0.1", busy.smtp, timeout=serving.LIMIT) as client:
        client.sendmail("a@client.test", ["ann@example.test"], b"Subject: x\r\n\r\n" + body)
    reader = poplib.POP3("127.0.0.1", busy.pop3, timeout=serving.LIMIT)
    reader.user("ann")
    reader.pass_(serving.PASSWORD)
    reader._putcmd("RETR 1")
    assert reader._getresp().startswith(b"+OK")
    terminate(busy.server)
    found = []
    while (line := reader._getline()[0]) != b".":
        found.append(line)
    reader.close()
    assert b"\r\n".join(found[-400_000:]) + b"\r\n" == body
    assert busy.server.wait() == 0


def test_nobody_is_waited_for_for_ever() -> None:
    with serving.site() as site:
        port = site.ports.take()
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], '[limits]\ndrain_timeout = "200ms"\n')
        with site.serve() as server, in_transaction(port) as client:
            assert client.ask("DATA").startswith("354 ")
            client.say("Subject: never ending")
            terminate(server)
            assert server.wait() == 0
            assert cut(server) == 1
            with contextlib.suppress(ConnectionResetError):
                assert client.hear() == ""
        assert site.messages("ann") == []
        assert list((site.mail / ".queue" / "tmp").iterdir()) == []

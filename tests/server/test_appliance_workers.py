"""Several workers, one server: what one of them does or suffers is of no matter to the others."""

from __future__ import annotations

import os
import poplib
import select
import signal
import smtplib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import serving

WORKERS = 3


class Family(NamedTuple):
    site: serving.Site
    server: serving.Server
    smtp: int
    pop3: int

    def workers(self) -> set[int]:
        return children(self.server) - {console(self.server)}

    def kill(self, worker: int) -> None:
        os.kill(worker, signal.SIGKILL)
        assert self.server.event("worker-died")["worker"] == str(worker)


def children(server: serving.Server) -> set[int]:
    return set(map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()))


def console(server: serving.Server) -> int:
    """The process of the console that began last."""
    return int(server.events("console-serving")[-1]["process"])


@pytest.fixture
def family() -> Iterator[Family]:
    with serving.site() as site:
        smtp, pop3 = site.ports.take(), site.ports.take()
        site.configure(
            [("smtp", f"tcp:127.0.0.1:{smtp}"), ("pop3", f"tcp:127.0.0.1:{pop3}")],
            "[limits]\nconnections = 12\nconnections_per_address = 8\n",
            top=f"workers = {WORKERS}\n",
        )
        with site.serve(
            command=serving.patched({"mailserver.server.supervisor:RESPAWN_DELAY": 0.0})
        ) as server:
            server.event("console-serving")
            yield Family(site, server, smtp, pop3)


def greeting(port: int, source: str = "127.0.0.1") -> tuple[socket.socket, bytes]:
    sock = socket.create_connection(("127.0.0.1", port), serving.LIMIT, source_address=(source, 0))
    return sock, sock.recv(100)[:3]


def logged_in(port: int) -> poplib.POP3:
    client = poplib.POP3("127.0.0.1", port, timeout=serving.LIMIT)
    client.user("ann")
    client.pass_(serving.PASSWORD)
    return client


def send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=serving.LIMIT) as client:
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")


def test_the_limits_are_those_of_the_whole_server(family: Family) -> None:
    held = []
    try:
        for n in range(20):
            sock, code = greeting(family.smtp)
            held.append(sock)
            assert code == (b"220" if n < 8 else b"421")
        for n in range(6):
            sock, code = greeting(family.smtp, "127.0.0.2")
            held.append(sock)
            assert code == (b"220" if n < 4 else b"421")
    finally:
        for sock in held:
            sock.close()
    until_served(family.smtp)  # the places are given back


def until_served(port: int) -> None:
    end = time.monotonic() + serving.LIMIT
    while time.monotonic() < end:
        sock, code = greeting(port)
        sock.close()
        if code == b"220":
            return
    raise AssertionError("nobody is let in any more")


def test_a_worker_that_dies_is_replaced_and_its_sessions_leave_nothing(family: Family) -> None:
    """Kill them all, one after the other, while clients hold all places, a lock and a message half-way."""
    send(family.smtp)
    reader = logged_in(family.pop3)
    reader.dele(1)
    senders = [smtplib.SMTP("127.0.0.1", family.smtp, timeout=serving.LIMIT) for _ in range(7)]
    for sender in senders:
        sender.ehlo()
        sender.mail("a@client.test")
        sender.rcpt("ann@example.test")
        assert sender.docmd("DATA")[0] == 354
        sender.send(b"x" * 600_000)
    before = family.workers()
    assert len(before) == WORKERS
    for worker in before:
        family.kill(worker)
    for client in (reader, *senders):
        client.close()
    until_served(family.smtp)
    send(family.smtp)
    again = logged_in(family.pop3)
    assert again.stat()[0] == 2
    again.quit()
    family.server.signal(signal.SIGHUP)
    family.server.event("reloaded")
    assert not family.workers() & before
    assert list((family.site.mail / ".queue" / "tmp").iterdir()) == []


def test_one_mailbox_one_session_whichever_worker(family: Family) -> None:
    send(family.smtp)
    first = logged_in(family.pop3)
    for _ in range(2 * WORKERS):
        other = poplib.POP3("127.0.0.1", family.pop3, timeout=serving.LIMIT)
        other.user("ann")
        with pytest.raises(poplib.error_proto, match="IN-USE"):
            other.pass_(serving.PASSWORD)
        other.quit()
    first.quit()
    logged_in(family.pop3).quit()


def test_they_die_with_their_parent() -> None:
    """A new server finds the state and the ports free."""
    with serving.site() as site:
        port = site.ports.take()
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], top=f"workers = {WORKERS}\n")
        server = site.serve()
        workers = children(server)
        connection, code = greeting(port)
        assert code == b"220"
        server.kill()
        with connection:
            assert connection.recv(100) == b""
        for worker in workers:
            wait_for_end(worker)
        with site.serve():
            send(port)
        assert len(site.messages("ann")) == 1


def wait_for_end(pid: int) -> None:
    """Of a process that is nobody's child here."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([fd], [], [], serving.LIMIT)[0]
    finally:
        os.close(fd)

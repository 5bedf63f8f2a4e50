"""The console's process: beside the workers, over reloads, replaced when it dies, gone with the server."""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import serving


class Begun(NamedTuple):
    site: serving.Site
    server: serving.Server
    smtp: int

    @property
    def console(self) -> int:
        return int(self.server.events("console-serving")[-1]["process"])

    def send(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.smtp, timeout=serving.LIMIT) as client:
            client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")


@pytest.fixture
def begun() -> Iterator[Begun]:
    with serving.site() as site:
        port = site.ports.take()
        site.configure([("smtp", f"tcp:127.0.0.1:{port}")], top="workers = 1\n")
        with site.serve(
            command=serving.patched({"mailserver.server.companion:RESPAWN_DELAY": 0.05})
        ) as server:
            server.event("console-serving")
            yield Begun(site, server, port)


def test_it_lives_over_reloads(begun: Begun) -> None:
    before = begun.console
    begun.server.signal(signal.SIGHUP)
    begun.server.event("reloaded")
    assert begun.console == before
    os.kill(before, 0)


def test_one_that_dies_is_replaced_and_mail_does_not_notice(begun: Begun) -> None:
    with smtplib.SMTP("127.0.0.1", begun.smtp, timeout=serving.LIMIT) as client:
        for _ in range(3):
            before = begun.console
            os.kill(before, signal.SIGKILL)
            assert begun.server.event("console-died") == {"process": str(before), "code": "-9"}
            client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
            begun.server.event("console-serving")
            assert begun.console != before
    assert begun.server.events("worker-died") == []
    assert len(begun.site.messages("ann")) == 3


def test_it_ends_with_the_server(begun: Begun) -> None:
    console = begun.console
    begun.server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(console, 0)
    assert begun.server.events("console-died") == []


def _descriptors(pid: int) -> Iterator[str]:
    """What a process has open; it may close some of it meanwhile."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")


def test_it_holds_no_port_of_the_mail(begun: Begun) -> None:
    """A listener that a reload takes away is closed everywhere."""
    links = set(_descriptors(begun.console))
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    inodes = {
        f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{begun.smtp:04X}") and row[3] == "0A"
    }
    assert inodes
    assert not inodes & links

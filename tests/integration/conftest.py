"""Started servers, and the real programs that talk to them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import programs
import pytest
import serving


class Running(NamedTuple):
    """A server with every kind of listener, and how to reach them."""

    site: serving.Site
    server: serving.Server
    smtp: int
    smtps: int
    lmtp: int
    pop3: int
    pop3s: int
    smtp_socket: Path
    lmtp_socket: Path
    pop3_socket: Path

    @property
    def certificate(self) -> str:
        return str(self.site.certificate)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One server for the tests of a module: ann, bob and postmaster of example.test, alike in password."""
    with serving.site() as site:
        ports = {name: site.ports.take() for name in ("smtp", "smtps", "lmtp", "pop3", "pop3s")}
        sockets = {name: site.root / name for name in ("smtp_socket", "lmtp_socket", "pop3_socket")}
        site.configure(
            [
                ("smtp", f"tcp:127.0.0.1:{ports['smtp']}"),
                ("smtp", f"tls:127.0.0.1:{ports['smtps']}"),
                ("smtp", f"unix:{sockets['smtp_socket']}"),
                ("lmtp", f"tcp:127.0.0.1:{ports['lmtp']}"),
                ("lmtp", f"unix:{sockets['lmtp_socket']}"),
                ("pop3", f"tcp:127.0.0.1:{ports['pop3']}"),
                ("pop3", f"tls:127.0.0.1:{ports['pop3s']}"),
                ("pop3", f"unix:{sockets['pop3_socket']}"),
            ]
        )
        with site.serve() as server:
            yield Running(site, server, **ports, **sockets)


@pytest.fixture
def mailboxes(running: Running) -> Iterator[serving.Site]:
    """The mailboxes of the running server, empty before and after."""
    yield running.site
    for user in serving.USERS:
        running.site.empty(user)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program, at home in a temporary directory."""
    return partial(programs.run, tmp_path)

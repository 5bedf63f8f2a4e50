"""The console's link to a server by Perspective Broker: over a UNIX socket, TLS, or loopback.

Not here: the protocol (`console.pb.client`), which needs Twisted.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from mailserver.admin.refused import Refused
from mailserver.cli.console.link import Asked, Given
from mailserver.config.load import twisted_trouble
from mailserver.transport.endpoint import Endpoint, EndpointError, parse

if TYPE_CHECKING:
    from mailserver.console.pb.client import Remote as Connection

FORMS = "unix:/PATH, tls:HOST:PORT or tcp:127.0.0.1:PORT"

Credentials = Callable[[], tuple[str, str]]
"""Asks for a name and a password."""


class Remote:
    """A perspective on another server. Its event loop runs while something is asked."""

    def __init__(self, connection: Connection, runner: asyncio.Runner) -> None:
        self._connection = connection
        self._runner = runner

    @classmethod
    def open(
        cls, address: str, authorities: str | None, credentials: Credentials, runner: asyncio.Runner
    ) -> Remote:
        """Connect and log in; who is an operator by his account is not asked. Raises Refused, OSError."""
        at = _endpoint(address)
        try:
            from mailserver.console.pb.client import Remote as Connection
        except ImportError as error:
            raise Refused(f"{address} {twisted_trouble(error)}") from None
        connection = Connection()
        runner.run(connection.connect(at, _tls(authorities) if at.tls else None))
        if at.kind != "unix" or not runner.run(connection.login()):
            runner.run(connection.authenticate(*credentials()))
        return cls(connection, runner)

    def who(self) -> str:
        found = self._call("whoami")
        return f"{found['name']} {found['role']}"

    def read(self, text: str) -> Asked:
        found = self._call("asks", text)
        return Asked(
            text, found["words"], found["given"], tuple(found["secrets"]), found["stream"], found["question"]
        )

    def perform(self, asked: Asked, secrets: Given) -> Any:
        return self._call("phrase", asked.text, dict(secrets))

    def watch(self, asked: Asked, secrets: Given) -> Iterator[Any]:
        values = self._connection.watch(asked.text, dict(secrets))
        try:
            while (value := self._runner.run(_next(values))) is not _END:
                yield value
        finally:
            self._runner.run(_close(values))

    def complete(self, text: str) -> list[str]:
        return cast(list[str], self._call("complete", text))

    def help(self, words: str) -> str:
        return str(self._call("help", words))

    def _call(self, method: str, *args: object) -> Any:
        return self._runner.run(self._connection.call(method, *args))


def _endpoint(address: str) -> Endpoint:
    """Raises Refused."""
    try:
        at = parse(address)
    except EndpointError:
        at = None
    if at is None or at.kind == "fd" or at.target == "*":
        raise Refused(f"{address!r} is no address of a server, expected {FORMS}")
    if at.kind == "tcp" and not at.tls and not _is_loopback(at.target):
        raise Refused(f"{address}: a password goes to other machines over TLS alone: tls:HOST:PORT")
    return at


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(authorities: str | None) -> ssl.SSLContext:
    """Raises Refused, OSError."""
    try:
        return ssl.create_default_context(cafile=authorities)
    except ssl.SSLError:
        raise Refused(f"{authorities}: expected certificates in PEM form") from None


_END = object()


async def _next(values: Any) -> Any:
    return await anext(values, _END)


async def _close(values: Any) -> None:
    await values.aclose()

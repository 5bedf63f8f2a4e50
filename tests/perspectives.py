"""Perspective Broker for tests: a front desk without a server behind it, a listener, stock clients.

A client is a program of its own with Twisted's reactor, which is what an operator would write; what it
prints, one JSON value a line, is what the test looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from serving import HASH
from twisted.spread.jelly import jelly

from mailserver.admin.accounts import Accounts
from mailserver.admin.administration import Administration
from mailserver.admin.operators import Operators
from mailserver.admin.requests import Answer
from mailserver.admin.server import NoServer
from mailserver.config.model import Config, Passwords
from mailserver.config.values import Duration
from mailserver.console import broker
from mailserver.console.desk import FrontDesk
from mailserver.console.pb.octets import Reader
from mailserver.mail.address import parse_mailbox
from mailserver.pool import Pool
from mailserver.transport.connections import Connections
from mailserver.transport.endpoint import parse
from mailserver.transport.listener import Gate, Limits, Listener

DOMAINS = ("example.test", "other.test")
USER = "ann@example.test"
OPERATORS = {
    "owen": ("owner", ()),
    "dora": ("domain-admin", ("example.test",)),
    "hedy": ("help-desk", ()),
    "audie": ("auditor", ()),
}


@dataclass
class Console:
    """The `[console]` table."""

    python: bool = False
    idle_timeout: float = 60.0


class Behind(NoServer):
    """A server whose queue and log a test writes."""

    def __init__(self) -> None:
        self.queue: tuple = ()
        self.looks = 0  # that were taken at it
        self._readers: list[asyncio.Queue[str]] = []

    async def ask_queue(self, request):
        self.looks += 1
        return Answer(listed=tuple(entry for entry in self.queue if entry.id > request.after))

    async def events(self) -> AsyncIterator[str]:
        lines: asyncio.Queue[str] = asyncio.Queue()
        self._readers.append(lines)
        try:
            while True:
                yield await lines.get()
        finally:
            self._readers.remove(lines)

    @property
    def readers(self) -> int:
        return len(self._readers)

    @property
    def unread(self) -> int:
        return sum(lines.qsize() for lines in self._readers)

    def log(self, line: str) -> None:
        for lines in self._readers:
            lines.put_nowait(line)


class Office:
    """All that is behind a front end: accounts and operators on disk, the administration, a desk."""

    def __init__(self, path: Path) -> None:
        (path / "config" / "domains").mkdir(parents=True)
        self.config = Config(
            hostname="mx.example.test",
            directory=str(path / "config"),
            maildirs=str(path / "maildirs"),
            passwords=Passwords(upgrade=False, failure_delay=Duration(0)),
        )
        self.accounts = Accounts(self.config.domains, self.config.maildirs)
        self.pool = Pool("office", 2, 100)
        self.server = Behind()
        self.operators = Operators(self.config, self.pool)
        self.administration = Administration(self.config, self.server, self.pool, self.operators)
        self.console = Console()
        self.connections = Connections()
        self.desk = FrontDesk(self.administration, self.operators, lambda: self.console, self.connections)
        for domain in DOMAINS:
            self.accounts.add_domain(domain)
        self.accounts.directory.add_user(parse_mailbox(USER), HASH)
        (path / "config" / "operators").mkdir()
        for name, (role, domains) in OPERATORS.items():
            lines = [HASH, f"role = {role}", *([f"domains = {' '.join(domains)}"] if domains else [])]
            (path / "config" / "operators" / name).write_text("\n".join(lines) + "\n")

    @contextlib.contextmanager
    def listening(self, endpoint: str, front=broker, **settings) -> Iterator[Listener]:
        """A front end at an endpoint; `.port` is where it listens."""
        gate = Gate(Limits(connections=100, per_address=0, handshake_timeout=5))
        listener = Listener(parse(endpoint), front.factory(self.desk), gate=gate, **settings)
        listener.open()
        listener.start()
        listener.port = listener.endpoint.kind != "unix" and listener.sockets[0].getsockname()[1]
        try:
            yield listener
        finally:
            listener.close()


# ---- stock clients

_PROGRAM = '''
import json, sys
from twisted.internet import defer, endpoints, reactor
from twisted.spread import pb

def say(value):
    print(json.dumps(value), flush=True)

async def wrong(deferred):
    """The text of the error that a call ends with."""
    try:
        await deferred
    except Exception as error:
        kind = getattr(error, "remoteType", type(error).__name__)
        say([kind.decode() if isinstance(kind, bytes) else kind, str(error)])
    else:
        say("no error")

def connect(factory):
    kind, _, rest = sys.argv[1].partition(":")
    if kind == "unix":
        reactor.connectUNIX(rest, factory)
    elif kind == "tcp":
        reactor.connectTCP("127.0.0.1", int(rest), factory)
    else:
        from twisted.internet import ssl
        port, authority = rest.split(":", 1)
        with open(authority) as file:
            trusted = ssl.Certificate.loadPEM(file.read())
        endpoint = endpoints.wrapClientTLS(
            ssl.optionsForClientTLS("mx.example.test", trustRoot=trusted),
            endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", int(port)))
        endpoint.connect(factory).addErrback(factory._failAll)

async def main():
    factory = pb.PBClientFactory()
    connect(factory)
    root = await factory.getRootObject()
{body}

failures = []

def begin():
    done = defer.ensureDeferred(main())
    done.addErrback(failures.append)
    done.addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(begin)
reactor.run()
if failures:
    failures[0].printTraceback(sys.stderr)
    sys.exit(1)
'''


class Raw:
    """A client that says what it likes, octet by octet."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._expressions = Reader(1 << 30)
        self._numbers = itertools.count(1)

    @classmethod
    async def connect(cls, path: str) -> Self:
        raw = cls(*await asyncio.open_unix_connection(path))
        assert await raw.hear() == [b"pb"]
        raw.writer.write(b"\x02\x82pb")
        assert await raw.hear() == [b"version", 6]
        raw.say([b"version", 6])
        return raw

    def say(self, expression: object) -> None:
        self.writer.write(encoded(expression))

    async def hear(self) -> object:
        """The next expression; None at the end."""
        while (expression := self._expressions.next()) is None:
            if not (octets := await self._reader.read(65536)):
                return None
            self._expressions.feed(octets)
            await asyncio.sleep(0)  # what is there already is read without waiting: not all in one callback
        return expression

    def begin(self, target: object, name: bytes, *args: object, **kwargs: object) -> int:
        number = next(self._numbers)
        self.say([b"message", number, target, name, 1, jelly(args), jelly(kwargs)])
        return number

    async def call(self, target: object, name: bytes, *args: object, **kwargs: object) -> object:
        """What comes back, as it stands on the wire: [answer, value] or [error, value]."""
        number = self.begin(target, name, *args, **kwargs)
        while (heard := await self.hear()) is not None:
            if heard[1] == number:
                return [heard[0], heard[2]]
        return None

    async def login(self) -> int:
        """The number of the perspective."""
        [kind, [remote, number]] = await self.call(b"root", b"login")
        assert (kind, remote) == (b"answer", b"remote")
        return number

    async def rest(self) -> list[object]:
        """All that comes until the server closes."""
        heard = []
        with contextlib.suppress(ConnectionError):
            while (expression := await self.hear()) is not None:
                heard.append(expression)
        return heard

    def close(self) -> None:
        self.writer.transport.abort()


def encoded(expression: object) -> bytes:
    """As Twisted writes it."""
    from twisted.spread.banana import encode

    return encode(expression)


async def client(address: str, body: str) -> list[object]:
    """Run the body of a coroutine that has `root`, and helpers; what it `say`s."""
    program = _PROGRAM.replace("{body}", "\n".join("    " + line for line in body.strip("\n").splitlines()))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, address, stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]

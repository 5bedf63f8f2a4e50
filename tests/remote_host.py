"""A host that takes mail by SMTP or LMTP as a script says: it refuses, stalls, hangs up or talks nonsense.

A script maps a step to what the host does there: a reply (without CRLF; several lines with line feeds),
octets to send as they are, HANGUP, STALL, DEAF, or a list of these for the first, second, ... time (the last one
stays). Steps: greeting EHLO HELO LHLO STARTTLS AUTH MAIL RCPT DATA content end RSET QUIT; `RCPT ann@b.test`
and `end ann@b.test` (LMTP) are for one recipient. `content` happens in the midst of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self


class Act(Enum):
    HANGUP = "hang up"
    STALL = "say nothing"
    DEAF = "read nothing any more"


HANGUP, STALL, DEAF = Act
Action = str | bytes | Act
Script = Mapping[str, Action | list[Action]]

USUAL: Script = {
    "greeting": "220 remote.test ESMTP",
    "EHLO": "250-remote.test\n250-8BITMIME\n250-SIZE 1000000\n250-SMTPUTF8\n250-DSN\n250 ENHANCEDSTATUSCODES",
    "HELO": "250 remote.test",
    "LHLO": "250-remote.test\n250-8BITMIME\n250-SMTPUTF8\n250 SIZE 1000000",
    "STARTTLS": "220 2.0.0 go ahead",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go ahead",
    "end": "250 2.0.0 taken",
    "RSET": "250 2.0.0 ok",
    "QUIT": "221 2.0.0 bye",
}

# for a host that takes many commands at once (RFC 2920)
PIPELINING: Script = {
    verb: f"{USUAL[verb]}\n250 PIPELINING".replace("\n250 ", "\n250-", 1) for verb in ("EHLO", "LHLO")
}


class Choice:
    """What a script says for each step, in turn."""

    def __init__(self, script: Script) -> None:
        self._script = {**USUAL, **script}
        self._times: dict[str, int] = {}

    def take(self, *steps: str) -> Action | None:
        """The action of the first step that the script knows."""
        for step in steps:
            if step in self._script:
                actions = self._script[step]
                if not isinstance(actions, list):
                    return actions
                time = self._times.get(step, 0)
                self._times[step] = time + 1
                return actions[min(time, len(actions) - 1)]
        return None


@dataclass
class Taken:
    """A message the host took or refused at its end: the commands, the content as it was on the wire, the last
    reply that was given to it, and when (monotonic)."""

    mail: str
    rcpts: list[str]
    wire: bytes = b""
    reply: str = ""
    at: float = 0.0


@dataclass
class RemoteHost:
    """Use as a context: listens on a loopback port, or at `path`, meanwhile."""

    script: Script = field(default_factory=dict)
    tls: ssl.SSLContext | None = None  # for STARTTLS
    implicit: bool = False
    path: str | None = None
    lmtp: bool = False
    address: str = "127.0.0.1"
    wants_port: int = 0

    def __post_init__(self) -> None:
        self.choice = Choice(self.script)
        self.commands: list[str] = []
        self.messages: list[Taken] = []
        self.connections = 0
        self.open = 0
        self.stalled = 0
        self.changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        tls = self.tls if self.implicit else None
        if self.path:
            self._server = await asyncio.start_unix_server(self._accept, self.path)
            self.port = 0
        else:
            self._server = await asyncio.start_server(self._accept, self.address, self.wants_port, ssl=tls)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self.closed()
        await self._server.wait_closed()

    async def closed(self) -> None:
        """Wait until no client is connected."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.open == 0)

    async def received(self) -> None:
        """Wait for a message's end of data."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.messages)

    async def stalling(self) -> None:
        """Wait until it says nothing to somebody."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.stalled)

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1
        self.open += 1
        try:
            await _Conversation(self, reader, writer).run()
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self.open -= 1
            await self.notify()


class _Over(Exception):
    pass


class _Conversation:
    def __init__(self, host: RemoteHost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.host = host
        self.reader = reader
        self.writer = writer
        self.taken = Taken("", [])

    async def run(self) -> None:
        with contextlib.suppress(_Over):
            await self.do("greeting")
            while line := await self.reader.readline():
                assert line.endswith(b"\r\n"), line
                command = line[:-2].decode()
                self.host.commands.append(command)
                await self.one(command, command.split(" ")[0].upper())

    async def do(self, *steps: str) -> str:
        """Act as the script says; the reply that was given."""
        action = self.host.choice.take(*steps)
        if action is HANGUP:
            raise _Over
        if action is STALL:
            self.host.stalled += 1
            await self.host.notify()
            await self.reader.read()  # to the end of the connection
            raise _Over
        while action is DEAF and not self.writer.transport.is_closing():
            await asyncio.sleep(0.01)
        if isinstance(action, str):
            self.writer.write(action.replace("\n", "\r\n").encode() + b"\r\n")
        elif isinstance(action, bytes):
            self.writer.write(action)
        await self.writer.drain()
        return action if isinstance(action, str) else ""

    async def one(self, command: str, verb: str) -> None:
        if verb == "MAIL":
            reply = await self.do(verb)
            self.taken = Taken(command, [])
        elif verb == "RCPT":
            found = re.search("<(.*)>", command)
            reply = await self.do(f"RCPT {found[1] if found else ''}", verb)
            if reply.startswith("2"):
                self.taken.rcpts.append(command)
        elif verb == "DATA":
            if (await self.do(verb)).startswith("354"):
                await self.content()
        elif verb == "AUTH":
            reply = await self.do(verb)
            while reply.startswith("334"):
                self.host.commands.append((await self.reader.readline()).decode().rstrip("\r\n"))
                reply = await self.do(verb)
        elif verb == "STARTTLS":
            if (await self.do(verb)).startswith("220"):
                assert self.host.tls
                clear = self.writer.transport
                try:
                    await self.writer.start_tls(self.host.tls)
                finally:  # a failed handshake leaves a writer behind that cannot even be deleted
                    if self.writer.transport is None:
                        self.writer._transport = clear  # type: ignore[attr-defined]
        else:
            await self.do(verb)
            if verb == "QUIT":
                raise _Over

    async def content(self) -> None:
        wire = b"\r\n"
        while not wire.endswith(b"\r\n.\r\n"):
            block = await self.reader.read(65536)
            if not block:
                raise _Over
            wire += block
            if self.host.choice.take("content") is not None:
                await self.do("content")
        self.taken.wire = wire[2:]
        self.host.messages.append(self.taken)
        await self.host.notify()
        if not self.host.lmtp:
            await self.answer("end")
            return
        for rcpt in self.taken.rcpts:
            found = re.search("<(.*)>", rcpt)
            await self.answer(f"end {found[1] if found else ''}", "end")

    async def answer(self, *steps: str) -> None:
        self.taken.reply = await self.do(*steps)
        self.taken.at = time.monotonic()

"""Clients for torture: SMTP and POP3 on asyncio streams, which trust no answer and can be cut at any point.

A message carries its id and a checksum of its body, so a copy on disk or on the wire proves itself whole.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import re
import socket
import ssl
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from torture.running import DOMAIN, PASSWORD

ANSWER_SECONDS = 60.0
_numbers = itertools.count(1)
_ID = re.compile(rb"^Message-ID: <([\w.]+)@client\.test>\r?$", re.MULTILINE)
_SUM = re.compile(rb"^X-Body: (\w+) (\d+)\r?$", re.MULTILINE)


class Mail(NamedTuple):
    """A message with CRLF line ends, as a client sends it, before dots are stuffed."""

    id: str
    data: bytes

    @classmethod
    def make(cls, octets: int) -> Mail:
        """A new one, with a body of about so many octets; some of its lines begin with dots."""
        number = next(_numbers)
        line = b".%d " % number + b"x" * 60 + b"\r\n"
        body = line * max(1, octets // len(line)) + b".\r\nlast\r\n"
        head = (
            f"Message-ID: <m{number}@client.test>\r\nSubject: torture\r\nX-Body: {_sum(body)} {len(body)}\r\n"
        )
        return cls(f"m{number}", head.encode() + b"\r\n" + body)

    @property
    def stuffed(self) -> bytes:
        return self.data.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def whole_id(stored: bytes) -> str | None:
    """The id of a message as stored (LF) or as retrieved (CRLF); None if it is torn or not ours."""
    head, _, body = stored.replace(b"\r\n", b"\n").partition(b"\n\n")
    mail_id, told = _ID.search(head), _SUM.search(head)
    body = body.replace(b"\n", b"\r\n")
    if not mail_id or not told or _sum(body).encode() != told[1]:
        return None
    return mail_id[1].decode()


class Closed(ConnectionError):
    """The server has ended the connection."""


class Connection:
    """Lines to and from a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            line = await self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise Closed
        return line[:-2]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(ANSWER_SECONDS):
            await self.writer.drain()

    def reset(self) -> None:
        """Gone, with a RST instead of a FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(5):
                await self.writer.wait_closed()
        except TimeoutError:  # before OSError, whose kind it is
            self.writer.transport.abort()
        except OSError:  # gone; an SSL transport of Python 3.11.2 cannot be aborted then
            return

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Smtp(Connection):
    """An SMTP client, after its greeting."""

    @classmethod
    async def connect(cls, place: int | Path, tls: ssl.SSLContext | None = None) -> Smtp:
        """To a port of loopback, with TLS from the first octet if it is given, or to a UNIX socket."""
        if isinstance(place, Path):
            connection = cls(*await asyncio.open_unix_connection(place))
        else:
            connection = cls(*await asyncio.open_connection("127.0.0.1", place, ssl=tls))
        try:
            greeting = await connection.reply()
            if greeting[:3] == b"421":
                raise Closed
            assert greeting[:4] == b"220 ", greeting
        except BaseException:
            await connection.close()
            raise
        return connection

    async def reply(self) -> bytes:
        """The last line of a reply."""
        while (line := await self.line())[3:4] == b"-":
            pass
        return line

    async def command(self, line: bytes) -> bytes:
        await self.send(line + b"\r\n")
        return await self.reply()

    async def hello(self) -> None:
        reply = await self.command(b"EHLO client.test")
        assert reply[:3] == b"250", reply

    async def login(self, user: str) -> None:
        response = base64.b64encode(f"\0{user}@{DOMAIN}\0{PASSWORD}".encode())
        reply = await self.command(b"AUTH PLAIN " + response)
        assert reply[:3] == b"235", reply

    async def deliver(
        self,
        mail: Mail,
        recipients: Sequence[str],
        size: bool = True,
        sender: str = "torture@client.test",
    ) -> bytes:
        """Send a message, after `hello`; the reply that decides. RCPT and DATA go out with MAIL (RFC 2920).

        Recipients are users here, or addresses.
        """
        parameter = b" SIZE=%d" % len(mail.data) if size else b""
        lines = [f"MAIL FROM:<{sender}>".encode() + parameter]
        lines += [f"RCPT TO:<{to if '@' in to else f'{to}@{DOMAIN}'}>".encode() for to in recipients]
        await self.send(b"\r\n".join([*lines, b"DATA", b""]))
        replies = [await self.reply() for _ in range(len(lines) + 1)]
        if refused := [reply for reply in replies[:-1] if reply[:1] != b"2"]:
            assert replies[-1][:3] != b"354", replies
            await self.command(b"RSET")
            return refused[0]
        assert replies[-1][:3] == b"354", replies
        await self.send(mail.stuffed)
        return await self.reply()


class Pop3(Connection):
    """A POP3 client, after its greeting."""

    @classmethod
    async def connect(cls, port: int) -> Pop3:
        connection = cls(*await asyncio.open_connection("127.0.0.1", port))
        try:
            greeting = await connection.line()
            assert greeting.startswith((b"+OK", b"-ERR [SYS/TEMP]")), greeting
            if greeting.startswith(b"-ERR"):
                raise Closed
        except BaseException:
            await connection.close()
            raise
        return connection

    async def command(self, line: bytes) -> bytes:
        await self.send(line + b"\r\n")
        return await self.line()

    async def login(self, user: str, password: str = PASSWORD) -> bytes:
        await self.command(f"USER {user}@{DOMAIN}".encode())
        return await self.command(f"PASS {password}".encode())

    async def listing(self, command: bytes) -> list[bytes]:
        """The lines of a multi-line answer, dots unstuffed; the answer must be +OK."""
        first = await self.command(command)
        assert first.startswith(b"+OK"), first
        lines = []
        while (line := await self.line()) != b".":
            lines.append(line.removeprefix(b"."))
            if len(lines) % 100 == 0:
                await asyncio.sleep(0)  # the other clients in this process have their turn
        return lines

    async def count(self) -> int:
        return int((await self.command(b"STAT")).split()[1])

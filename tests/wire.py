"""Connections on which dialogues are played against a started server: TCP, STARTTLS, TLS and UNIX sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import serving
from conversation import Dialogue

KINDS = ("plain", "starttls", "tls", "unix")
# What is no setting, because it is the same for everybody: how long a client in error is made to wait.
IMPATIENT = serving.patched(
    {
        "mailserver.smtp.conversation:ERROR_DELAY": 0.0,
        "mailserver.smtp.server:SMUGGLING_WAIT": 0.05,
        "mailserver.mta.guesses:Line.FREE": 1_000_000,
    }
)


def begins_tls(dialogue: Dialogue) -> bool:
    return any(step.kind == "T!" or "STARTTLS" in step.text or "STLS" in step.text for step in dialogue.steps)


def endpoint(kind: str, place: int | Path) -> str:
    """Of a listener; sockets are for everybody."""
    if isinstance(place, Path):
        return f"unix:{place}:mode=666"
    return f"{'tls' if kind == 'tls' else 'tcp'}:127.0.0.1:{place}"


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Wire:
    """A connection on which a dialogue is played."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._greeting = b""

    async def receive(self) -> bytes:
        held, self._greeting = self._greeting, b""
        return held or await self._reader.read(65536)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def start_tls(self) -> None:
        await self._writer.start_tls(client_tls())

    async def over_tls(self, *commands: tuple[bytes, bytes]) -> None:
        """Begin TLS by `commands`, each with the beginning of its last line of answer."""
        greeting = await self._reader.readline()
        for command, answer in commands:
            self.send(command + b"\r\n")
            while not (await self._reader.readline()).startswith(answer):
                pass
        await self.start_tls()
        self._greeting = greeting


@contextlib.asynccontextmanager
async def connected(
    place: int | Path, *, tls: bool = False, proxied: str = "", uid: int | None = None
) -> AsyncIterator[Wire]:
    """A connection to a port of loopback, or to a socket, by another user's `uid`."""
    if isinstance(place, Path):
        reader, writer = await asyncio.open_unix_connection(sock=_connected(place, uid))
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", place)
    try:
        if proxied:
            writer.write(f"PROXY TCP4 {proxied} 127.0.0.1 40000 110\r\n".encode())
        if tls:
            await writer.start_tls(client_tls())
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _connected(place: Path, uid: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        with _as_user(uid):
            sock.connect(str(place))
    except OSError:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def _as_user(uid: int | None) -> Iterator[None]:
    """A socket's peer is who connects it (SO_PEERCRED of unix(7))."""
    before = os.geteuid()
    if uid is not None:
        os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)

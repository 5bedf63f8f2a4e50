"""The control socket: a line with a request, and lines of JSON with what came of it.

    user list                                      {"value": {"user": "ann@example.org"}}
    {"do": "user show", "with": {"address": ...}}  {"done": 1}, or at any time {"refused": "why"}

A request is a phrase as people type it, or JSON with the words of an operation and what is said with them,
which may be a secret. There is one at a time for each connection, and as many as it likes one after the
other; a stream goes on until the client leaves. Whose process it is decides who it is.
Not here: phrases and operations (`admin`), the client (`client`).
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

from mailserver import maillog
from mailserver.admin import phrases
from mailserver.admin.refused import Refused, told
from mailserver.admin.roles import Operator, Role
from mailserver.admin.table import TABLE
from mailserver.console.desk import FrontDesk
from mailserver.transport.connections import About
from mailserver.transport.listener import Peer

FRONT = "control"
LINE = 64 * 1024  # octets of a request
BLOCK = 64 * 1024  # octets of an answer that are made before the client has taken them
STRANGER = 5.0  # seconds for a request of who is no operator
WRITE = 120.0  # seconds in which a client takes the next octets


class Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """A request in JSON."""

    do: str
    given: dict[str, str | int | bool | list[str] | None] = field(name="with", default_factory=dict)


def factory(desk: FrontDesk) -> Callable[[Peer], asyncio.BaseProtocol]:
    """What makes the protocol of a connection."""
    return lambda peer: Control(desk, peer)


class _Gone(Exception):
    """The client has left, or takes nothing."""


class Control(asyncio.StreamReaderProtocol):
    """One connection."""

    def __init__(self, desk: FrontDesk, peer: Peer) -> None:
        self._input = asyncio.StreamReader(limit=LINE)
        super().__init__(self._input, self._begin)
        self._desk = desk
        self._peer = peer
        self._operator = None if peer.uid is None else desk.operators.of_uid(peer.uid)
        self._task: asyncio.Task[None] | None = None
        self._at_work = False  # on an operation, which is never broken off half-way
        self._ending = False
        self._admitted = False

    # ---- called by the transport and by Connections

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(self._bury)  # also of a task that was cancelled before it began
        self._desk.connections.add(self)

    def eof_received(self) -> bool:
        """A client may say its last lines and half-close (`socat -`): it still hears the answers."""
        super().eof_received()
        if self._has_left():
            self._break_off()
        return True

    def _has_left(self) -> bool:
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._break_off()

    def about(self) -> About:
        return About(FRONT, self._peer.address, "" if self._operator is None else self._operator.name, False)

    def drain(self) -> None:
        """End when the operation under way is through."""
        self._break_off()

    def abort(self) -> None:
        """End now."""
        self._writer.transport.abort()

    def _bury(self, _: asyncio.Task[None]) -> None:
        self._writer.close()
        if self._admitted and self._operator is not None:
            self._desk.local_places.dismiss(self._peer, self._operator.name)
        self._desk.connections.discard(self)

    def _break_off(self) -> None:
        self._ending = True
        if self._task is not None and not self._at_work:
            self._task.cancel()

    # ---- the conversation

    async def _serve(self) -> None:
        try:
            if self._operator is None:
                await self._next(STRANGER)  # or he would be cut off while he still speaks
                await self._say({"refused": "this account of the machine is no operator's"})
            elif not self._desk.local_places.admit(self._peer, self._operator.name):
                await self._next(STRANGER)
                await self._say({"refused": f"too many connections of {self._operator.name}"})
            else:
                self._admitted = True
                await self._converse(self._operator)
        except _Gone:
            self._writer.transport.abort()
        except Exception as error:
            maillog.fault("session-failed", error, peer=self._peer.address)
            self._writer.transport.abort()

    async def _converse(self, operator: Operator) -> None:
        while not self._ending and (line := await self._next()):
            if text := line.strip():
                await self._answer(operator, text)

    async def _next(self, timeout: float | None = None) -> bytes:
        """The next line; what stands before the end of the input is one; empty when there is no more."""
        try:
            async with asyncio.timeout(timeout or self._desk.settings().idle_timeout):
                return await self._input.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            return end.partial
        except asyncio.LimitOverrunError:
            await self._say({"refused": f"a request has at most {LINE} octets"})
        except TimeoutError:
            maillog.event("session-timed-out", peer=self._peer.address)
        except OSError:
            raise _Gone from None
        return b""

    async def _answer(self, operator: Operator, line: bytes) -> None:
        try:
            asked = self._read(operator, line)
            operation = TABLE.get(asked.do)
            if operation is not None and operation.stream:
                await self._stream(operator, asked)
                return
            result = await self._perform(operator, asked)
        except _Gone:
            raise
        except Exception as error:  # the administration has logged what is a fault
            await self._say({"refused": told(error)})
            return
        values = result if isinstance(result, (list, tuple)) else [] if result is None else [result]
        await self._say_all(values)
        await self._say({"done": len(values)})

    def _read(self, operator: Operator, line: bytes) -> Asked:
        """Raises Refused, of which the log tells."""
        try:
            return read(line, operator.role)
        except Refused:
            words = phrases.meant(line.decode(errors="replace"))
            self._desk.administration.refuse(operator, FRONT, words)
            raise

    async def _perform(self, operator: Operator, asked: Asked) -> Any:
        self._at_work = True
        try:
            return await self._desk.administration.perform(operator, FRONT, asked.do, asked.given)
        finally:
            self._at_work = False

    async def _stream(self, operator: Operator, asked: Asked) -> None:
        done = 0
        async for value in self._desk.administration.watch(operator, FRONT, asked.do, asked.given):
            await self._say({"value": value})
            done += 1
        await self._say({"done": done})

    # ---- answers

    async def _say_all(self, values: Iterable[Any]) -> None:
        """A block at a time: a long list is never there as text as well, and others have their turn."""
        block = bytearray()
        for value in values:
            block += _encoded({"value": value})
            if len(block) >= BLOCK:
                await self._send(bytes(block))
                block.clear()
                await asyncio.sleep(0)
        await self._send(bytes(block))

    async def _say(self, answer: dict[str, Any]) -> None:
        await self._send(_encoded(answer))

    async def _send(self, data: bytes) -> None:
        """Raises _Gone."""
        if self._writer.is_closing():
            raise _Gone
        self._writer.write(data)
        try:
            async with asyncio.timeout(WRITE):
                await self._writer.drain()
        except TimeoutError:
            maillog.event("client-stalled", peer=self._peer.address)
            raise _Gone from None
        except OSError:
            raise _Gone from None


def read(line: bytes, role: Role) -> Asked:
    """What is asked for. Raises Refused."""
    if line.startswith(b"{"):
        try:
            return _asked.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Refused('expected {"do": "words of an operation", "with": {"name": "value"}}') from None
    try:
        phrase = phrases.parse(line.decode(), role)
    except UnicodeDecodeError:
        raise Refused("expected UTF-8") from None
    return Asked(phrase.operation.words, phrase.given)  # type: ignore[arg-type]


def _encoded(answer: dict[str, Any]) -> bytes:
    return _encoder.encode(answer) + b"\n"


_asked = msgspec.json.Decoder(Asked)
_encoder = msgspec.json.Encoder()

"""Telnet for operators: Twisted's telnet and terminal keys, hosted on our transport, for a dialogue.

The client is asked to let us echo (RFC 857) and to send each key (RFC 858), and for its window's size
(RFC 1073). Who answers gets line editing; who does not is a program that sends lines, and gets none of the
escape sequences. Not here: the dialogue (`dialogue`), the line that is edited (`terminal`).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from twisted.conch import telnet
from twisted.conch.insults import insults
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory
from zope.interface import implementer

from mailserver.console.desk import FrontDesk
from mailserver.console.dialogue import FRONT, converse
from mailserver.console.terminal import CTRL_C, LINE, Terminal
from mailserver.transport.lines import Lines, LineTooLong
from mailserver.transport.listener import Peer
from mailserver.transport.twisted import Bounds, Hosted

PROTOCOL = FRONT
BACKSPACE = b"\x7f"
CTRL_U = b"\x15"
SEQUENCE = 64  # octets of an escape sequence


def factory(desk: FrontDesk) -> Callable[[Peer], asyncio.BaseProtocol]:
    """What makes the protocol of a connection."""

    def hosted(peer: Peer) -> asyncio.BaseProtocol:
        bounds = Bounds(idle=desk.settings().idle_timeout, backlog=desk.backlog)
        return Hosted(PROTOCOL, _Telnets(desk, peer), peer, bounds=bounds, connections=desk.connections)

    return hosted


class _Telnets(Factory):
    def __init__(self, desk: FrontDesk, peer: Peer) -> None:
        self._desk = desk
        self._peer = peer

    def buildProtocol(self, addr: object) -> Any:
        return Telnet(self._desk, self._peer)


@implementer(IHalfCloseableProtocol)
class Telnet(telnet.Telnet):
    """One connection: octets become keys or lines of a terminal."""

    transport: Any  # a `Transport`, where Twisted says ITransport
    terminal: Terminal
    _task: asyncio.Task[None]

    def __init__(self, desk: FrontDesk, peer: Peer) -> None:
        super().__init__()
        self._desk = desk
        self._peer = peer
        self._lines = Lines(LINE)
        self._keys = _Keys(lambda key: self.terminal.put(key))
        self.negotiationMap[telnet.NAWS] = self._resize
        self.commandMap |= {
            telnet.IP: self._interrupt,
            telnet.BRK: self._interrupt,
            telnet.AYT: self._say_yes,
            telnet.EC: lambda _: self._edit(BACKSPACE),
            telnet.EL: lambda _: self._edit(CTRL_U),
        }

    def connectionMade(self) -> None:
        self.terminal = Terminal(self.transport)
        self.will(telnet.ECHO).addErrback(lambda failure: self.terminal.edit(False))
        for asked in (self.will(telnet.SGA), self.do(telnet.NAWS)):
            asked.addErrback(lambda failure: None)  # a client may refuse
        self._task = asyncio.get_running_loop().create_task(self._converse())

    async def _converse(self) -> None:
        try:
            await converse(self._desk, self.terminal, self._peer, self._admit)
            self.terminal.say(["Goodbye."])
        except Exception as error:
            self.transport.fail(error)
        finally:
            self.transport.loseConnection()

    def _admit(self, name: str) -> bool:
        admitted = self._desk.places.admit(self._peer, name)
        if admitted:
            self.transport.admit(name)
        return admitted

    def dataReceived(self, data: bytes) -> None:
        try:
            super().dataReceived(data)
        except ValueError as error:
            if error.args[:1] != ("Stumped",):
                raise
            self.transport.loseConnection()  # a command that is none: not telnet, whoever it is

    def applicationDataReceived(self, data: bytes) -> None:
        if self.terminal.editing:
            self._keys.dataReceived(data)
            return
        self._lines.feed(data.replace(b"\r", b"\n"))  # RFC 854: CR NUL, which Twisted gives as CR
        while self._lines.ready:
            try:
                line = self._lines.next()
            except LineTooLong:
                self.terminal.say(["line too long"])
                continue
            if line is not None:
                self.terminal.put(line + b"\n")

    def readConnectionLost(self) -> None:
        """No operator at a terminal does this by halves; `printf ... | nc -N` waits for answers.

        Nor does who has nothing more to ask after a login that is still looked at: he has hung up.
        """
        if self.terminal.editing or not (self.transport.user or self.terminal.has_input):
            self.transport.loseConnection()
        else:
            self.terminal.end()

    def writeConnectionLost(self) -> None:
        """Never: our transport does not tell."""

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.terminal.hang_up()
        if self.transport.user:
            self._desk.places.dismiss(self._peer, self.transport.user)
        else:
            self._task.cancel()

    # ---- options and commands

    def enableLocal(self, option: bytes) -> bool:
        if option == telnet.ECHO:
            self.terminal.edit(True)
        return option in (telnet.ECHO, telnet.SGA)

    def disableLocal(self, option: bytes) -> None:
        if option == telnet.ECHO:
            self.terminal.edit(False)

    def enableRemote(self, option: bytes) -> bool:
        return option == telnet.NAWS

    def disableRemote(self, option: bytes) -> None:
        """A window whose size is not told stays as it was."""

    def negotiate(self, data: list[bytes]) -> None:
        if data:
            super().negotiate(data)

    def _resize(self, data: list[bytes]) -> None:
        if len(data) == 4:  # RFC 1073: two numbers of 16 bits
            width, _ = struct.unpack("!HH", b"".join(data))
            self.terminal.resize(width)

    def _edit(self, key: bytes) -> None:
        if self.terminal.editing:
            self.terminal.put(key)

    def _interrupt(self, _: None) -> None:
        self.terminal.put(CTRL_C)

    def _say_yes(self, _: None) -> None:
        self.transport.write(b"\r\n[yes]\r\n")


class _Keys(insults.ServerProtocol):
    """Keys of a terminal, one by one; sequences that are none of them are left out."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self.terminalProtocol = self
        self._put = put

    def dataReceived(self, data: bytes) -> None:
        for start in range(0, len(data), SEQUENCE):
            super().dataReceived(data[start : start + SEQUENCE])
            if self.state == b"bracket-escaped" and len(self.escBuf) > SEQUENCE:
                self.state = b"data"

    def keystrokeReceived(self, key: bytes, modifier: bytes | None) -> None:
        if modifier is None:
            self._put(key)

    def unhandledControlSequence(self, sequence: bytes) -> None:
        """A key that edits nothing."""

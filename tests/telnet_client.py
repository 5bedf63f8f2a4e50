"""A telnet client with a small terminal, for tests: what an operator would see, and the keys he has.

It answers options as real clients do (RFC 854, 857, 858, 1073); `screen` holds the lines as shown.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import struct

IAC, DONT, DO, WONT, WILL, SB, SE = 255, 254, 253, 252, 251, 250, 240
ECHO, SGA, NAWS = 1, 3, 31
UP, DOWN, RIGHT, LEFT = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
ENTER = "\r\0"

_PIECES = re.compile(r"\x1b\[(\d*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+|.", re.DOTALL)


class Screen:
    """Lines, and a cursor that is always in the last one: all that the dialogue needs."""

    def __init__(self) -> None:
        self.lines = [""]
        self.column = 0

    def feed(self, text: str) -> None:
        for piece in _PIECES.finditer(text):
            if piece[2]:
                self._obey(piece[2], int(piece[1] or 1))
            else:
                self._put(piece[0])

    def _obey(self, what: str, count: int) -> None:
        line = self.lines[-1]
        if what == "K":
            self.lines[-1] = line[: self.column]
        elif what == "C":
            self.column += count
        elif what in "HJ":
            self.lines, self.column = [""], 0
        else:
            raise AssertionError(f"no sequence of ours: {what}")

    def _put(self, text: str) -> None:
        if text == "\r":
            self.column = 0
        elif text == "\n":
            self.lines.append("")
        else:
            assert text.isprintable(), f"{text!r} on the terminal"
            line = self.lines[-1].ljust(self.column)
            self.lines[-1] = line[: self.column] + text + line[self.column + len(text) :]
            self.column += len(text)


class TelnetClient:
    """`async with TelnetClient.to(...)`; `speaks`: whether it knows telnet, or is as dull as netcat."""

    def __init__(self, reader, writer, *, speaks: bool = True, size: tuple[int, int] = (80, 24)) -> None:
        self.reader, self.writer = reader, writer
        self.screen = Screen()
        self.seen = ""  # all text that came
        self._speaks = speaks
        self._size = size
        self._pending = b""  # of a command
        self._held = ""  # of a sequence
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @classmethod
    async def to(cls, place, *, ssl=None, **settings) -> TelnetClient:
        """A port of 127.0.0.1, or a path."""
        if isinstance(place, int):
            streams = await asyncio.open_connection("127.0.0.1", place, ssl=ssl)
        else:
            streams = await asyncio.open_unix_connection(place)
        return cls(*streams, **settings)

    async def __aenter__(self) -> TelnetClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    def type(self, text: str) -> None:
        self.writer.write(text.encode())

    def enter(self, text: str) -> None:
        self.type(text + (ENTER if self._speaks else "\n"))

    async def until(self, pattern: str) -> str:
        """Read until the last line of the screen matches; what came since the last time."""
        mark = len(self.seen)
        try:
            async with asyncio.timeout(10):
                while not re.search(pattern, self.screen.lines[-1]):
                    assert await self._read(), f"closed, with {self.screen.lines[-5:]}"
        except TimeoutError:
            raise AssertionError(f"not seen: {pattern}, but {self.screen.lines[-5:]}") from None
        return self.seen[mark:]

    async def until_shown(self, pattern: str) -> None:
        """Read until some line of the screen matches."""
        try:
            async with asyncio.timeout(10):
                while not re.search(pattern, "\n".join(self.screen.lines)):
                    assert await self._read(), f"closed, with {self.screen.lines[-5:]}"
        except TimeoutError:
            raise AssertionError(f"not seen: {pattern}, but {self.screen.lines[-5:]}") from None

    async def until_closed(self) -> str:
        async with asyncio.timeout(10):
            while await self._read():
                pass
        return self.seen

    async def ask(self, phrase: str, prompt: str = r"> $") -> list[str]:
        """Enter a phrase, and give the lines shown until the prompt comes again."""
        begin = len(self.screen.lines)
        self.enter(phrase)
        async with asyncio.timeout(10):
            while len(self.screen.lines) <= begin or not re.search(prompt, self.screen.lines[-1]):
                assert await self._read(), f"closed, with {self.screen.lines[-5:]}"
        return self.screen.lines[begin:-1]

    async def log_in(self, name: str, password: str) -> None:
        await self.until("Login: $")
        self.enter(name)
        await self.until("Password.*: $")
        self.enter(password)
        await self.until("> $")

    async def _read(self) -> bool:
        try:
            data = await self.reader.read(65536)
        except ConnectionError:
            data = b""
        text = self._held + self._decoder.decode(self._text(self._pending + data))
        begun = re.search(r"\x1b(\[\d*)?$", text)
        self._held = begun[0] if begun else ""
        text = text.removesuffix(self._held)
        self.seen += text
        self.screen.feed(text)
        return bool(data)

    def _text(self, data: bytes) -> bytes:
        """Without telnet's commands, which are answered."""
        text = bytearray()
        while data:
            plain, iac, command = data.partition(bytes([IAC]))
            text += plain
            data = iac + command
            if len(data) in (1, 2):
                break
            if data:
                self._answer(data[1], data[2])
                data = data[3:]
        self._pending = data
        return bytes(text)

    def _answer(self, verb: int, option: int) -> None:
        if not self._speaks:
            return
        if verb == WILL:
            self.writer.write(bytes([IAC, DO if option in (ECHO, SGA) else DONT, option]))
        elif verb == DO and option == NAWS:
            self.writer.write(bytes([IAC, WILL, NAWS]))
            self.resize(*self._size)
        elif verb == DO:
            self.writer.write(bytes([IAC, WONT, option]))

    def resize(self, width: int, height: int) -> None:
        size = struct.pack("!HH", width, height).replace(b"\xff", b"\xff\xff")
        self.writer.write(bytes([IAC, SB, NAWS]) + size + bytes([IAC, SE]))

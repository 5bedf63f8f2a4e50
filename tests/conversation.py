"""Conversations: dialogues of client and server as text, and how to play them on any connection.

A file holds dialogues of any line protocol, each with a name, settings, and steps in order:

    # a comment, as are empty lines
    -- name of the dialogue
    key: value          a setting (before the first step); what it means is the test's affair; may repeat
    C: text             the client sends this line; CRLF is added; lines that follow one another are one write
    C\\ text             the client sends these octets, nothing added; \\r \\n \\t \\0 \\xNN \\\\ are understood
    S: text             the server's next line is exactly this
    S~ expression       the server's next line matches this regular expression as a whole
    S...                any lines, up to one that the next S step takes
    S!                  the server closes the connection, and has said no more
    T!                  both begin TLS

`play` runs one with two callables, so the same dialogue runs in memory, over TCP, TLS and UNIX sockets.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Cut = Callable[[bytes], Iterable[bytes]]

_STEP = re.compile(r"(C:|C\\|S:|S~|S\.\.\.|S!|T!)(?: (.*))?")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"0": b"\0", b"\\": b"\\"}


@dataclass
class Step:
    kind: str
    text: str
    line: int


@dataclass
class Dialogue:
    name: str
    file: str
    settings: list[tuple[str, str]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def setting(self, key: str, default: str = "") -> str:
        """The last value of `key`."""
        return dict(self.settings).get(key, default)

    def all(self, key: str) -> list[str]:
        """Every value of `key`, in order."""
        return [value for name, value in self.settings if name == key]


def unescape(text: str) -> bytes:
    def octet(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES[code]

    return _ESCAPE.sub(octet, text.encode())


def read(directory: Path) -> list[Dialogue]:
    """All dialogues of the .txt files in a directory."""
    found = [dialogue for path in sorted(directory.glob("*.txt")) for dialogue in _parse(path)]
    assert found, f"no dialogues in {directory}"
    return found


def _parse(path: Path) -> Iterator[Dialogue]:
    dialogue: Dialogue | None = None
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("-- "):
            if dialogue:
                yield dialogue
            dialogue = Dialogue(line[3:].strip(), path.name)
            continue
        assert dialogue, f"{path.name}:{number}: a dialogue begins with --"
        if match := _STEP.fullmatch(line):
            dialogue.steps.append(Step(match[1], match[2] or "", number))
            continue
        key, colon, value = line.partition(":")
        assert colon and not dialogue.steps, f"{path.name}:{number}: neither a step nor a setting"
        dialogue.settings.append((key.strip(), value.strip()))
    if dialogue:
        yield dialogue


class Wrong(AssertionError):
    """The server said something else."""


class _Received:
    """What came from the server, line by line."""

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        self._receive = receive
        self._held = b""

    async def line(self) -> str | None:
        """The next line without CRLF; None at the end of the connection."""
        while b"\r\n" not in self._held:
            block = await self._receive()
            if not block:
                assert not self._held, f"the connection ended within the line {self._held!r}"
                return None
            self._held += block
        line, _, self._held = self._held.partition(b"\r\n")
        return line.decode("utf-8", "backslashreplace")


async def play(
    dialogue: Dialogue,
    send: Callable[[bytes], object],
    receive: Callable[[], Awaitable[bytes]],
    start_tls: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Play the client's part and hold the server to its own. `receive` returns b"" at the end.

    Raises Wrong with file, line and both texts. Waits without limit: the caller sets one.
    """
    received = _Received(receive)
    outgoing = b""
    skipping = False
    for step in dialogue.steps:
        if step.kind in ("C:", "C\\"):
            outgoing += f"{step.text}\r\n".encode() if step.kind == "C:" else unescape(step.text)
            continue
        if outgoing:
            send(outgoing)
            outgoing = b""
        if step.kind == "T!":
            assert start_tls, f"{dialogue.file}:{step.line}: no TLS on this connection"
            await start_tls()
        elif step.kind == "S...":
            skipping = True
        else:
            await _expect(dialogue, step, received, skipping)
            skipping = False
    if outgoing:
        send(outgoing)


async def _expect(dialogue: Dialogue, step: Step, received: _Received, skipping: bool) -> None:
    while True:
        line = await received.line()
        if _takes(step, line):
            return
        if line is None or not skipping:
            where = f"{dialogue.file}:{step.line} ({dialogue.name})"
            raise Wrong(f"{where}: expected {step.kind} {step.text!r}, got {line!r}")


def _takes(step: Step, line: str | None) -> bool:
    if step.kind == "S!" or line is None:
        return step.kind == "S!" and line is None
    return line == step.text if step.kind == "S:" else bool(re.fullmatch(step.text, line))


def whole(data: bytes) -> Iterable[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def at_random(seed: int) -> Cut:
    """Segments of 1 to 9 octets, the same ones for the same seed."""
    chance = random.Random(seed)

    def cut(data: bytes) -> Iterator[bytes]:
        while data:
            length = chance.randint(1, 9)
            yield data[:length]
            data = data[length:]

    return cut


class Memory(asyncio.Transport):
    """A transport without a socket: `send` reaches the protocol in the segments of `cut`, `receive` hears it."""

    def __init__(self, protocol: asyncio.Protocol, cut: Cut = whole) -> None:
        super().__init__()
        self._protocol = protocol
        self._cut = cut
        self._incoming: deque[bytes] = deque()
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._paused = self._closing = False
        protocol.connection_made(self)

    def send(self, data: bytes) -> None:
        self._incoming.extend(self._cut(data))
        self._deliver()

    async def receive(self) -> bytes:
        return await self._outgoing.get()

    def _deliver(self) -> None:
        while self._incoming and not self._paused and not self._closing:
            self._protocol.data_received(self._incoming.popleft())

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self._closing:
            self._outgoing.put_nowait(bytes(data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._outgoing.put_nowait(b"")
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever held."""

    def get_write_buffer_size(self) -> int:
        return 0

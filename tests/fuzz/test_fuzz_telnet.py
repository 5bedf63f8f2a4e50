"""Telnet from anybody: commands, options, subnegotiations, keys and phrases, in order or not.

Whatever comes, the connection goes on or ends: no exception reaches the log, no control character of a
client's the terminal, and no word of a client that has not logged in an operation.
"""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from hypothesis import given, settings
from hypothesis import strategies as st
from telnet_client import Screen
from torture.figures import SCALE

from mailserver import maillog
from mailserver.admin.entries import DomainEntry
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Operator, Role
from mailserver.admin.table import TABLE
from mailserver.console import dialogue, telnet
from mailserver.console.desk import FrontDesk
from mailserver.transport.connections import Connections
from mailserver.transport.listener import Peer

IAC, SB, SE = b"\xff", b"\xfa", b"\xf0"
COMMANDS = st.sampled_from([bytes([n]) for n in range(236, 256)])
OPTIONS = st.sampled_from([b"\x00", b"\x01", b"\x03", b"\x18", b"\x1f", b"\x22", b"\xff", b"\xf0"])
KEYS = st.sampled_from(
    [
        b"\x1b[A",
        b"\x1b[B",
        b"\x1b[D",
        b"\x1b[3~",
        b"\x1bOP",
        b"\x1b[",
        b"\x1b",
        b"\r\n",
        b"\r\0",
        b"\n",
        b"\r",
        b"yes\r\n",
        *(bytes([n]) for n in range(32)),
    ]
)
WORDS = sorted({word for words in TABLE for word in words.split()})
PHRASES = st.lists(
    st.sampled_from(
        [*WORDS, "help", "python", "ann@example.test", "example.test", "--all", "--quota=1G", "'", "--", "x"]
    ),
    max_size=6,
).map(lambda words: " ".join(words).encode() + b"\r\n")
EAGER = (
    b"\xff\xfd\x01\xff\xfd\x03\xff\xfb\x1f\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0"  # what a real client answers
)
PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda command, option: IAC + command + option, COMMANDS, OPTIONS),
    st.builds(lambda option, data: IAC + SB + option + data + IAC + SE, OPTIONS, st.binary(max_size=12)),
    st.just(EAGER),
    st.just(IAC + SB + IAC + SE),
    st.just(IAC + SB + b"x" * 5000),
    st.just(b"\x1b[" + b"1" * 5000),
    st.just(b"x" * 5000),
    KEYS,
    PHRASES,
)
DIALOGUES = st.lists(PIECES, max_size=25)


class Wire:
    """An asyncio transport that goes nowhere."""

    def __init__(self) -> None:
        self.protocol = None
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def close(self):
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return 0

    def get_extra_info(self, name):
        return None

    def pause_reading(self):
        assert not self.closed

    resume_reading = pause_reading


class Administration:
    """Knows what it was asked; answers with text that is no good for a terminal."""

    def __init__(self) -> None:
        self.asked = []
        self.config = SimpleNamespace(hostname="mx.example.test")
        self.operators = SimpleNamespace(current=lambda operator: operator)

    async def perform(self, operator, front, words, given):
        self.asked.append(words)
        if len(self.asked) % 3 == 0:
            raise Refused("\x1b[2Jno")
        return [DomainEntry("\x1b]0;x\x07\xff", 1, 2)] if len(self.asked) % 3 == 1 else None

    def refuse(self, operator, front, words):
        assert words is None or words in TABLE

    async def watch(self, operator, front, words, given):
        self.asked.append(words)
        while True:
            yield "a line \x1b[31m"
            await asyncio.sleep(0)

    async def suggest(self, operator, front, parameter, begun):
        self.asked.append("suggest")
        return ["\x1b[31m", "example.test", "a b"]


class Operators:
    def __init__(self, known: Operator | None) -> None:
        self.known = known
        self.guesses = []

    async def authenticate(self, name, password, source):
        self.guesses.append((name, password))

    def of_uid(self, uid):
        return self.known


async def _settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def _conversation(pieces, known):
    """Feed a connection; what it wrote, and what was asked of the administration and the operators."""
    administration, operators = Administration(), Operators(known)
    console = SimpleNamespace(python=False, idle_timeout=60.0)
    desk = FrontDesk(administration, operators, lambda: console, Connections())
    hosted = telnet.factory(desk)(Peer("unix", 0, 1000, False))
    wire = Wire()
    wire.protocol = hosted
    hosted.connection_made(wire)
    task = hosted._protocol._task
    for piece in pieces:
        buffer = hosted.get_buffer(-1)
        if not wire.closed:
            buffer[: len(piece)] = piece
            hosted.buffer_updated(len(piece))
        await _settle()
    wire.close()
    async with asyncio.timeout(5):
        await asyncio.wait({task})
    assert not len(desk.connections)
    return wire.written, administration.asked, operators.guesses


def _play(pieces, known):
    seen = []
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
        patch.setattr(dialogue, "PATIENCE", 0.0)
        runner.get_loop().set_exception_handler(lambda _, context: seen.append(("unhandled", context)))
        result = runner.run(_conversation(pieces, known))
    assert [entry for entry in seen if entry[0] not in ("login", "client-stalled")] == []
    return result


def _require_fit_for_a_terminal(written: bytes) -> None:
    """Screen refuses what is no character, and every sequence that is not ours."""
    commands = rb"\xff[\xfb-\xfe](?s:.)"
    Screen().feed(re.sub(commands, b"", written).decode())


@settings(max_examples=120 * SCALE, deadline=None)
@given(DIALOGUES)
def test_before_the_login(pieces):
    written, asked, guesses = _play(pieces, None)
    assert asked == []
    assert len(guesses) <= dialogue.GUESSES
    assert all(0 < len(name) <= dialogue.NAME and len(password) <= 4096 for name, password in guesses)
    _require_fit_for_a_terminal(written)


@settings(max_examples=120 * SCALE, deadline=None)
@given(DIALOGUES, st.sampled_from(Role))
def test_after_the_login(pieces, role):
    written, asked, guesses = _play([EAGER, *pieces], Operator("ann", role))
    allowed = {words for words, operation in TABLE.items() if operation.allows(role)} | {"suggest"}
    assert set(asked) <= allowed and guesses == []
    _require_fit_for_a_terminal(written)


def test_the_fuzzer_reaches_what_it_is_about():
    """It logs in, asks and watches: else the properties above hold of nothing."""
    owner = Operator("ann", Role.OWNER)
    _, asked, _ = _play(
        [EAGER, b"domain list\r\n", b"dom\tsh\te\t\r\n", b"events\r\n", b"\x03", b"whoami\r\n"], owner
    )
    assert asked == ["domain list", "suggest", "domain show", "events", "whoami"]
    _, asked, guesses = _play([b"owen\r\n", b"secret\r\n", b"domain list\r\n", b"\r\n", b"x\r\n"], None)
    assert asked == [] and guesses == [("owen", "secret"), ("domain list", "")]

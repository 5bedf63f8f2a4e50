"""Octets, banana and jelly of nobody, before and after the login: refused or closed, and never a fault.

Before the login nothing but the root's methods is reached; whatever is sent, the log has no exception, and the
memory that a client took is given back.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from perspectives import Office, Raw, encoded, jelly
from twisted.spread.banana import Banana

from mailserver import maillog
from mailserver.admin.table import TABLE

WORDS = sorted(Banana.outgoingVocabulary)
TAGS = [
    *WORDS,
    *(b"unicode", b"boolean", b"method", b"decimal", b"datetime", b"set", b"frozenset", b"true", b"sendCall"),
    *(b"twisted.spread.pb.CopyableFailure", b"os.system", b"mailserver.Mirror", b"builtins.str"),
]
NAMES = sorted({word.encode() for words in TABLE for word in words.replace("-", "").split()})
METHODS = [
    *NAMES,
    b"authenticate",
    b"login",
    b"phrase",
    b"complete",
    b"domains",
    b"users",
    b"watch",
    b"events",
]

atoms = (
    st.sampled_from(TAGS)
    | st.binary(max_size=40)
    | st.integers(-3, 12)
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.sampled_from(METHODS)
)
expressions = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(st.sampled_from(TAGS), inner).map(list)
        | st.just(jelly({"a": [1]}))
    ),
    max_leaves=20,
)
targets = st.sampled_from([b"root", 1, 2, 3, 4, 0, -1]) | atoms
messages = st.tuples(
    st.just(b"message"),
    st.integers(0, 5),
    targets,
    st.sampled_from(METHODS),
    st.integers(0, 1),
    expressions,
    expressions,
)
plausible = st.tuples(
    st.just(b"message"),
    st.integers(0, 5),
    targets,
    st.sampled_from(METHODS),
    st.integers(0, 1),
    st.lists(st.text(max_size=10) | st.none() | st.integers(-5, 5), max_size=3).map(
        lambda args: jelly(tuple(args))
    ),
    st.just([b"dictionary"]),
)
commands = st.tuples(
    st.sampled_from([b"decref", b"decache", b"uncache", b"answer", b"error", b"cachemessage", b"version"]),
    st.integers(-2, 20) | expressions,
    expressions,
)
said = (messages | plausible | commands | expressions).map(
    lambda one: encoded(list(one) if isinstance(one, tuple) else one) if _small(one) else b"\x01\x82"
)
octets = st.lists(said | st.binary(max_size=60), min_size=1, max_size=8)


def _small(expression):
    """Whether Twisted can write it: its own bound of numbers."""
    if isinstance(expression, (list, tuple)):
        return all(map(_small, expression))
    return not isinstance(expression, int) or abs(expression) < 2**448


class Spied:
    """What was asked of the administration, and faults in the log."""

    def __init__(self, office, monkeypatch):
        self.performed, self.faults = [], []
        perform, watch = office.administration.perform, office.administration.watch

        def spied(real):
            def call(operator, front, words, given):
                self.performed.append(words)
                return real(operator, front, words, given)

            return call

        office.administration.perform, office.administration.watch = spied(perform), spied(watch)
        monkeypatch.setattr(maillog, "event", self._event)
        monkeypatch.setattr(sys, "unraisablehook", lambda args: self.faults.append(args.exc_value))

    def _event(self, name, /, **fields):
        if name in ("session-failed", "operation-failed", "unforeseen"):
            self.faults.append((name, fields))


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.pool.close()


@pytest.fixture
def spied(office, monkeypatch):
    return Spied(office, monkeypatch)


@pytest.fixture
def attack(office, tmp_path):
    """Send octets on a connection of their own, each piece by itself, and hear what comes until nothing does."""

    runner = asyncio.Runner()
    unhandled = []
    path = f"{tmp_path}/pb.sock"

    async def listen():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        listening = office.listening(f"unix:{path}")
        listening.__enter__()
        return listening

    async def talk(pieces, login):
        raw = await Raw.connect(path)
        if login:
            await raw.login()
        try:
            async with asyncio.timeout(20):
                for piece in pieces:
                    raw.writer.write(piece)
                raw.writer.write_eof()
                await raw.rest()
        finally:
            raw.close()
        async with asyncio.timeout(20):
            await office.connections.wait_empty()
        assert unhandled == []

    listening = runner.run(listen())
    yield lambda pieces, login: runner.run(talk(pieces, login))
    runner.run(_close(listening))
    runner.close()


async def _close(listening):
    listening.__exit__(None, None, None)


FUZZED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZED
@given(octets)
def test_before_the_login_nothing_is_reached(office, spied, attack, pieces):
    office.operators.of_uid = lambda uid: None  # and nobody gets in by his account
    attack(pieces, login=False)
    assert spied.performed == [] and spied.faults == []


@FUZZED
@given(octets)
def test_after_the_login_there_is_never_a_fault(office, spied, attack, pieces):
    attack(pieces, login=True)
    assert spied.faults == []


@FUZZED
@given(st.lists(plausible.map(list).map(encoded), min_size=1, max_size=6).map(b"".join), st.data())
def test_streams_of_messages_that_were_damaged(office, spied, attack, octets, data):
    mutated = bytearray(octets)
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        change = data.draw(st.sampled_from(["flip", "cut", "repeat", "insert"]))
        if change == "flip":
            mutated[place] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "cut":
            del mutated[place : place + data.draw(st.integers(1, 8))]
        elif change == "repeat":
            mutated[place:place] = mutated[place : place + data.draw(st.integers(1, 30))]
        else:
            mutated[place:place] = data.draw(st.binary(max_size=8))
        if not mutated:
            break
    attack([bytes(mutated)], login=True)
    assert spied.faults == []


HOSTILE = [
    pytest.param(b"\x01\x80" * 100_000, id="lists in lists"),
    pytest.param(b"\x7f" * 1_000_000, id="a number of a million octets"),
    pytest.param(b"\x00\x00\x50\x82" + bytes(1_000_000), id="a string of a million octets"),
    pytest.param(b"\x00\x00\x50\x80" + b"\x01\x81" * 500_000, id="a list of a million"),
    pytest.param(
        b"\x02\x80" + b"\x7f\x7f\x03\x82" + bytes(65535) + b"\x7f\x7f\x0f\x82" + bytes(300_000), id="strings"
    ),
    pytest.param(encoded([b"decref", 1]) * 10_000, id="references given back again and again"),
    pytest.param(encoded([b"version", 6]) * 10_000, id="the version again and again"),
    pytest.param(
        encoded([b"message", 1, b"root", b"login", 1, [b"tuple"], [b"dictionary"]]) * 300,
        id="logins for ever",
    ),
    pytest.param(
        encoded([b"message", 1, 1, b"domains", 1, [b"tuple"], [b"dictionary"]]) * 300,
        id="references for ever",
    ),
    pytest.param(
        encoded([b"message", 1, 1, b"help", 1, [b"tuple", *[[b"remote", 5]] * 1000], [b"dictionary"]]) * 3,
        id="references of the client's, forgotten at once",
    ),
    pytest.param(
        encoded([b"message", 1, 1, b"help", 1, [b"tuple", [b"remote"]], [b"dictionary"]]) * 10,
        id="half a reference",
    ),
]


@pytest.mark.parametrize("login", [False, True])
@pytest.mark.parametrize("octets", HOSTILE)
def test_much_of_anything_takes_little_memory_and_gives_it_back(octets, login, office, spied, attack):
    attack([b""], login)  # whatever is made once is made
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        attack([octets], login)
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert spied.faults == []
    assert peak - before < 12 * 1024 * 1024  # with what the client itself holds to send, and hears
    assert after - before < 300_000

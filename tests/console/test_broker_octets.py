"""Banana read with bounds: what Twisted writes is what comes out, cut anyhow; what nobody wrote is refused."""

from __future__ import annotations

import tracemalloc

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.spread.banana import Banana, encode

from mailserver.console.pb.octets import DEPTH, Malformed, Reader

items = st.recursive(
    st.binary(max_size=300)
    | st.integers(-(2**69), 2**69)
    | st.floats(allow_nan=False)
    | st.sampled_from(sorted(Banana.outgoingVocabulary)),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


def read(octets, cuts=(), most=1 << 20):
    reader = Reader(most)
    found = []
    edges = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
    for start, end in itertools.pairwise(edges):
        reader.feed(octets[start:end])
        while (expression := reader.next()) is not None:
            found.append(expression)
    return found


def words(expression):
    """In the dialect of Perspective Broker, where words of its own are numbers."""
    writer = Banana(isClient=0)
    written = []
    writer.transport = type("Transport", (), {"write": written.append})
    writer.setPrefixLimit(64)
    writer.currentDialect = b"pb"
    writer.sendEncoded(expression)
    return b"".join(written)


@given(st.lists(items, max_size=4), st.lists(st.integers(0, 10**6), max_size=8))
def test_what_was_written_is_read_however_it_is_cut(expressions, cuts):
    assert read(b"".join(map(encode, expressions)), cuts) == expressions
    assert read(b"".join(map(words, expressions)), cuts) == expressions


@given(st.binary(max_size=2000))
def test_octets_of_nobody_are_expressions_or_refused(octets):
    try:
        read(octets, most=1000)
    except Malformed:
        return


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"\x01" * 11, id="a number without an end"),
        pytest.param(b"\x7f" * 11 + b"\x85", id="a number too long"),
        pytest.param(b"\x00\x00\x01\x82", id="a string longer than an expression"),
        pytest.param(b"\x00\x00\x01\x80", id="a list of more than an expression has octets"),
        pytest.param(b"\x01\x80" * (DEPTH + 1), id="lists in lists"),
        pytest.param(
            b"\x02\x80" + b"\x7f\x07\x82" * 2 + bytes(1023) * 2, id="strings that are too long together"
        ),
        pytest.param(b"\x7f\x87", id="a word that is none"),
        pytest.param(b"\x01\x88", id="no kind"),
        pytest.param(b"\x00\x10\x80" + b"\x01\x81" * 1000, id="a list that never ends"),
    ],
)
def test_what_is_beyond_the_bounds_is_refused(octets):
    with pytest.raises(Malformed):
        read(octets, most=1024)


def test_a_refusal_does_not_wait_for_the_octets_that_were_announced():
    reader = Reader(1024)
    reader.feed(b"\x02\x80" + encode(b"x" * 500))
    assert reader.next() is None
    reader.feed(b"\x10\x04\x82")  # and now a string of 528
    with pytest.raises(Malformed):
        reader.next()


def test_the_bound_is_that_of_one_expression():
    one = encode([b"x" * 900])
    assert read(one * 50, most=1024) == [[b"x" * 900]] * 50


def test_memory_is_in_proportion_to_the_octets():
    """Many of the smallest items, which Twisted's own reader copies as often."""
    octets = encode([1] * 20_000)
    reader = Reader(len(octets) + 1)
    tracemalloc.start()
    reader.feed(octets)
    assert len(reader.next()) == 20_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(octets)

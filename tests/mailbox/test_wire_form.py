"""The wire form of stored messages: exact to the octet, at any block size."""

from __future__ import annotations

import io
import re

from hypothesis import example, given
from hypothesis import strategies as st

from mailserver.mailbox import wire

_contents = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"a", b"text", b"\0\xff"])).map(b"".join)


def whole(content: bytes) -> bytes:
    """What the wire form must be, said in another way: line by line."""
    parts = re.split(rb"\r?\n", content)
    last = parts.pop()
    return b"".join(part + b"\r\n" for part in parts) + (last + b"\r\n" if last else b"")


def stuffed(form: bytes) -> bytes:
    lines = form.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


@given(_contents, st.integers(1, 9))
@example(b"a\r\n.\r\nb", 2)
@example(b"a\r", 1)
@example(b"\r\r\n", 1)
@example(b"a\n\r", 2)
def test_any_mixture_of_line_ends_at_any_block_size(content: bytes, size: int) -> None:
    read = io.BytesIO(content).read
    blocks = list(wire.blocks(read, size=size))
    form = b"".join(blocks)
    assert form == whole(content)
    assert all(blocks)
    assert not any(block.startswith(b"\n") for block in blocks)  # TOP counts lines block by block
    assert wire.length(io.BytesIO(content).read) == len(form)


@given(_contents, st.integers(1, 9))
@example(b".\n..\n\n.", 1)
@example(b"a\n\r.", 2)
@example(b".a\r", 2)
def test_dots_are_stuffed_in_the_same_pass(content: bytes, size: int) -> None:
    form = b"".join(wire.blocks(io.BytesIO(content).read, dot_stuffed=True, size=size))
    assert form == stuffed(whole(content))
    assert wire.whole(content, len(whole(content))) == form


@given(_contents)
@example(b"a")
@example(b"a\r")
@example(b"")
def test_a_whole_message_has_the_size_that_was_told(content: bytes) -> None:
    size = len(whole(content))
    unended = size - 2 if content and not content.endswith(b"\n") else size  # as other programs count it
    for told in range(max(0, size - 4), size + 4):
        assert (wire.whole(content, told) is not None) == (told in (size, unended))


def test_what_is_stored_with_bare_line_feeds_comes_back_as_it_was_sent() -> None:
    sent = b"Subject: x\r\n\r\n" + b"line of text\r\n" * 50_000
    stored = sent.replace(b"\r\n", b"\n")
    blocks = list(wire.blocks(io.BytesIO(stored).read))
    assert b"".join(blocks) == sent
    assert max(map(len, blocks)) <= 2 * wire.BLOCK

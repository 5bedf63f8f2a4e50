"""Content on its way out: what a conforming server reads from it is what was there."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.delivery.content import BLOCK, Content, Encoder
from mailserver.mail.lines import Decoder
from mailserver.pool import Pool

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"x.", b"text", b"\xff\xfe"]), max_size=8)


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(place for place in at if place <= len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def encode(blocks: Sequence[bytes]) -> bytes:
    encoder = Encoder()
    return b"".join(map(encoder.feed, blocks)) + encoder.finish()


@given(LINES, st.lists(st.integers(0, 40), max_size=6))
def test_a_server_reads_what_was_there(lines: list[bytes], at: list[int]) -> None:
    content = b"".join(line + b"\n" for line in lines)
    decoder = Decoder(dots=True)
    got, rest = decoder.feed(encode(cut(content, at)))
    assert (got, rest, decoder.ended, decoder.fault) == (content, b"", True, None)


@given(st.text("\r\n.x", max_size=20), st.lists(st.integers(0, 20), max_size=6))
def test_no_bare_line_end_ever_leaves(text: str, at: list[int]) -> None:
    content = text.encode()
    wire = encode(cut(content, at))
    assert wire.endswith(b".\r\n")
    without = wire.replace(b"\r\n", b"")
    assert b"\r" not in without
    assert b"\n" not in without
    assert wire.find(b"\r\n.\r\n") in (-1, len(wire) - 5), "only one end of data"
    decoder = Decoder(dots=True)
    got, _ = decoder.feed(wire)
    whole = content + b"\n" if content.endswith(b"\r") else content
    expected = whole.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    assert got == expected + (b"" if not expected or expected.endswith(b"\n") else b"\n")


def read(path: Path, wanted: str) -> object:
    async def whole() -> object:
        pool = Pool("test", 1, 1)
        try:
            content = Content(lambda _: os.open(path, os.O_RDONLY), path.stat().st_size, pool)
            if wanted == "blocks":
                return b"".join([block async for block in content.blocks()])
            return await (content.has_8bit() if wanted == "8bit" else content.has_8bit_header())
        finally:
            pool.close()

    return asyncio.run(whole())


def test_files_of_every_size_around_a_block(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7):
        content = (b".line\n" * (size // 6 + 1))[:size]
        path.write_bytes(content)
        assert read(path, "blocks") == encode([content])


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_a_file_that_is_cut_gets_no_end_of_data(tmp_path: Path, size: int) -> None:
    """Before the first block, or after it went out."""
    path = tmp_path / "letter"

    async def got(left: int, after: int) -> bytes:
        path.write_bytes(b"x" * size)
        pool = Pool("test", 1, 1)
        content = Content(lambda _: os.open(path, os.O_RDONLY), size, pool, lambda: pytest.fail("sent"))
        out = b""
        try:
            with pytest.raises(OSError, match="cut"):
                if not after:
                    os.truncate(path, left)
                async for block in content.blocks():
                    out += block
                    os.truncate(path, left)
        finally:
            pool.close()
        assert not content.ended
        return out

    for left, after in ((0, 0), (size - 1, 0), (size - 1, 1)):
        if size > BLOCK or not after:
            assert asyncio.run(got(left, after)).strip(b"x") == b""


def test_octets_above_127_are_found(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    for header, body in (
        (b"A: b\n", b"x"),
        (b"A: \xc3\xa4\n", b"x"),
        (b"A: b\n", b"\xc3"),
        (b"A: b\n" * BLOCK, b"\xc3"),
    ):
        path.write_bytes(header + b"\n" + body)
        assert read(path, "8bit") is not (header + body).isascii()
        assert read(path, "8bit header") is not header.isascii()
    path.write_bytes(b"\n\xc3")
    assert read(path, "8bit header") is False
    path.write_bytes(b"A: " + b"x" * (BLOCK - 4) + b"\n" + b"\n\xc3")
    assert read(path, "8bit header") is False, "the empty line begins a block"


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK])
def test_the_line_for_mailboxes_does_not_leave(tmp_path: Path, size: int) -> None:
    """RFC 5321 §4.4: a message that went into a mailbox as well begins with our Return-Path."""
    file = tmp_path / "message"
    rest = b"Received: here\nReturn-Path: <forged@else.test>\n\n" + b"x" * size + b"\n"
    file.write_bytes(b"Return-Path: <ann@example.test>\n" + rest)
    assert read(file, "blocks") == rest.replace(b"\n", b"\r\n") + b".\r\n"

"""TOP's cut, wherever the blocks of a message end, against the plain reading of RFC 1939 §7."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from mailserver.mailbox import wire
from mailserver.pop3.top import top

LINE = st.sampled_from([b"", b".", b"..", b"a", b".b", b"a\r", b"\r", b"To: ann", b"x" * 40])


def expected(lines: list[bytes], wanted: int) -> bytes:
    end = lines.index(b"") + 1 if b"" in lines else len(lines)
    return b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines[: end + wanted])


@given(st.lists(LINE, max_size=12), st.integers(0, 12), st.integers(1, 60), st.booleans())
@example([b"a", b"", b"b"], 0, 1, False)
@example([b""], 0, 1, False)
@example([b"", b""], 1, 2, False)
def test_any_blocks_give_the_same_top(lines: list[bytes], wanted: int, block: int, last_end: bool) -> None:
    stored = b"\n".join(lines) + (b"\n" if lines else b"")
    if last_end and stored.endswith(b"\n") and lines[-1]:
        stored = stored[:-1]  # another program's message without a last line end
    pieces = iter([stored[i : i + block] for i in range(0, len(stored), block)] + [b""])
    lines = [line.removesuffix(b"\r") for line in lines]
    if stored.endswith(b"\r"):
        return  # a CR that ends the file is content; what a line is there is nobody's rule
    blocks = wire.blocks(lambda _: next(pieces), dot_stuffed=True)
    assert b"".join(top(blocks, wanted)) == expected(lines, wanted)


def test_no_more_is_read_than_needed() -> None:
    taken = 0

    def blocks() -> Iterator[bytes]:
        nonlocal taken
        for block in (b"Subject: one\r\n", b"\r\nfirst\r\n", b"second\r\n", b"third\r\n"):
            taken += 1
            yield block

    assert b"".join(top(blocks(), 0)) == b"Subject: one\r\n\r\n"
    assert taken == 2
    taken = 0
    assert b"".join(top(blocks(), 2)) == b"Subject: one\r\n\r\nfirst\r\nsecond\r\n"
    assert taken == 3

"""TOP's cut of a message (RFC 1939 §7): the header, the empty line, and some lines of the body.

Works on blocks of the wire form (`mailbox.wire`), in which CRLF never stands across two blocks. Headers are
not parsed. Not here: opening the message (`pop3.maildrop`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_EOL = b"\r\n"


def top(blocks: Iterable[bytes], lines: int) -> Iterator[bytes]:
    """The blocks up to `lines` lines after the empty line; takes no block more than it needs."""
    at_start, in_header = True, True
    for block in blocks:
        body = 0
        if in_header:
            body = _end_of_header(block, at_start)
            in_header, at_start = body < 0, block.endswith(_EOL)
            if in_header:
                yield block
                continue
        end, lines = _take_lines(block, body, lines)
        yield block[:end]
        if not lines:
            return


def _end_of_header(block: bytes, at_start: bool) -> int:
    """Where the body begins, after the empty line; -1 if the header goes on. `at_start`: of a line."""
    if at_start and block.startswith(_EOL):
        return len(_EOL)
    empty = block.find(_EOL + _EOL)
    return empty + 2 * len(_EOL) if empty >= 0 else -1


def _take_lines(block: bytes, start: int, lines: int) -> tuple[int, int]:
    """Where `lines` lines from `start` end in this block, and how many are still wanted after it."""
    held = block.count(_EOL, start)
    if held < lines:
        return len(block), lines - held
    for _ in range(lines):
        start = block.index(_EOL, start) + len(_EOL)
    return start, 0

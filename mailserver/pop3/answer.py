"""POP3 answers: the only form in which text reaches a POP3 client.

Texts are fixed sentences and numbers, and the host name in the greeting; nothing of an exception, a path
or a password. Response codes: RFC 2449 §8, RFC 3206. Not here: when an answer is given (`pop3.session`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from mailserver.transport.driver import Answer, Then

# Response codes
IN_USE = "IN-USE"  # RFC 2449 §8.1.2
LOGIN_DELAY = "LOGIN-DELAY"  # RFC 2449 §8.1.1
AUTH = "AUTH"  # RFC 3206 §4: the credentials, or how they were given, are at fault
SYS_TEMP = "SYS/TEMP"  # RFC 3206 §5: passes by itself
SYS_PERM = "SYS/PERM"  # RFC 3206 §5: somebody has to repair something

LISTING_BLOCK = 1000
"""Lines of a listing made in one go: a longer one is made block by block in a pool thread."""

CHALLENGE = Answer(b"+ \r\n")  # RFC 5034 §4: an empty one, which is all that PLAIN has

_END = b".\r\n"


def ok(text: str, then: Then = Then.CONTINUE) -> Answer:
    return Answer(f"+OK {text}\r\n".encode("ascii", "replace"), then)


def err(text: str, code: str = "", then: Then = Then.CONTINUE) -> Answer:
    mark = f"[{code}] " if code else ""
    return Answer(f"-ERR {mark}{text}\r\n".encode("ascii", "replace"), then)


NOTHING_DELETED = ok("Nothing deleted", Then.CLOSE)  # at QUIT


def content(text: bytes, data: bytes, rest: Iterator[bytes] | None = None) -> Answer:
    """A message after its `+OK` line; `data` and `rest` are dot-stuffed and end with the final dot."""
    return Answer(b"+OK %b\r\n%b" % (text, data), Then.CONTINUE, rest)


def listing(text: str, lines: Iterable[str]) -> Answer:
    """A few lines (none may begin with a dot) after their `+OK` line, with the final dot."""
    return Answer("\r\n".join((f"+OK {text}", *lines, ".\r\n")).encode("ascii", "replace"))


def numbered(text: str, pairs: Iterator[tuple[int, object]], length: int) -> Answer:
    """About `length` lines, each of a number and what belongs to it, likewise."""
    first = f"+OK {text}\r\n".encode("ascii")
    blocks = _blocks(pairs)
    if length <= LISTING_BLOCK:
        return Answer(first + b"".join(blocks))
    return Answer(first, stream=blocks)


def _blocks(pairs: Iterator[tuple[int, object]]) -> Iterator[bytes]:
    while batch := tuple(chain.from_iterable(islice(pairs, LISTING_BLOCK))):
        yield ("%d %s\r\n" * (len(batch) // 2) % batch).encode("ascii", "replace")
    yield _END


def plural(number: int, noun: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""Banana, the coding beneath Perspective Broker: expressions out of octets, however they are cut.

A reader of our own in place of Twisted's, which bounds each string and not the whole (a list may have 655360
of them), and copies all that is left for each item. Here the octets and the depth of an expression are
bounded, and time and memory are in proportion to the octets. Not here: writing (Twisted's), what
expressions mean (`values`, `broker`).
"""

from __future__ import annotations

import struct
from typing import Any, TypeAlias

from twisted.spread.banana import Banana

Expression: TypeAlias = "bytes | int | float | list[Expression]"

MOST = 256 * 1024  # octets of an expression
DEPTH = 24  # lists within lists
PREFIX = 10  # octets of a number: 70 bits

_LIST, _INT, _STRING, _NEGATIVE, _FLOAT, _LONG, _LONG_NEGATIVE, _WORD = range(0x80, 0x88)
_DOUBLE = struct.Struct("!d")
_WORDS: dict[int, bytes] = Banana.incomingVocabulary


class Malformed(ValueError):
    """No expression, or one beyond the bounds; the octets after it mean nothing."""


class Reader:
    """Octets in, expressions out."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._octets = bytearray()
        self._at = 0  # what stands before is read
        self._used = 0  # octets of the expression under way
        self._open: list[tuple[int, list[Expression]]] = []  # lists that lack items, and how many they get

    def feed(self, octets: bytes) -> None:
        """More octets came. What one read brings is held beyond the bound of an expression."""
        del self._octets[: self._at]
        self._at = 0
        self._octets += octets

    @property
    def held(self) -> int:
        """Octets that are not read yet."""
        return len(self._octets) - self._at

    def next(self) -> Expression | None:
        """The next whole expression; None: more octets are needed. Raises Malformed."""
        while (found := self._item()) is not None:
            kind, item = found
            if kind == _LIST:
                self._enter(item)
            elif self._open:
                self._open[-1][1].append(item)
            else:
                return self._done(item)
            if (whole := self._close()) is not None:
                return self._done(whole)
        return None

    def _item(self) -> tuple[int, Any] | None:
        """An item's kind and what it is, of a list the number of its items; None: more octets are needed."""
        octets, start = self._octets, self._at
        end = min(len(octets), start + PREFIX + 1)
        number, at = 0, start
        while at < end and octets[at] < 0x80:  # least significant 7 bits first
            number |= octets[at] << 7 * (at - start)
            at += 1
        if at == end:
            if end - start > PREFIX:
                raise Malformed("a number is too long")
            return None
        kind = octets[at]
        body = number if kind == _STRING else _DOUBLE.size if kind == _FLOAT else 0
        if self._used + body >= self.most:
            raise Malformed("an expression is too long")
        at += 1
        if len(octets) - at < body:
            return None
        self._at = at + body
        self._used += self._at - start
        return kind, number if kind <= _INT else _value(number, kind, bytes(octets[at : self._at]))

    def _enter(self, items: int) -> None:
        if len(self._open) >= DEPTH:
            raise Malformed("lists stand too deep in each other")
        if items > self.most:
            raise Malformed("a list is too long")
        self._open.append((items, []))

    def _close(self) -> Expression | None:
        """Lists that are complete are items of those around them; the outermost is the expression."""
        while self._open and len(self._open[-1][1]) == self._open[-1][0]:
            whole = self._open.pop()[1]
            if not self._open:
                return whole
            self._open[-1][1].append(whole)
        return None

    def _done(self, whole: Expression) -> Expression:
        self._used = 0
        return whole


def _value(number: int, kind: int, octets: bytes) -> Expression:
    if kind == _STRING:
        return octets
    if kind == _LONG:
        return number
    if kind in (_NEGATIVE, _LONG_NEGATIVE):
        return -number
    if kind == _WORD and number in _WORDS:
        return _WORDS[number]
    if kind == _FLOAT:
        return float(_DOUBLE.unpack(octets)[0])
    raise Malformed("an octet that is no kind of item")

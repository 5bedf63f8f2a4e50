"""Cuts a client's octets into lines of bounded length. Pure; not here: what a line means."""

from __future__ import annotations


class LineTooLong(Exception):
    """A line over the limit; its octets are, or will be, dropped."""


class Lines:
    """Lines of at most `limit` octets with their end, which is CRLF or, to be liberal, LF.

    `left`: octets that were taken in and not given out yet.
    """

    __slots__ = ("_at", "_data", "_limit", "_skipping", "left")

    def __init__(self, limit: int) -> None:
        self._data = b""
        self._at = 0  # where that begins which was not given out yet
        self.left = 0
        self._limit = limit
        self._skipping = False

    @property
    def ready(self) -> bool:
        """`next()` has something to say."""
        return self._data.find(b"\n", self._at) >= 0 or self.left >= self._limit

    def feed(self, data: bytes) -> None:
        """Take octets in, whole lines or not."""
        if self._skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._skipping = False
            data = data[end + 1 :]
        self._data = self._data[self._at :] + data  # the very object where nothing was left
        self._at = 0
        self.left = len(self._data)

    def next(self) -> bytes | None:
        """A line without its end, or None; raises LineTooLong, once for each that is."""
        at = self._at
        end = self._data.find(b"\n", at)
        if end < 0:
            if self.left < self._limit:
                return None
            self.clear()
            self._skipping = True
            raise LineTooLong
        line = self._data[at:end]
        self._at = end + 1
        self.left -= end + 1 - at
        if not self.left:
            self._data, self._at = b"", 0
        if end - at >= self._limit:
            raise LineTooLong
        return line.removesuffix(b"\r")

    def take(self, most: int | None = None) -> bytes:
        """Octets that are no line: all there are, or at most so many."""
        taken = self._data[self._at :] if most is None else self._data[self._at : self._at + most]
        self._at += len(taken)
        self.left -= len(taken)
        if not self.left:
            self._data, self._at = b"", 0
        return taken

    def clear(self) -> None:
        """Forget all that was taken in."""
        self._data = b""
        self._at = self.left = 0
        self._skipping = False

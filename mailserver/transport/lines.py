"""Cuts a client's octets into lines of bounded length. Pure; not here: what a line means."""

from __future__ import annotations


class LineTooLong(Exception):
    """A line over the limit; its octets are, or will be, dropped."""


class Lines:
    """Lines of at most `limit` octets with their end, which is CRLF or, to be liberal, LF."""

    __slots__ = ("_data", "_limit", "_skipping")

    def __init__(self, limit: int) -> None:
        self._data = bytearray()
        self._limit = limit
        self._skipping = False

    def __len__(self) -> int:
        return len(self._data)

    @property
    def ready(self) -> bool:
        """`next()` has something to say."""
        return b"\n" in self._data or len(self._data) >= self._limit

    def feed(self, data: bytes) -> None:
        """Take octets in, whole lines or not."""
        if self._skipping:
            end = data.find(b"\n")
            if end < 0:
                return
            self._skipping = False
            data = data[end + 1 :]
        self._data += data

    def next(self) -> bytes | None:
        """A line without its end, or None; raises LineTooLong, once for each that is."""
        end = self._data.find(b"\n")
        if end < 0:
            if len(self._data) < self._limit:
                return None
            self._data.clear()
            self._skipping = True
            raise LineTooLong
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        if end >= self._limit:
            raise LineTooLong
        return line.removesuffix(b"\r")

    def take(self, most: int | None = None) -> bytes:
        """Octets that are no line: all there are, or at most so many."""
        taken = bytes(self._data[:most])
        del self._data[:most]
        return taken

    def clear(self) -> None:
        """Forget all that was taken in."""
        self._data.clear()
        self._skipping = False

"""The line that an operator types: text, cursor and history; keys change it. Pure.

Keys are octets as terminals send them, or names as Twisted's insults gives them. Not here: who sends
and shows them (`terminal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import get_character_cell_size


def _control(letter: str) -> bytes:
    return bytes([ord(letter) - 64])


class LineEditor:
    """A line of at most `limit` characters, `text` with the cursor before its `at`-th."""

    def __init__(self, limit: int, history: Sequence[str] = ()) -> None:
        self.text = ""
        self.at = 0
        self._limit = limit
        self._lines = [*history, ""]
        self._line = len(history)

    def insert(self, text: str) -> None:
        """At the cursor, as far as it is printable and there is room."""
        room = self._limit - len(self.text)
        fresh = "".join(c for c in text if c.isprintable())[:room]
        self.text = self.text[: self.at] + fresh + self.text[self.at :]
        self.at += len(fresh)

    def press(self, key: bytes) -> bool:
        """A key that edits; False if it is none."""
        act = _KEYS.get(key)
        if act is not None:
            act(self)
        return act is not None

    def replace(self, count: int, text: str) -> None:
        """`text` in place of the `count` characters before the cursor."""
        self._cut(max(0, self.at - count), self.at)
        self.insert(text)

    def shown(self, room: int) -> tuple[str, int]:
        """What of the line is seen in `room` columns, around the cursor; and the cursor's column."""
        start = end = self.at
        left = room - 1  # a column for the cursor itself
        while start > 0 and left >= (columns := get_character_cell_size(self.text[start - 1])):
            left -= columns
            start -= 1
        at = room - 1 - left
        while end < len(self.text) and left >= (columns := get_character_cell_size(self.text[end])):
            left -= columns
            end += 1
        return self.text[start:end], at

    # ---- keys

    def _cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.at = start

    def left(self) -> None:
        self.at = max(0, self.at - 1)

    def right(self) -> None:
        self.at = min(len(self.text), self.at + 1)

    def home(self) -> None:
        self.at = 0

    def end(self) -> None:
        self.at = len(self.text)

    def backspace(self) -> None:
        self._cut(max(0, self.at - 1), self.at)

    def delete(self) -> None:
        self._cut(self.at, self.at + 1)

    def cut_before(self) -> None:
        self._cut(0, self.at)

    def cut_after(self) -> None:
        self._cut(self.at, len(self.text))

    def cut_word(self) -> None:
        before = self.text[: self.at].rstrip()
        self._cut(before.rfind(" ") + 1, self.at)

    def older(self) -> None:
        self._turn(self._line - 1)

    def newer(self) -> None:
        self._turn(self._line + 1)

    def _turn(self, line: int) -> None:
        if 0 <= line < len(self._lines):
            self._lines[self._line] = self.text
            self._line = line
            self.text = self._lines[line][: self._limit]
            self.at = len(self.text)


_KEYS: dict[bytes, Callable[[LineEditor], None]] = {
    b"[LEFT_ARROW]": LineEditor.left,
    _control("B"): LineEditor.left,
    b"[RIGHT_ARROW]": LineEditor.right,
    _control("F"): LineEditor.right,
    b"[HOME]": LineEditor.home,
    _control("A"): LineEditor.home,
    b"[END]": LineEditor.end,
    _control("E"): LineEditor.end,
    b"\x7f": LineEditor.backspace,
    _control("H"): LineEditor.backspace,
    b"[DELETE]": LineEditor.delete,
    _control("U"): LineEditor.cut_before,
    _control("K"): LineEditor.cut_after,
    _control("W"): LineEditor.cut_word,
    b"[UP_ARROW]": LineEditor.older,
    _control("P"): LineEditor.older,
    b"[DOWN_ARROW]": LineEditor.newer,
    _control("N"): LineEditor.newer,
}

"""The statements of a TOML text: comment and blank lines, headers of tables, keys with their values.

They lie one after the other without gaps, so that a text is their sum. Whether a statement is complete is
asked of `tomllib`: there is no second parser here. Not here: changing anything (`layout`).
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

Path = tuple[str | int, ...]

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_ENDS = re.compile(r"[]}\"']")  # what the last line of a value over several lines has
_MOST_TRIES = 2000
_COMMENT = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'" r"|(#[^\n]*)",
    re.DOTALL,
)


class LayoutError(ValueError):
    """The text is no TOML, or cannot be edited in place; one line."""


class Statement(NamedTuple):
    """A part of the text: `content` is what a key's statement says, relative to its `table`."""

    start: int
    end: int
    table: Path
    header: bool = False
    content: Mapping[str, Any] = {}

    def says(self, path: Path) -> bool:
        """Whether a key's statement gives what is at `path`, or a part of it."""
        depth = len(self.table)
        return len(path) > depth and path[:depth] == self.table and _has(self.content, path[depth:])


def comments(text: str) -> list[str]:
    """All comments of a valid TOML text, in order."""
    return [match[1].rstrip() for match in _COMMENT.finditer(text) if match[1]]


def line_of(text: str, statements: list[Statement], path: Path) -> int:
    """The number of the line where `path` is set; 0 if it is not."""
    found = next((one for one in statements if one.says(path)), None)
    return text.count("\n", 0, found.start) + 1 if found else 0


def split(text: str) -> list[Statement]:
    """The statements of a text, one after the other without gaps. Raises LayoutError."""
    start = 1 if text.startswith("\ufeff") else 0
    table: Path = ()
    counts: Counter[Path] = Counter()
    found = []
    while start < len(text):
        end = _line_end(text, start)
        first = text[start:end].strip()
        if not first or first.startswith("#"):
            found.append(Statement(start, end, table))
        elif first.startswith("["):
            table = _header(text[start:end], counts)
            found.append(Statement(start, end, table, header=True))
        else:
            end, content = _pair(text, start)
            found.append(Statement(start, end, table, content=content))
        start = end
    return found


def _line_end(text: str, start: int) -> int:
    match = _LINE.match(text, start)
    return match.end() if match else len(text)


def _header(line: str, counts: Counter[Path]) -> Path:
    """The path that a header names; `counts` has how many tables each array has so far."""
    node: Any = _read(line)
    if node is None:
        raise LayoutError("no valid TOML")
    path: Path = ()
    while node:
        (name,) = node
        node, path = node[name], (*path, name)
        if isinstance(node, list):
            counts[path] += 1
            node = node[0]
        if counts[path]:
            path = (*path, counts[path] - 1)
    return path


def _pair(text: str, start: int) -> tuple[int, dict[str, Any]]:
    """Where the statement that begins at `start` ends: at the first line where it is complete."""
    end, tries = _line_end(text, start), 0
    while True:
        content = _read(text[start:end])
        if content is not None:
            return end, content
        tries += 1
        while True:
            begun, end = end, _line_end(text, end)
            if begun == end or tries > _MOST_TRIES:
                raise LayoutError("no valid TOML" if begun == end else "too long to be edited in place")
            if _ENDS.search(text, begun, end):
                break


def _read(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _has(node: Any, path: Path) -> bool:
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True

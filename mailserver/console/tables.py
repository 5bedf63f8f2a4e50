"""Results of operations as lines for people: a table, or a line for each field, fit to a window.

Text of whatever origin is made fit for a terminal here: no control character passes. Not here: JSON, which
is `msgspec`'s; who reads the lines (`telnet`, `cli`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import msgspec
from msgspec import Struct
from rich.cells import cell_len, get_character_cell_size, set_cell_size

PAGE = 200  # rows that are laid out at a time
GAP = 2  # columns between those of a table
NARROWEST = 16  # columns to which a cell may be folded; who needs less gets a record for each row


def pages(result: object, width: int | None) -> Iterator[list[str]]:
    """The lines of a result in portions, none wider than `width` unless that is None."""
    if result is None:
        yield ["done"]
    elif isinstance(result, (list, tuple)):
        yield from _listed(result, width)
    else:
        yield lines(result, width)


def lines(value: object, width: int | None) -> list[str]:
    """One value: a text as it is, else a line for each of its fields, and tables for lists inside."""
    if isinstance(value, str):
        return [part for line in value.splitlines() for part in folded(plain(line.expandtabs()), width)]
    fields = _fields(value)
    bare = _bare(fields)
    if bare is not None:
        return lines(bare, width)
    flat = {name: part for name, part in fields.items() if not _is_list_of_values(part)}
    cells = {name.replace("_", " "): cell(name, part) or _EMPTY.get(name, "") for name, part in flat.items()}
    shown = _record(cells, width)
    for name, part in fields.items():
        if name not in flat:
            shown += ["", f"{name.replace('_', ' ')}:"]
            shown += [line for page in pages(part, width) for line in page]
    return shown


def _fields(value: object) -> Mapping[str, object]:
    if isinstance(value, Struct):
        return msgspec.structs.asdict(value)
    return {str(name): part for name, part in value.items()} if isinstance(value, Mapping) else {"": value}


def _bare(fields: Mapping[str, object]) -> str | None:
    """A text that needs no name beside it."""
    found = [part for name, part in fields.items() if name in _TEXTS and isinstance(part, str)]
    return found[0] if len(found) == len(fields) == 1 else None


_TEXTS = frozenset({"line", "text"})
_EMPTY = {"reply": "(taken)"}  # of an explained address: nobody hears why not


def _is_list_of_values(value: object) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0 and isinstance(value[0], (Struct, Mapping))


def _record(cells: Mapping[str, str], width: int | None) -> list[str]:
    """Names and their texts side by side; in a narrow window, beneath one another."""
    indent = max(map(len, cells), default=0) + GAP
    if width is not None and width - indent < NARROWEST:
        return [
            line
            for name, text in cells.items()
            for line in (*folded(name, width), *(" " * GAP + part for part in _folded_all(text, width - GAP)))
        ]
    shown = []
    for name, text in cells.items():
        parts = _folded_all(text, None if width is None else width - indent)
        names = [name] + [""] * (len(parts) - 1)
        shown += [f"{first:<{indent}}{part}".rstrip() for first, part in zip(names, parts, strict=True)]
    return shown


def _folded_all(text: str, width: int | None) -> list[str]:
    return [part for line in text.split("\n") for part in folded(line, width)]


def folded(text: str, width: int | None) -> list[str]:
    """A line as lines of at most `width` columns, at a blank where there is one not far away."""
    if width is None or cell_len(text) <= width:
        return [text]
    parts, start, blank, column = [], 0, -1, 0
    for at, c in enumerate(text):
        columns = get_character_cell_size(c)
        if column + columns > width:
            end = blank + 1 if blank - start > width // 2 else at
            parts.append(text[start:end].rstrip())
            start, column = end, cell_len(text[end:at])
        if c == " ":
            blank = at
        column += columns
    return [*parts, text[start:]]


# ---- tables


def _listed(values: Sequence[object], width: int | None) -> Iterator[list[str]]:
    if not values:
        yield ["(none)"]
    elif not _is_list_of_values(values):
        yield [part for value in values for part in lines(value, width)]
    else:
        heads = [name.replace("_", " ") for name in _fields(values[0])]
        for start in range(0, len(values), PAGE):
            yield table(heads, [row(value) for value in values[start : start + PAGE]], width)


def row(value: object) -> list[str]:
    """The cells of a value in a table."""
    return [cell(name, part).replace("\n", " ") for name, part in _fields(value).items()]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Rows beneath heads; where the window is too narrow cells are folded, the first one of a row, by which
    it is named, never; where it is far too narrow, each row is a record."""
    columns = [max(cell_len(row[n]) for row in (heads, *rows)) for n in range(len(heads))]
    if width is not None and not _narrow(columns, width - GAP * (len(columns) - 1)):
        return [line for row in rows for line in ("", *_record(dict(zip(heads, row, strict=True)), width))][
            1:
        ]
    return [line for row in (heads, *rows) for line in _row(row, columns)]


def _narrow(columns: list[int], room: int) -> bool:
    """Take from the widest, but not from the first, until all fit; False if they cannot."""
    columns[1:] = [min(column, max(room, NARROWEST)) for column in columns[1:]]
    while sum(columns) > room:
        widest = max(columns[1:], default=0)
        if widest <= NARROWEST:
            return False
        columns[columns.index(widest, 1)] -= 1
    return True


def _row(cells: Sequence[str], columns: Sequence[int]) -> Iterator[str]:
    parts = [folded(text, column) for text, column in zip(cells, columns, strict=True)]
    for line in zip_longest(*parts, fillvalue=""):
        fitted = (set_cell_size(part, column) for part, column in zip(line, columns, strict=True))
        yield (" " * GAP).join(fitted).rstrip()


class Rolling:
    """Values of a stream, one after the other: rows of a table whose columns are those of the first."""

    def __init__(self) -> None:
        self._columns: list[int] = []

    def lines(self, value: object) -> list[str]:
        if not isinstance(value, (Struct, Mapping)) or _bare(_fields(value)) is not None:
            return lines(value, None)
        heads, cells = [name.replace("_", " ") for name in _fields(value)], row(value)
        if self._columns:
            return [self._row(cells)]
        self._columns = [max(map(cell_len, pair)) for pair in zip(heads, cells, strict=True)]
        return [self._row(heads), self._row(cells)]

    def _row(self, cells: Sequence[str]) -> str:
        padded = (f"{text:<{column}}" for text, column in zip(cells, self._columns, strict=True))
        return (" " * GAP).join(padded).rstrip()


# ---- cells


def cell(name: str, value: object) -> str:
    """The value of the field `name`, as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return plain(", ".join(map(str, value))) or "-"
    if isinstance(value, Mapping):
        return plain(", ".join(f"{key}={part}" for key, part in value.items())) or "-"
    if name in _LIMITS and value == 0:
        return "no limit"
    if isinstance(value, int) and name in _OCTETS:
        return size(value)
    return "\n".join(plain(line) for line in str(value).split("\n"))


def plain(text: str) -> str:
    """Text of whatever origin, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


_LIMITS = frozenset({"quota", "quota_messages"})
_OCTETS = frozenset({"quota", "storage", "trash_storage", "size"})


def size(octets: int) -> str:
    """`4.5K`, `1.2G`."""
    amount = float(octets)
    for unit in ("", "K", "M", "G"):
        if amount < 1024:
            return f"{amount:.4g}{unit}"
        amount /= 1024
    return f"{amount:.4g}T"

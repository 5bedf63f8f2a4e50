"""What commands print: tables on a terminal, plain lines into a pipe, JSON on demand; and progress.

JSON has the field names of the values in `admin.entries` as keys. Plain text is for people and for `cut`;
only JSON is an interface that stays.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from msgspec import Struct

Progress = Callable[[int, int], None]
"""Called with the steps done and all steps."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def show(value: Struct, as_json: bool, without: Container[str] = ()) -> None:
    """One value: a line for each of its fields, as people read it `without` some."""
    if as_json:
        return _json(value)
    cells = {
        name.replace("_", " "): _cell(name, part)
        for name, part in msgspec.structs.asdict(value).items()
        if name not in without
    }
    width = max(map(len, cells))
    for name, text in cells.items():
        click.echo(f"{name:<{width}}  {text}".rstrip())


def show_all(kind: type[Struct], values: Sequence[Struct], as_json: bool) -> None:
    """Many values of a kind: a line each, aligned; on a terminal a table."""
    if as_json:
        return _json(list(values))
    names = kind.__struct_fields__
    rows = [[_cell(name, getattr(value, name)) for name in names] for value in values]
    if sys.stdout.isatty():
        return _table(names, rows)
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(names))]
    for row in rows:
        click.echo("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return None


def said(value: Struct, as_json: bool, *lines: str) -> None:
    """The result of a change: the value as JSON, or sentences."""
    if as_json:
        return _json(value)
    for line in lines:
        click.echo(line)
    return None


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """A bar on standard error while work goes on, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def _table(names: Sequence[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # as text: a name like [red] is no markup
    Console().print(table)


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    if name in _LIMITS and value == 0:
        return "no limit"
    if isinstance(value, int) and name in _OCTETS:
        return _size(value)
    return plain(str(value))


def plain(text: str) -> str:
    """Text of whatever origin, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


_LIMITS = frozenset({"quota", "quota_messages"})
_OCTETS = frozenset({"quota", "storage", "trash_storage", "size"})


def _size(octets: int) -> str:
    amount = float(octets)
    for unit in ("", "K", "M", "G"):
        if amount < 1024:
            return f"{amount:.4g}{unit}"
        amount /= 1024
    return f"{amount:.4g}T"


def number(count: int, word: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"

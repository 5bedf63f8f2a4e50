"""What commands print: tables on a terminal, plain lines into a pipe, JSON on demand; and progress.

JSON has the field names of the values in `admin.entries` as keys. Plain text is for people and for `cut`;
only JSON is an interface that stays. Not here: laying out tables (`console.tables`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

from mailserver.console import tables

Progress = Callable[[int, int], None]
"""Called with the steps done and all steps."""

JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON.")


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def result(value: Any, sentences: Sequence[str], as_json: bool) -> None:
    """The result of an operation, as JSON has it: as JSON, or in sentences if there are any, or as it is."""
    if as_json:
        return click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
    for line in sentences if sentences else _lines(value):
        click.echo(line)
    return None


def _lines(value: Any) -> Iterator[str]:
    if value is None:
        return
    if not sys.stdout.isatty():
        yield from _columns(value) if isinstance(value, list) else tables.lines(value, None)
    else:
        for page in tables.pages(value, width()):
            yield from page


def _columns(values: list[Any]) -> Iterator[str]:
    """A line each, aligned and without heads."""
    rows = [tables.row(value) for value in values]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{text:<{wide}}" for text, wide in zip(row, widths, strict=True)).rstrip()


class Stream:
    """Prints values one by one as they come; a JSON value a line."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._table = tables.Rolling()

    def show(self, value: Any) -> None:
        if self._as_json:
            click.echo(msgspec.json.encode(value))
        elif isinstance(value, dict) and value.keys() == {"good", "text"}:
            click.echo(f"{'ok  ' if value['good'] else 'FAIL'}  {tables.plain(value['text'])}")
        elif isinstance(value, dict) and len(value) == 1:
            click.echo(tables.plain(str(*value.values())))
        elif isinstance(value, dict):
            for line in self._table.lines(value):
                click.echo(line)
        else:
            result(value, (), False)


def width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns


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

"""`mailserver trace`: what became of one message, from the log."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mailserver.admin.refused import Refused
from mailserver.admin.story import story
from mailserver.cli import place
from mailserver.queue.entry import is_id


@click.command()
@click.argument("id")
@click.option(
    "--log-file",
    "files",
    metavar="FILE",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="Read this log, `-` for standard input; repeatable, the oldest first. Default: the configured log.",
)
def trace(id: str, files: tuple[str, ...]) -> int:
    """Print all that the log says of the message ID, which is in its Received field and in the queue.

    A log in the journal: journalctl -u mailserver -o cat | mailserver trace ID --log-file -
    """
    if not is_id(id):
        raise click.BadParameter(f"{id!r} is no id of a message", param_hint="ID")
    found = False
    for line in story(_lines(files or _configured()), id):
        click.echo(line)
        found = True
    if not found:
        raise Refused(f"the log says nothing of {id}")
    return 0


def _configured() -> tuple[str, ...]:
    file = place.config().log_file
    if file is None:
        raise Refused("the log goes to standard error; say --log-file FILE, or pipe the journal into it")
    return (file,)


def _lines(files: tuple[str, ...]) -> Iterator[str]:
    for name in files:
        with click.open_file(name, encoding="utf-8", errors="backslashreplace") as file:
            yield from (line.rstrip("\n") for line in file)

"""`mailserver check`."""

from __future__ import annotations

import os

import click
import msgspec

from mailserver.admin.operator_check import problems as operators_problems
from mailserver.admin.operator_files import OPERATORS, OperatorFiles
from mailserver.cli import output, place
from mailserver.config.check import check as find_problems


@click.command()
@output.json_option
def check(as_json: bool) -> int:
    """Look at the whole configuration and list what is wrong; exit code 1 if anything is."""
    directory = place.directory()
    with output.progress(f"checking {directory}") as progress:
        problems = find_problems(directory, progress)
    problems += operators_problems(OperatorFiles(os.path.join(directory, OPERATORS)))
    if as_json:
        found = [problem._asdict() for problem in problems]
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
    for problem in problems if not as_json else ():
        click.echo(str(problem), err=True)
    if not problems and not as_json:
        click.echo(f"{directory}: no problems")
    return 1 if problems else 0

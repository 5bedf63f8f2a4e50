"""Asking before something is removed. Where nobody can be asked, `--yes` must have said it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from mailserver.admin.refused import Refused


def yes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(command)


def require(yes: bool, question: str, *, loses: bool = True) -> None:
    """Go on only with consent. Raises Refused, or click.Abort for a no.

    What `loses` nothing that cannot be added again needs no consent where there is no terminal.
    """
    if yes or not (loses or sys.stdin.isatty()):
        return
    if not sys.stdin.isatty():
        raise Refused("no terminal to ask on; say --yes")
    click.confirm(question, abort=True, err=True)

"""Asking before something is removed. Where nobody can be asked, `--yes` must have said it."""

from __future__ import annotations

import sys

import click

from mailserver.admin.refused import Refused

OPTION = click.Option(["-y", "--yes"], is_flag=True, help="Do not ask.")


def require(yes: bool, question: str) -> None:
    """Go on only with consent. Raises Refused, or click.Abort for a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("no terminal to ask on; say --yes")
    click.confirm(question, abort=True, err=True)

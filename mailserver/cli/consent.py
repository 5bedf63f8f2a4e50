"""Asking before something is removed. Where nobody can be asked, `--yes` must have said it."""

from __future__ import annotations

import sys

import click

from mailserver.admin.refused import Refused

OPTION = click.Option(["-y", "--yes"], is_flag=True, help="Do not ask.")


class Declined(Refused):
    """The answer was no; the text is one line."""


def require(yes: bool, question: str) -> None:
    """Go on only with consent. Raises Refused; Declined for a no; click.Abort for Ctrl-C."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("no terminal to ask on; say --yes")
    if not click.confirm(question, err=True):
        raise Declined("nothing was changed")

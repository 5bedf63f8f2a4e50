"""Where a command gets a password from: a prompt, standard input, or chance. Never from its arguments."""

from __future__ import annotations

import sys

import click

from mailserver.admin.refused import Refused

_MOST_OCTETS = 8192  # of a line that may hold a password; the rule for passwords is the administration's


OPTION = click.Option(
    ["--password-stdin"],
    is_flag=True,
    help="Read the password from standard input, one line. Without it, ask on the terminal.",
)


def obtain(from_stdin: bool, whose: str) -> str:
    """The password for `whose`. Raises Refused where there is no way to ask."""
    if from_stdin:
        return _line()
    if not sys.stdin.isatty():
        raise Refused("no terminal to ask for a password; give it on standard input with --password-stdin")
    return str(click.prompt(f"Password for {whose}", hide_input=True, confirmation_prompt=True, err=True))


def _line() -> str:
    data = sys.stdin.buffer.readline(_MOST_OCTETS)
    if not data:
        raise Refused("no password on standard input")
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Refused("the password on standard input is not UTF-8") from None

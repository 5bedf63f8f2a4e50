"""The command `console`: a dialogue in phrases with the server here, or with one elsewhere.

Not here: phrases (`dialogue`), connections (`local`, `remote`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import click

from mailserver.admin.refused import EXPECTED, told
from mailserver.cli import consent, output, passwords
from mailserver.cli.console.dialogue import Dialogue
from mailserver.cli.console.lines import Lines, history_file
from mailserver.cli.console.link import Link
from mailserver.cli.console.local import Local
from mailserver.cli.console.remote import Remote
from mailserver.console import tables
from mailserver.console.client import Broken
from mailserver.pool import Busy

LEAVE = ("logout", "exit", "quit")


@click.command()
@click.argument("address", required=False)
@click.option("-c", "phrases", metavar="PHRASE", multiple=True, help="Carry out a phrase instead of asking.")
@click.option("--user", metavar="NAME", help="Who logs in to a server at ADDRESS; without it, ask.")
@click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="The authorities to trust for tls: addresses, in PEM form, instead of the system's.",
)
@click.option("--password-stdin", is_flag=True, help="Read passwords from standard input, a line each.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before something is removed.")
@output.json_option
def console(
    address: str | None,
    phrases: Sequence[str],
    user: str | None,
    ca: str | None,
    password_stdin: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Type phrases, such as `user list`; `help` says which there are.

    Without ADDRESS the server of this configuration is meant, where your account decides who you are.
    A server elsewhere has a listener for the protocol pb (not telnet): tls:HOST:PORT, tcp:127.0.0.1:PORT or
    unix:/PATH.
    """

    def credentials() -> tuple[str, str]:
        name = user or str(click.prompt("Login", err=True))
        return name, _secret(password_stdin, "password", again=False)

    with asyncio.Runner() as runner:
        link: Link = Remote.open(address, ca, credentials, runner) if address else Local()
        dialogue = Dialogue(
            link,
            lambda name: _secret(password_stdin, name, again=name != "old"),
            lambda question: consent.require(yes, question),
            as_json,
        )
        if phrases or not sys.stdin.isatty():
            for line in phrases or sys.stdin:
                dialogue.obey(line)
        else:
            _converse(link, dialogue)


def _converse(link: Link, dialogue: Dialogue) -> None:
    """Until the person leaves. Ctrl-C forgets the line, or ends what goes on."""
    who = tables.plain(link.who())
    click.echo(f"You are {who}; try help.")
    lines = Lines(history_file(), link.complete)
    lines.begin()
    try:
        while (line := _next(lines, f"{who}> ")).strip() not in LEAVE:
            _obey(dialogue, line)
    except EOFError:
        click.echo()
    finally:
        lines.end()


def _next(lines: Lines, prompt: str) -> str:
    try:
        return lines.ask(prompt)
    except KeyboardInterrupt:
        click.echo()
        return ""


def _obey(dialogue: Dialogue, line: str) -> None:
    try:
        dialogue.obey(line)
    except Broken:
        raise
    except (*EXPECTED, Busy, OSError) as error:
        click.echo(told(error), err=True)
    except (KeyboardInterrupt, click.Abort):
        click.echo()


def _secret(from_stdin: bool, name: str, *, again: bool) -> str:
    """What stands in no phrase; typed twice where it is new. Raises Refused where nobody can be asked."""
    if from_stdin or not sys.stdin.isatty():
        return passwords.obtain(from_stdin, name)
    title = name.replace("_", " ").capitalize()
    return str(click.prompt(title, hide_input=True, confirmation_prompt=again, err=True))

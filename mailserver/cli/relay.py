"""`mailserver relay`: the servers that carry our mail further."""

from __future__ import annotations

import asyncio

import click

from mailserver.admin import relays
from mailserver.admin.entries import RelayEntry, RelayStep
from mailserver.cli import output, place
from mailserver.config import outgoing
from mailserver.config.model import Config


@click.group()
def relay() -> None:
    """Servers that carry our mail further."""


@relay.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """All relays, and which mail takes them."""
    found = relays.list_relays(outgoing.relays(place.config()))
    output.show_all(RelayEntry, found, as_json)
    if not found and not as_json:
        click.echo("no relay: mail goes straight to the hosts its recipients' domains name", err=True)


@relay.command()
@click.argument("name")
@output.json_option
def test(name: str, as_json: bool) -> int:
    """Connect, log in, and say in plain words what is wrong; exit code 1 if anything is. Sends nothing."""
    steps = asyncio.run(_test(place.config(), name, as_json))
    if as_json:
        output.show_all(RelayStep, steps, as_json)
    return 0 if all(step.good for step in steps) else 1


async def _test(config: Config, name: str, quiet: bool) -> list[RelayStep]:
    steps = []
    async for step in relays.test(outgoing.relays(config), name, config.hostname):
        steps.append(step)
        if not quiet:
            click.echo(f"{'ok  ' if step.good else 'FAIL'}  {output.plain(step.text)}")
    return steps

"""`mailserver alias`."""

from __future__ import annotations

import click

from mailserver.admin.entries import AliasEntry
from mailserver.cli import arguments, output, place
from mailserver.cli.consent import require, yes_option
from mailserver.mail.address import Address


@click.group()
def alias() -> None:
    """Addresses that lead to other addresses."""


@alias.command()
@click.argument("address", type=arguments.address)
@click.argument("targets", type=arguments.address, nargs=-1, required=True)
@output.json_option
def add(address: Address, targets: tuple[Address, ...], as_json: bool) -> None:
    """Add an alias: mail for ADDRESS goes to all TARGETS."""
    added = place.accounts().add_alias(address, targets)
    output.said(added, as_json, f"{added.address} leads to {', '.join(added.targets)}")


@alias.command()
@click.argument("address", type=arguments.address)
@yes_option
@output.json_option
def remove(address: Address, yes: bool, as_json: bool) -> None:
    """Remove an alias."""
    accounts = place.accounts()
    found = accounts.show_alias(address)
    require(yes, f"Remove {found.address}, which leads to {', '.join(found.targets)}?", loses=False)
    accounts.remove_alias(address)
    output.said(found, as_json, f"{found.address} removed")


@alias.command("list")
@click.argument("domain", type=arguments.domain, required=False)
@output.json_option
def list_(domain: str | None, as_json: bool) -> None:
    """The aliases of a domain, or of all."""
    output.show_all(AliasEntry, place.accounts().list_aliases(domain), as_json)


@alias.command()
@click.argument("address", type=arguments.address)
@output.json_option
def show(address: Address, as_json: bool) -> None:
    """One alias."""
    output.show(place.accounts().show_alias(address), as_json)

"""`mailserver trash`: mail that was deleted and not yet expired."""

from __future__ import annotations

import click

from mailserver.admin import mailboxes
from mailserver.admin.entries import TrashEntry
from mailserver.cli import arguments, output, place
from mailserver.cli.consent import require, yes_option
from mailserver.config.values import Duration
from mailserver.mail.address import Address


@click.group()
def trash() -> None:
    """Deleted mail, which can be restored until it expires."""


@trash.command("list")
@click.argument("address", type=arguments.address)
@output.json_option
def list_(address: Address, as_json: bool) -> None:
    """Deleted messages of a user, newest first."""
    output.show_all(TrashEntry, mailboxes.list_trash(place.accounts(), address), as_json)


@trash.command()
@click.argument("address", type=arguments.address)
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@output.json_option
def restore(address: Address, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Put deleted messages back: those with the IDS that `list` shows, or --all."""
    if bool(ids) == everything:
        raise click.UsageError("name the messages, or say --all", click.get_current_context())
    result = mailboxes.restore(place.accounts(), address, None if everything else ids)
    output.said(result, as_json, f"{output.number(result.restored, 'message')} restored")


@trash.command()
@click.argument("address", type=arguments.address)
@click.argument("ids", nargs=-1)
@click.option("--older-than", type=arguments.duration, help="Only what was deleted longer ago, such as 7d.")
@yes_option
@output.json_option
def purge(
    address: Address, ids: tuple[str, ...], older_than: Duration | None, yes: bool, as_json: bool
) -> None:
    """Remove deleted messages for good: those with IDS, or all, or all that are --older-than."""
    if ids and older_than is not None:
        raise click.UsageError("either IDS or --older-than", click.get_current_context())
    require(yes, f"Remove deleted messages of {address} for good?")
    result = mailboxes.purge(place.accounts(), address, ids or None, older_than)
    output.said(result, as_json, f"{output.number(result.purged, 'message')} removed for good")

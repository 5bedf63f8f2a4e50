"""`mailserver mailbox`."""

from __future__ import annotations

import click

from mailserver.admin import mailboxes
from mailserver.cli import arguments, output, place
from mailserver.mail.address import Address


@click.group()
def mailbox() -> None:
    """What mailboxes hold."""


@mailbox.command()
@click.argument("address", type=arguments.address)
@output.json_option
def show(address: Address, as_json: bool) -> None:
    """Messages, sizes, quota and Trash of a user's mailbox."""
    output.show(mailboxes.summary(place.accounts(), address), as_json)

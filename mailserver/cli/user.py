"""`mailserver user`."""

from __future__ import annotations

import sys

import click

from mailserver.admin.entries import AddedUser, RemovedUser, UserEntry
from mailserver.cli import arguments, output, passwords, place
from mailserver.cli.consent import require, yes_option
from mailserver.mail.address import Address


@click.group()
def user() -> None:
    """People with a mailbox and a password."""


@user.command()
@click.argument("address", type=arguments.address)
@passwords.password_option
@click.option(
    "--quota",
    metavar="SIZE",
    type=arguments.size,
    help="What the mailbox may hold, such as 1G; without it, what the domain says.",
)
@click.option("--quota-messages", type=click.IntRange(0, 10**9), help="And how many messages.")
@output.json_option
def add(
    address: Address, password_stdin: bool, quota: str | None, quota_messages: int | None, as_json: bool
) -> None:
    """Add a user with an empty mailbox. The password is asked for, or read from standard input."""
    accounts = place.accounts()
    accounts.require_free(address)
    given = {"quota": quota, "quota_messages": quota_messages}
    settings = {key: str(value) for key, value in given.items() if value is not None}
    added = accounts.add_user(address, passwords.obtain(password_stdin, str(address)), settings)
    output.said(added, as_json, f"{added.address} added", *_found(added))


def _found(added: AddedUser) -> list[str]:
    """What a namesake may have left: never taken over in silence."""
    lines = [f"mail of a removed user of this name lies aside in {path}" for path in added.set_aside]
    if added.messages:
        lines.insert(0, f"the mailbox was there already, with {output.number(added.messages, 'message')}")
    return lines


@user.command()
@click.argument("address", type=arguments.address)
@click.option("--mail", type=click.Choice(["keep", "delete"]), help="What becomes of it; default: keep.")
@yes_option
@output.json_option
def remove(address: Address, mail: str | None, yes: bool, as_json: bool) -> None:
    """Remove a user. The mail is kept aside, or deleted for good with --mail delete."""
    accounts = place.accounts()
    accounts.require_user(address)
    if mail is None and not yes and sys.stdin.isatty():
        mail = click.prompt("The mail", type=click.Choice(["keep", "delete"]), default="keep", err=True)
    require(yes, f"Remove {address} and {mail or 'keep'} the mail?")
    with output.progress(f"deleting mail of {address}") as progress:
        removed = accounts.remove_user(address, delete_mail=mail == "delete", progress=progress)
    output.said(removed, as_json, f"{removed.address} removed; {_fate(removed)}")


def _fate(removed: RemovedUser) -> str:
    if removed.mail == "kept":
        return f"the mail is kept in {removed.kept_at}"
    return "the mail is deleted" if removed.mail == "deleted" else "there was no mailbox"


@user.command()
@click.argument("address", type=arguments.address)
@passwords.password_option
@output.json_option
def passwd(address: Address, password_stdin: bool, as_json: bool) -> None:
    """Set a user's password, asked for or read from standard input."""
    accounts = place.accounts()
    accounts.require_user(address)
    accounts.set_password(address, passwords.obtain(password_stdin, str(address)))
    output.said(accounts.show_user(address), as_json, f"password of {address} set")


@user.command("list")
@click.argument("domain", type=arguments.domain, required=False)
@output.json_option
def list_(domain: str | None, as_json: bool) -> None:
    """The users of a domain, or of all."""
    output.show_all(UserEntry, place.accounts().list_users(domain), as_json)


@user.command()
@click.argument("address", type=arguments.address)
@output.json_option
def show(address: Address, as_json: bool) -> None:
    """One user."""
    output.show(place.accounts().show_user(address), as_json)

"""`mailserver domain`."""

from __future__ import annotations

import click

from mailserver.admin.entries import DomainEntry
from mailserver.cli import arguments, output, place
from mailserver.cli.consent import require, yes_option


@click.group()
def domain() -> None:
    """Domains whose mail is ours."""


@domain.command()
@click.argument("domain", type=arguments.domain)
@click.option("--catch-all", metavar="ADDRESS", help="Who gets mail for names that nobody has.")
@click.option("--undeliverable-to-postmaster", is_flag=True, help="Postmaster gets it.")
@click.option("--quota", metavar="SIZE", type=arguments.size, help="What each mailbox may hold, such as 1G.")
@click.option("--quota-messages", metavar="N", type=click.IntRange(0, 10**9), help="And how many messages.")
@click.option(
    "--maildirs", metavar="DIR", type=click.Path(resolve_path=True), help="Where its mailboxes are."
)
@output.json_option
def add(domain: str, as_json: bool, **settings: str | int | bool | None) -> None:
    """Add a domain."""
    given = {key: value for key, value in settings.items() if value is not None and value is not False}
    added = place.accounts().add_domain(domain, given)
    output.said(added, as_json, f"{added.domain} added; give it users with `mailserver user add`")


@domain.command()
@click.argument("domain", type=arguments.domain)
@click.option("--with-users", is_flag=True, help="Remove its users too.")
@click.option("--mail", type=click.Choice(["keep", "delete"]), default="keep", show_default=True)
@yes_option
@output.json_option
def remove(domain: str, with_users: bool, mail: str, yes: bool, as_json: bool) -> None:
    """Remove a domain and its aliases.

    A domain with users is removed only --with-users; their mail is kept aside, or deleted with --mail delete.
    """
    accounts = place.accounts()
    found = accounts.show_domain(domain)
    fate = f" with its {found.users} users ({mail} their mail)" if with_users else ""
    require(yes, f"Remove {found.display} and its {found.aliases} aliases{fate}?", loses=with_users)
    with output.progress(f"removing {domain}") as progress:
        removed = accounts.remove_domain(
            domain, with_users=with_users, delete_mail=mail == "delete", progress=progress
        )
    output.said(
        removed, as_json, f"{removed.domain} removed, and {output.number(len(removed.users), 'user')}"
    )


@domain.command("list")
@output.json_option
def list_(as_json: bool) -> None:
    """All domains, with the number of users and aliases."""
    output.show_all(DomainEntry, place.accounts().list_domains(), as_json)


@domain.command()
@click.argument("domain", type=arguments.domain)
@output.json_option
def show(domain: str, as_json: bool) -> None:
    """One domain and its settings."""
    output.show(place.accounts().show_domain(domain), as_json)

"""The letters of `serve` that people know from mktap: `-d`, `-u` and `-b` make an ordinary configuration.

What they say is written into files, in the configuration of `--config` or, without that, in `.config`
inside the first domain's directory (a leading dot is no user); then the ordinary server runs, and every
other command works beside it. Not here: the options themselves (`serve`), what a domain is (`admin`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import click

from mailserver.admin.accounts import Accounts
from mailserver.admin.first_start import write_settings
from mailserver.cli.ownership import make_for
from mailserver.config.load import load
from mailserver.config.overrides import Overrides
from mailserver.config.template import LOOPBACK, render
from mailserver.mail.address import AddressError, parse_mailbox

HIDDEN = ".config"
SPOKEN = ("smtp", "pop3")  # where the letters do not say; nobody sends before somebody asks for it


@dataclass
class Letters:
    """One `-d DOMAIN=PATH` with the `-u` and `-b` that follow it."""

    domain: str
    path: str
    users: list[tuple[str, str]] = field(default_factory=list)
    undeliverable_to_postmaster: bool = False


class InOrder(click.Command):
    """A command that remembers in which order its options were given (`ctx.meta[ORDER]`)."""

    ORDER = "mailserver.cli.letters.order"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta[self.ORDER] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


def group(
    context: click.Context, domains: tuple[tuple[str, str], ...], users: tuple[tuple[str, str], ...]
) -> list[Letters]:
    """Each domain with the users and the `-b` that came after it. Raises click.UsageError."""
    found: list[Letters] = []
    next_domain, next_user = iter(domains), iter(users)
    for name in context.meta[InOrder.ORDER]:
        if name == "domains":
            domain, path = next(next_domain)
            found.append(Letters(domain, os.path.abspath(path)))
        elif name in ("users", "undeliverable_to_postmaster"):
            if not found:
                raise click.UsageError("-u and -b come after the -d they belong to", context)
            if name == "users":
                found[-1].users.append(next(next_user))
            else:
                found[-1].undeliverable_to_postmaster = True
    return found


def establish(letters: list[Letters], directory: str | None, overrides: Overrides) -> str:
    """Write what the letters say; returns the configuration directory.

    Raises Refused, ConfigError, PrivilegeError, click.UsageError, Malformed, Unavailable, OSError.
    """
    first = letters[0]
    for one in letters:
        make_for(one.path, overrides.user, overrides.group)
    if directory is None:
        directory = os.path.join(first.path, HIDDEN)
    make_for(os.path.abspath(directory), overrides.user, overrides.group)
    received = tuple(listener for listener in LOOPBACK if listener[0] in SPOKEN)
    write_settings(directory, render(first.domain, listeners=received, maildirs="maildirs"))
    config = load(directory)
    accounts = Accounts(config.domains, config.maildirs)
    for one in letters:
        accounts.settle_domain(one.domain, one.path, one.undeliverable_to_postmaster)
        for local, password in one.users:
            _settle_user(accounts, one.domain, local, password)
    return directory


def _settle_user(accounts: Accounts, domain: str, local: str, password: str) -> None:
    try:
        address = parse_mailbox(f"{local}@{domain}")
    except AddressError as error:
        raise click.UsageError(f"-u: {local!r} is no user name: {error}") from None
    accounts.settle_user(address, password)

"""`mailserver init`: a commented configuration for a domain of one's own, and what to do next."""

from __future__ import annotations

import os
import sys

import click

from mailserver.admin.accounts import require_possible
from mailserver.admin.first_start import add_postmaster, make_certificate, random_password, write_settings
from mailserver.admin.refused import Refused
from mailserver.cli import arguments, passwords, place
from mailserver.cli.ownership import make_for
from mailserver.config.load import FILE, load
from mailserver.config.model import Config
from mailserver.config.template import LOOPBACK, PUBLIC, render

SYSTEM_MAIL = "/var/lib/mailserver"


@click.command()
@click.argument("domain", type=arguments.domain)
@click.option(
    "--hostname", metavar="NAME", type=arguments.domain, help="This machine's name; default: mail.DOMAIN."
)
@click.option("--user", metavar="NAME", help="The user that the server becomes; owns what is made here.")
@click.option(*passwords.OPTION.opts, is_flag=True, help=passwords.OPTION.help)
def init(domain: str, hostname: str | None, user: str | None, password_stdin: bool) -> None:
    """Write a commented configuration for DOMAIN, with postmaster as its first user.

    The password is read from standard input, asked for on a terminal, or else made and shown. Root gets
    the usual ports, everybody else unprivileged ones on loopback. Nothing that exists is overwritten.
    """
    directory = _directory()
    file = os.path.join(directory, FILE)
    if os.path.lexists(file):
        raise Refused(f"{file} exists already")
    password = _password(password_stdin, domain)
    if password is not None:
        require_possible(password)
    make_for(os.path.abspath(directory), user)
    if not write_settings(directory, _text(domain, hostname, user, directory)):
        raise Refused(f"{file} exists already")
    config = load(directory)
    make_for(config.maildirs, user)
    made = add_postmaster(config, domain, password or random_password())
    make_certificate(config)
    shown = "" if password else f", password {made.password} (shown this once)"
    click.echo(f"{file} written; user {made.address}{shown}\n\n{_next(config, domain, directory)}")


def _directory() -> str:
    """Where all other commands look, too; what is for root alone becomes ./config for others."""
    directory = place.directory()
    return place.LOCAL if directory == place.SYSTEM and os.geteuid() != 0 else directory


def _password(from_stdin: bool, domain: str) -> str | None:
    if from_stdin or sys.stdin.isatty():
        return passwords.obtain(from_stdin, f"postmaster@{domain}")
    return None


def _text(domain: str, hostname: str | None, user: str | None, directory: str) -> str:
    return render(
        domain,
        hostname,
        PUBLIC if os.geteuid() == 0 else LOOPBACK,
        maildirs=SYSTEM_MAIL if directory == place.SYSTEM else None,
        user=user,
    )


def _next(config: Config, domain: str, directory: str) -> str:
    ports = ", ".join(f"{listener.protocol} {listener.endpoint}" for listener in config.listeners)
    command = f"mailserver --config {directory}"
    return f"""\
What to do next:
  1. In the DNS, give {domain} the record   MX 10 {config.hostname}.
     and {config.hostname} the address of this machine (A, AAAA), with its name as the reverse (PTR).
  2. Let the ports through the firewall: {ports}.
     Mail from the world comes in on port 25.
  3. Put a certificate for {config.hostname} into {config.tls}/{config.hostname}/ as fullchain.pem and
     privkey.pem; until then a self-signed one serves.
  4. Add people:           {command} user add NAME@{domain}
  5. Look it all over:     {command} check
  6. Start the server:     {command} serve{_as_root(config)}"""


def _as_root(config: Config) -> str:
    """What root has yet to decide."""
    if os.geteuid() != 0 or config.user is not None:
        return ""
    return f"""
     It does not serve as root: set `user` in {config.file} to an account of its own and give that
     account {config.directory} and {config.maildirs} (chown -R), or begin anew with `init --user NAME`."""

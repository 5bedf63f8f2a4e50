"""The first start: what a server needs to run is made where it is missing, and nothing is ever overwritten.

Not here: the command `init`, which makes the same things for a domain of one's own (`cli.init`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import NamedTuple

from mailserver.admin.accounts import Accounts
from mailserver.config.load import FILE, ConfigError, load
from mailserver.config.model import Config
from mailserver.config.template import EXAMPLE_DOMAIN, render
from mailserver.durable import files
from mailserver.mail.address import Address
from mailserver.transport import tls

POSTMASTER = "postmaster"  # RFC 5321 §4.5.1: every domain has one


class FirstStart(NamedTuple):
    """The first user, whose password is shown this one time."""

    address: str
    password: str


def first_start(
    directory: str, make_directory: Callable[[str], None] = files.make_directory
) -> FirstStart | None:
    """Make the example of a server in `directory` unless there is one; the password if a user was made.

    A server that is not the example and has lost its domains is left alone: with none of its users known it
    would refuse their mail for good. Raises ConfigError for that and for faults of the file; OSError.
    `make_directory` makes a directory, unless it is there, for the user that will serve.
    """
    make_directory(os.path.abspath(directory))
    write_settings(directory, render())
    config = load(directory)
    made = None
    if not os.path.isdir(config.domains):
        if config.default_domain != EXAMPLE_DOMAIN:
            raise ConfigError(
                config.domains, "", "no such directory; `mailserver domain add DOMAIN` makes it"
            )
        make_directory(config.maildirs)
        made = add_postmaster(config, EXAMPLE_DOMAIN, random_password())
    make_certificate(config)
    return made


def write_settings(directory: str, text: str) -> bool:
    """Write `mailserver.toml` unless there is one; says whether it was written. Raises OSError.

    Where there is one, nothing is written: the directory may be read-only for the server.
    """
    path = os.path.join(directory, FILE)
    if os.path.lexists(path):
        return False
    files.make_directory(os.path.abspath(directory))
    try:
        files.create(path, text.encode(), 0o644)
    except FileExistsError:
        return False
    return True


def add_postmaster(config: Config, domain: str, password: str) -> FirstStart:
    """Add a domain and its postmaster. Raises Exists, Refused, OSError."""
    accounts = Accounts(config.domains, config.maildirs)
    accounts.add_domain(domain)
    added = accounts.add_user(Address(POSTMASTER, domain), password)
    return FirstStart(added.address, password)


def make_certificate(config: Config) -> bool:
    """A self-signed certificate where there is none at all; says whether it was made. Raises OSError."""
    try:
        if any(not name.startswith(".") for name in os.listdir(config.tls)):
            return False
    except FileNotFoundError:
        pass
    tls.make_self_signed(config.tls, [config.hostname, "localhost", "127.0.0.1", "::1"])
    return True


def random_password() -> str:
    """A password that nobody guesses and everybody can copy: 96 bits of chance."""
    return secrets.token_urlsafe(12)

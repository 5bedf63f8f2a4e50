"""Which configuration directory a command is about, and the accounts that are configured there."""

from __future__ import annotations

import os

import click

from mailserver.admin.accounts import Accounts
from mailserver.config import load
from mailserver.config.model import Config

SYSTEM = "/etc/mailserver"
LOCAL = "config"


def default_directory() -> str:
    """Where the configuration is when `--config` does not say."""
    if not os.environ.get("MAILSERVER_CONFIG") and os.path.exists(os.path.join(LOCAL, load.FILE)):
        return LOCAL
    return system_directory()


def system_directory() -> str:
    """Likewise, wherever the command was called."""
    return os.environ.get("MAILSERVER_CONFIG") or SYSTEM


def given_directory() -> str | None:
    """What `--config` said for the command that runs now."""
    value = click.get_current_context().obj
    return value if isinstance(value, str) else None


def directory() -> str:
    """The configuration directory of the command that runs now."""
    return given_directory() or default_directory()


def config() -> Config:
    """Its settings. Raises ConfigError."""
    return load.load(directory())


def accounts() -> Accounts:
    """Every operation on its domains, users, aliases and mailboxes. Raises ConfigError."""
    settings = config()
    return Accounts(settings.domains, settings.maildirs)

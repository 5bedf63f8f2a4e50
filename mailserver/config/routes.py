"""The rules for where mail goes, made from a configuration: for the server, and for who asks about them.

Not here: the rules (`mta.routing`), reading settings (`load`).
"""

from __future__ import annotations

import os

from mailserver.config.model import Config
from mailserver.directory import Directory
from mailserver.mail.srs import SECRET_OCTETS, Srs
from mailserver.mta.forwarding import Forwarding
from mailserver.mta.routing import Mailboxes, Routing
from mailserver.pool import Pool


def routing(
    config: Config, directory: Directory, mailboxes: Mailboxes, pool: Pool, srs_key: bytes
) -> Routing:
    """`srs_key` is that of forwarded mail's senders; `pool` is for counting what mailboxes hold."""
    return Routing(
        directory,
        mailboxes,
        pool,
        config.default_domain,
        config.addresses.recipient_delimiter,
        Forwarding(directory, Srs(srs_key)),
    )


def srs_key_file(maildirs: str) -> str:
    """Where the key is under which senders of forwarded mail are rewritten."""
    return os.path.join(maildirs, ".srs.key")


def srs_key(maildirs: str) -> bytes:
    """That key, made at a server's first start. Raises OSError, ValueError."""
    with open(srs_key_file(maildirs), "rb") as file:
        key = file.read(1024)
    if len(key) < SECRET_OCTETS:
        raise ValueError(f"expected at least {SECRET_OCTETS} octets; remove it for a new one")
    return key

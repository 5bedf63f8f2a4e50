"""The rules for where mail goes, made from a configuration: for the server, and for who asks what it would do.

Not here: the rules (`mta.routing`), reading settings (`load`).
"""

from __future__ import annotations

from mailserver.config.model import Config
from mailserver.directory import Directory
from mailserver.mail.srs import Srs
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

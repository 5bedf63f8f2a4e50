"""What the settings for mail that leaves mean to the parts that send it: their values, made from a Config.

Not here: reading settings (`load`), sending (`delivery`, `queue`, `smtp`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from mailserver.config.model import Config, Relay
from mailserver.delivery import relay as delivery
from mailserver.delivery.security import Level
from mailserver.mail.address import Address
from mailserver.queue.courier import Pace
from mailserver.queue.schedule import Schedule


def relays(config: Config) -> tuple[delivery.Relay, ...]:
    """The relays, in the order of the file."""
    return tuple(map(_relay, config.relays))


def _relay(relay: Relay) -> delivery.Relay:
    """Kinds of settings become plain text, as it goes into JSON."""
    return delivery.Relay(
        name=str(relay.name),
        hosts=tuple(relay.hosts),
        lmtp=relay.protocol == "lmtp",
        tls=Level.NONE if relay.protocol == "lmtp" else Level(relay.tls),
        verify=relay.verify,
        authorities=relay.authorities or "",
        user=relay.user,
        secret=relay.secret_file or "",
        connections=relay.connections,
        rate=relay.rate,
        senders=tuple(map(str, (*relay.senders, *relay.sender_domains))),
        recipients=tuple(map(str, relay.recipient_domains)),
        default=relay.default,
    )


def schedule(config: Config) -> Schedule:
    """When mail is tried again, and given up."""
    queue = config.queue
    return Schedule(intervals=tuple(queue.retry), lifetime=queue.lifetime, notice=queue.delay_notice)


def pace(config: Config) -> Pace:
    """What a destination bears that is reached without a relay."""
    return Pace(config.queue.connections_per_destination, config.queue.rate_per_destination)


def further_senders(config: Config) -> dict[str, tuple[str, ...]]:
    """For `mta.senders.Senders`: under which senders a user may send besides his own."""
    return dict(config.submission.senders)


def vouched(config: Config) -> Mapping[int, Address | None]:
    """As whom the processes of a uid send over a UNIX socket; accounts this machine has not are left out.

    The user that serves is among them: it may write into queue and mailboxes anyway.
    """
    accounts = ((uid_of(account), user) for account, user in config.submission.accounts)
    return {os.geteuid(): None, **{uid: user for uid, user in accounts if uid is not None}}


def uid_of(account: str) -> int | None:
    """The number of an account, given by name or number; None if there is no such name."""
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        return int(account) if account.isdigit() else None

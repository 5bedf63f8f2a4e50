"""Relays for their operator: which there are, and what is wrong with one.

Not here: settings (`config`), the visit itself (`delivery.doctor`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping

from mailserver.admin.entries import RelayEntry, RelayStep
from mailserver.delivery import doctor
from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.session import Manner
from mailserver.directory.entries import Missing
from mailserver.pool import Pool

# An operator waits in front of a terminal: less than a message would.
_PATIENCE = Limits(connect=10.0, tls=15.0, greeting=30.0)


def list_relays(relays: Iterable[Relay], troubles: Mapping[str, str]) -> list[RelayEntry]:
    """All relays, in the order of the configuration; `troubles` by their names."""
    return [
        RelayEntry(
            relay.name,
            tuple(map(_host, relay.hosts)),
            "lmtp" if relay.lmtp else "smtp",
            relay.tls.value,
            relay.user,
            relay.senders,
            relay.recipients,
            relay.default,
            troubles.get(relay.name, ""),
        )
        for relay in relays
    ]


async def test(relays: Iterable[Relay], name: str, hostname: str) -> AsyncIterator[RelayStep]:
    """Visit a relay as a message would, calling ourselves `hostname`; each step as it is done.

    Raises Missing for a relay there is not, and never for the relay's own trouble.
    """
    relay = next((relay for relay in relays if relay.name == name), None)
    if relay is None:
        raise Missing(f"no relay {name}")
    pool = Pool("relay", threads=1, waiting=1)
    try:
        async for step in doctor.test(relay, Manner(hostname, _PATIENCE), pool):
            yield RelayStep(step.good, step.text)
    finally:
        pool.close()


def _host(host: Host) -> str:
    if not host.port:
        return f"unix:{host.name}"
    return f"[{host.name}]:{host.port}" if ":" in host.name else f"{host.name}:{host.port}"

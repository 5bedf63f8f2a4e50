"""The ways out of this server, as the queue sees them: a relay that is chosen, else the recipient's domain.

Not here: which relay is chosen (`delivery.relays`), how each courier works, when mail is tried (`queue`).
"""

from __future__ import annotations

from typing import NamedTuple

from mailserver.delivery.courier import RemoteCourier
from mailserver.delivery.limits import Limits
from mailserver.delivery.mta_sts import Policies
from mailserver.delivery.mx import DirectMx
from mailserver.delivery.policy_file import PolicyFile
from mailserver.delivery.policy_hosts import PolicyHosts
from mailserver.delivery.relays import Relays
from mailserver.delivery.security import Authorities
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.mail.address import Address
from mailserver.pool import Pool
from mailserver.queue.courier import Courier, Pace, Route
from mailserver.transport.resolver import Resolver


class Way(NamedTuple):
    """A route: a relay's name, or a domain. Mail that shares it shares connections, pace and back-off."""

    relay: bool
    name: str

    def __str__(self) -> str:
        return self.name


class Ways:
    """A `queue.courier.Router`. `hostname` is our name; `pace` is that of domains without a relay.

    MTA-STS policies outlive the process in `policies_file`.
    """

    def __init__(
        self,
        relays: Relays,
        resolver: Resolver,
        pool: Pool,
        hostname: str,
        pace: Pace,
        policies_file: str,
    ) -> None:
        self._relays = relays
        self._pace = pace
        manner = Manner(hostname, Limits())
        authorities = Authorities(pool)
        hosts = PolicyHosts(resolver, authorities)
        self._policies = Policies(resolver, hosts, keeper=PolicyFile(policies_file, pool))
        self._direct = DirectMx(resolver, self._policies, authorities, manner, pool)
        self._smarthosts = {relay.name: Smarthost(relay, manner, pool) for relay in relays}

    def route(self, sender: Address | None, recipient: Address) -> Route:
        relay = self._relays.choose(sender, recipient)
        return Way(False, recipient.domain) if relay is None else Way(True, relay.name)

    def courier_for(self, route: Route) -> Courier:
        return self._smarthosts[route.name] if isinstance(route, Way) and route.relay else self._direct

    def pace(self, route: Route) -> Pace:
        if not isinstance(route, Way) or not route.relay:
            return self._pace
        relay = self._smarthosts[route.name].relay
        return Pace(relay.connections, relay.rate)

    def troubles(self) -> dict[str, str]:
        """What the operator must put right, by relay: of each host that is in trouble, in one line."""
        return {
            name: "; ".join(f"{host}: {advice}" for host, advice in smarthost.troubles.items())
            for name, smarthost in self._smarthosts.items()
            if smarthost.troubles
        }

    async def close(self) -> None:
        """Take leave of hosts whose connections were kept; what was begun to be stored is."""
        await self._policies.close()
        couriers: list[RemoteCourier] = [self._direct, *self._smarthosts.values()]
        for courier in couriers:
            await courier.close()

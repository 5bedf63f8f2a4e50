"""Where MTA-STS policies come from: the web server `mta-sts.<domain>` (RFC 8461 §3.3)."""

from __future__ import annotations

from mailserver.delivery import https
from mailserver.delivery.mta_sts import SIZE, PolicyError
from mailserver.delivery.security import Authorities
from mailserver.delivery.wire import Place
from mailserver.pool import Busy
from mailserver.transport.resolver import NoSuchDomain, Resolver, ResolverTrouble

PATH = "/.well-known/mta-sts.txt"
ADDRESSES = 2  # that are tried
TIMEOUT = 30.0  # seconds for each of them; §3.3 advises a minute, a message waits meanwhile


class PolicyHosts:
    """Fetches the policy of a domain (`mta_sts.Fetch`)."""

    def __init__(
        self, resolver: Resolver, authorities: Authorities, port: int = 443, timeout: float = TIMEOUT
    ) -> None:
        self._resolver = resolver
        self._authorities = authorities
        self._port = port
        self._timeout = timeout

    async def __call__(self, domain: str) -> bytes:
        """The text of the policy. Raises PolicyError."""
        host = f"mta-sts.{domain}"
        try:
            addresses = (await self._resolver.addresses(host)).values[:ADDRESSES]
            context = await self._authorities.context()
        except (NoSuchDomain, ResolverTrouble, OSError, Busy):
            addresses = ()
        reason = "the policy's host cannot be reached"
        for address in addresses:
            try:
                kind, body = await https.get(
                    host,
                    PATH,
                    place=Place(address, self._port),
                    context=context,
                    limit=SIZE,
                    timeout=self._timeout,
                )
            except https.HttpsError as error:
                reason = str(error)
                continue
            if kind != "text/plain":
                raise PolicyError("the policy is not text/plain")
            return body
        raise PolicyError(reason)

"""The courier to anybody: straight to the mail exchangers of the recipient's domain (RFC 5321 §5).

DNS decides here: which hosts there are, which of them is us, whether a domain takes mail at all, and what
TLS must prove (DANE before MTA-STS, RFC 8461 §2; neither: TLS where offered, any certificate).
A host under a policy gets mail over TLS that satisfies it, or none. Not here: asking (`transport.resolver`).
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mailserver.delivery import dane
from mailserver.delivery.courier import Failure, Hops, RemoteCourier
from mailserver.delivery.mta_sts import Mode, Policies, Policy
from mailserver.delivery.ourselves import is_ours
from mailserver.delivery.replies import deferred, failed, is_final
from mailserver.delivery.security import Authorities, Level, Security, unverified
from mailserver.delivery.session import Hop, Manner
from mailserver.delivery.wire import Place, TlsTrouble, Trouble
from mailserver.mail.reply import Reply
from mailserver.pool import Busy, Pool
from mailserver.queue.courier import Delivery
from mailserver.transport.resolver import Found, Mx, NoSuchDomain, Resolver, ResolverTrouble

PORT = 25
HOSTS = 10  # exchangers of one domain that are looked at; RFC 5321 §5.1 asks for two
ADDRESSES = 4  # of one exchanger

_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_LATER = "cannot be found out now"


class Exchanger(NamedTuple):
    """One host of a domain, with its addresses or what stands in their way."""

    mx: Mx
    addresses: Found[str] | Trouble

    @property
    def numeric(self) -> tuple[str, ...]:
        return () if isinstance(self.addresses, Trouble) else self.addresses.values[:ADDRESSES]


class DirectMx(RemoteCourier):
    """Carries mail to the domain of a delivery's recipients, one and the same for all of them.

    `ours` says whether an address is this machine's; `chance` shuffles hosts of equal preference.
    """

    def __init__(
        self,
        resolver: Resolver,
        policies: Policies,
        authorities: Authorities,
        manner: Manner,
        pool: Pool,
        *,
        ours: Callable[[str], bool] = is_ours,
        port: int = PORT,
        chance: random.Random | None = None,
    ) -> None:
        super().__init__(manner, pool)
        self._resolver = resolver
        self._policies = policies
        self._authorities = authorities
        self._ours = ours
        self._port = port
        self._chance = chance or random.SystemRandom()
        self._unverified = unverified()

    async def hops(self, delivery: Delivery) -> Hops:
        domain = delivery.recipients[0].address.domain
        try:
            found = await self._exchangers(domain)
            exchangers = await asyncio.gather(*map(self._look_up, found.values))
            exchangers = self._without_us(exchangers)
            policy = await self._policies.policy(domain)
        except Trouble as trouble:
            yield Failure("", trouble)  # no host was asked
            return
        for exchanger in exchangers:
            host = exchanger.mx.host
            try:
                if isinstance(exchanger.addresses, Trouble):
                    raise exchanger.addresses
                names = [host, domain] if found.secure else []
                security = await self._security(host, exchanger.addresses, names, policy)
            except Trouble as trouble:
                yield Failure(host, trouble)
                continue
            for address in exchanger.numeric:
                yield Hop(host, Place(address, self._port), security)

    def verdict(self, failures: Sequence[Failure]) -> tuple[Reply, str]:
        """Final if every host said so, or none can exist: else one of them may let us in another time."""
        for failure in reversed(failures):
            if failure.interrupted or not is_final(failure.trouble.reply):
                return super().verdict([failure])
        return failures[-1].trouble.reply, failures[-1].host

    async def _exchangers(self, domain: str) -> Found[Mx]:
        """The hosts to look at, best first. Raises Trouble."""
        try:
            found = await self._resolver.mx(domain)
        except NoSuchDomain:
            raise Trouble(failed("1.2", f"there is no domain {domain}")) from None
        except ResolverTrouble:
            raise Trouble(deferred("4.3", f"the mail exchangers of {domain} {_LATER}")) from None
        if not found.values:
            return found._replace(values=(Mx(0, domain),))  # RFC 5321 §5.1: implicit MX
        named = [mx for mx in found.values if mx.host]
        if not named:
            raise Trouble(failed("1.10", f"{domain} takes no mail"))  # RFC 7505 §3
        self._chance.shuffle(named)
        named.sort(key=lambda mx: mx.preference)
        return found._replace(values=tuple(named[:HOSTS]))

    async def _look_up(self, mx: Mx) -> Exchanger:
        try:
            if not _HOST.fullmatch(mx.host):
                raise NoSuchDomain
            addresses = await self._resolver.addresses(mx.host)
            if not addresses.values:
                raise NoSuchDomain
        except NoSuchDomain:
            return Exchanger(mx, Trouble(failed("4.4", "the mail exchanger has no address")))
        except ResolverTrouble:
            return Exchanger(mx, Trouble(deferred("4.3", f"the address of the mail exchanger {_LATER}")))
        return Exchanger(mx, addresses)

    def _without_us(self, exchangers: Sequence[Exchanger]) -> list[Exchanger]:
        """Those better than ourselves, where we are among them (RFC 5321 §5.1). Raises Trouble."""
        hostname = self.manner.hostname.lower()
        us = [
            exchanger.mx.preference
            for exchanger in exchangers
            if exchanger.mx.host == hostname or any(map(self._ours, exchanger.numeric))
        ]
        better = [exchanger for exchanger in exchangers if not us or exchanger.mx.preference < min(us)]
        if not better:
            raise Trouble(failed("4.6", "the best mail exchanger is this server, which knows no such domain"))
        return better

    async def _security(
        self, host: str, addresses: Found[str], names: Sequence[str], policy: Policy | None
    ) -> Security:
        """What TLS must prove. `names` is empty where the way to the host is not secure. Raises Trouble."""
        if names and addresses.secure:
            for base in dict.fromkeys([addresses.name, host]):  # RFC 7672 §2.2.2: after aliases first
                if security := await self._dane(base, names):
                    return security
        if policy is None or policy.mode is not Mode.ENFORCE:
            return Security(Level.OPPORTUNISTIC, self._unverified, host)
        if not policy.allows(host):
            raise TlsTrouble(deferred("7.5", "the mail exchanger is not in its domain's MTA-STS policy"))
        try:
            return Security(Level.REQUIRED, await self._authorities.context(), host)
        except (OSError, Busy):
            raise TlsTrouble(deferred("7.5", "certificates cannot be checked now")) from None

    async def _dane(self, base: str, names: Sequence[str]) -> Security | None:
        """None where no TLSA records are published. Raises Trouble: RFC 7672 §2.1 forbids to guess."""
        try:
            found = await self._resolver.tlsa(f"_{self._port}._tcp.{base}")
        except NoSuchDomain:
            return None
        except ResolverTrouble:
            raise TlsTrouble(deferred("7.5", f"the mail exchanger's TLSA records {_LATER}")) from None
        if not found.values or not found.secure:
            return None
        records = dane.usable(found.values)
        # Without a usable record TLS is still promised, only not by whom (RFC 7672 §2.2).
        check = dane.check(records, [base, *names]) if records else None
        return Security(Level.REQUIRED, self._unverified, base, check)

"""The courier of a relay: another server that takes our mail for everybody, usually after a login.

What goes wrong between us and the relay is never the message's fault: it is deferred, the operator is told
once in plain words, and nothing bounces. Only what the relay says about a message can fail it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence

from mailserver import maillog
from mailserver.delivery.courier import Failure, Hops, RemoteCourier
from mailserver.delivery.relay import Host, Relay, SecretError, read_secret
from mailserver.delivery.replies import deferred
from mailserver.delivery.security import Authorities, Security, unverified
from mailserver.delivery.session import Hop, Login, Manner
from mailserver.delivery.wire import Place, Trouble
from mailserver.pool import Busy, Pool
from mailserver.queue.courier import Delivery

ADDRESSES = 4  # of one host
_LOOKUP = 30.0  # seconds


class Smarthost(RemoteCourier):
    """Carries mail to one relay. `troubles` says by host what the operator must put right."""

    def __init__(self, relay: Relay, manner: Manner, pool: Pool) -> None:
        super().__init__(manner._replace(lmtp=relay.lmtp), pool)
        self.relay = relay
        self.troubles: dict[str, str] = {}
        self._authorities = Authorities(pool, relay.authorities)
        self._unverified = unverified()

    async def hops(self, delivery: Delivery) -> Hops:
        """Every address of every host, in the order of the configuration."""
        try:
            context = await self.context()
        except Trouble as trouble:
            yield Failure(self.relay.name, trouble)
            return
        for host in self.relay.hosts:
            try:
                addresses = await self.addresses(host)
            except Trouble as trouble:
                yield Failure(host.name, trouble)
                continue
            name = host.name if host.port else self.relay.name  # a path is nobody else's business
            security = Security(self.relay.tls, context, name)
            for address in addresses:
                yield Hop(name, Place(address, host.port), security)

    async def login(self) -> Login | None:
        """Name and password as the secret file has it now. Raises Trouble."""
        if not self.relay.user:
            return None
        try:
            return Login(self.relay.user, await self._pool.run(read_secret, self.relay.secret))
        except SecretError as error:
            raise Trouble(_OURS, str(error)) from None
        except Busy:
            raise Trouble(_OURS) from None

    async def context(self) -> ssl.SSLContext:
        """The TLS context that the relay's settings ask for. Raises Trouble."""
        if not (self.relay.verify and self.relay.tls.mandatory):
            return self._unverified
        try:
            return await self._authorities.context()
        except OSError as error:
            why = "no certificates in it" if isinstance(error, ssl.SSLError) else error.strerror
            raise Trouble(_OURS, f"the relay's file of authorities cannot be used: {why}") from None
        except Busy:
            raise Trouble(_OURS) from None

    async def addresses(self, host: Host) -> Sequence[str]:
        """A host's addresses, as /etc/hosts and the system's resolver give them. Raises Trouble."""
        if not host.port:  # a UNIX socket
            return [host.name]
        try:
            return [str(ipaddress.ip_address(host.name))]
        except ValueError:
            pass
        try:
            async with asyncio.timeout(_LOOKUP):
                return await _look_up(host)
        except socket.gaierror as error:
            advice = "check the host's name" if error.errno == socket.EAI_NONAME else ""
            raise Trouble(deferred("4.4", f"the host {host.name} has no address"), advice) from None
        except (OSError, UnicodeError):
            raise Trouble(deferred("4.3", f"the address of {host.name} cannot be found out now")) from None

    def taken(self, hop: Hop) -> None:
        if self.troubles.pop(str(hop), ""):
            maillog.event("relay-well", relay=self.relay.name, host=hop)

    def refused(self, failure: Failure) -> None:
        """Tell the operator what only he can put right; once, however many messages wait for it."""
        host, trouble, _ = failure
        if trouble.advice and self.troubles.get(host) != trouble.advice:
            self.troubles[host] = trouble.advice
            reply = str(trouble.reply).removeprefix("0 ")
            maillog.event(
                "relay-trouble", relay=self.relay.name, host=host, reply=reply, advice=trouble.advice
            )


_OURS = deferred("3.5", "the relay is not set up completely")  # RFC 3463 §3.4: incorrectly configured


async def _look_up(host: Host) -> list[str]:
    """In the loop's own threads: a silent name server must not hold up what is read from disk."""
    found = await asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))[:ADDRESSES]

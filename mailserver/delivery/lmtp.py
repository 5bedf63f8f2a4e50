"""The courier to another mail store, by LMTP (RFC 2033) over TCP or a UNIX socket.

The store answers for each recipient after the content, and what it takes is in a mailbox, not further on
its way. Its refusals before a message is spoken of are never the message's fault.
"""

from __future__ import annotations

from mailserver.delivery.courier import Hops, RemoteCourier
from mailserver.delivery.security import Level, Security, unverified
from mailserver.delivery.session import Hop, Manner
from mailserver.delivery.wire import Place
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery


class Lmtp(RemoteCourier):
    """Carries mail to the store `name`; `place` is a numeric address with a port, or a socket's path."""

    def __init__(self, name: str, place: Place, manner: Manner, pool: Pool) -> None:
        super().__init__(manner._replace(lmtp=True), pool)
        security = Security(Level.NONE, unverified(), "")
        self._hop = Hop(name, place, security)

    async def hops(self, delivery: Delivery) -> Hops:
        yield self._hop

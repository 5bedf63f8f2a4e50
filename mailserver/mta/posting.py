"""The server's own messages on their way to somebody: delivery reports, notes to the postmaster.

They are routed and committed like those of a client that may relay, without a dialogue. Not here: what is
in them (`mail.dsn`), clients' messages (`smtp`).
"""

from __future__ import annotations

import asyncio

from mailserver.mail.address import Address
from mailserver.mail.envelope import Envelope
from mailserver.mail.reply import Reply
from mailserver.mta.dispatch import Accepted, Dispatch
from mailserver.mta.reception import Reception
from mailserver.mta.route import Asker
from mailserver.mta.routing import Routing


class Posting:
    """Takes messages in by a plain call."""

    def __init__(self, routing: Routing, reception: Reception) -> None:
        self._routing = routing
        self._reception = reception

    async def __call__(self, envelope: Envelope, content: bytes) -> Reply:
        """Post a message for all of its recipients or, with the reply that says why, for none.

        `content` has LF line ends and a header. A positive reply means: durable in each place.
        """
        asker = Asker(envelope.sender, may_relay=True)
        accepted = []
        for recipient in envelope.recipients:
            route = await self._routing.route(recipient.address, len(content), asker)
            if isinstance(route, Reply):
                return route
            accepted.append(Accepted(recipient, route))
        return await self._commit(Dispatch(envelope, accepted), content)

    def postmaster(self) -> Address | None:
        """Who sends reports, and gets those nobody else takes; None where there is none just now."""
        return self._routing.known_postmaster()

    async def _commit(self, dispatch: Dispatch, content: bytes) -> Reply:
        message = self._reception.begin()
        content = dispatch.header().encode() + content
        message.staged.append(content)
        outcome: asyncio.Future[list[Reply | None]] = asyncio.get_running_loop().create_future()
        self._reception.commit(
            message,
            len(content) + content.count(b"\n"),
            dispatch.mailboxes,
            dispatch.departures,
            together=True,
            told=lambda errors: None if outcome.done() else outcome.set_result(errors),
        )
        errors = await outcome
        accepted = Reply(250, "2.0.0", f"OK {message.id}")
        return next((error for error in errors if error is not None), accepted)

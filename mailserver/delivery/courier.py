"""What every courier does: go from host to host until one takes the message, and keep good sessions.

A courier of a kind (`smarthost`, `mx`) says which hosts there are and what their refusals mean.
It never raises for remote trouble: whatever goes wrong becomes an outcome for each recipient.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from mailserver.delivery.attempt import Attempt
from mailserver.delivery.kept import Kept
from mailserver.delivery.limits import attempt_time
from mailserver.delivery.replies import deferred, softened
from mailserver.delivery.session import Hop, Login, LoginRefused, Manner, Session, open_session
from mailserver.delivery.transaction import carry
from mailserver.delivery.wire import Trouble
from mailserver.mail.reply import Reply
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Outcome

_TOO_LONG = deferred("4.2", "the attempt took too long")


class Failure(NamedTuple):
    """A host that could not be used, and why; `host` is empty where none could even be found.

    `interrupted`: it let us in and broke off in a transaction.
    """

    host: str
    trouble: Trouble
    interrupted: bool = False

    @property
    def of_any_message(self) -> bool:
        """Whether every other message would have fared the same."""
        return not self.interrupted or self.trouble.reply.code == 421 or bool(self.trouble.advice)


Hops = AsyncGenerator[Hop | Failure, None]


class RemoteCourier(ABC):
    """Carries messages to other hosts (`queue.courier.Courier`). `pool` reads the messages from disk."""

    def __init__(self, manner: Manner, pool: Pool) -> None:
        self.manner = manner
        self._pool = pool
        self._kept = Kept(manner.limits)

    async def deliver(self, delivery: Delivery) -> Sequence[Outcome]:
        """Try once; one outcome for each recipient, in their order. Never raises for remote trouble."""
        attempt = Attempt(delivery, self._pool)
        try:
            async with asyncio.timeout(attempt_time(self.manner.limits, delivery.size)):
                await self._try(attempt)
        except TimeoutError:
            attempt.settle(attempt.open, _TOO_LONG, "")
        return attempt.outcomes()

    async def close(self) -> None:
        """Leave the hosts that are kept connected."""
        await self._kept.close()

    @abstractmethod
    def hops(self, delivery: Delivery) -> Hops:
        """The hosts to try, best first, at least one; a Failure for one that cannot even be found."""

    async def login(self) -> Login | None:
        """What to log in with. Raises Trouble."""
        return None

    def taken(self, hop: Hop) -> None:  # noqa: B027 - most couriers have nothing to remember
        """A host has let us in."""

    def refused(self, failure: Failure) -> None:  # noqa: B027
        """A host has not let us in."""

    def verdict(self, failures: Sequence[Failure]) -> tuple[Reply, str]:
        """What it means that no host could be used; and who said so. Failures are in the order of trying."""
        last = failures[-1]
        return softened(last.trouble.reply), last.host

    async def _try(self, attempt: Attempt) -> None:
        kept = self._kept.take(attempt.delivery.route)
        if kept is not None:
            await self._use(kept, attempt)  # that it was closed meanwhile counts for nothing
        if not attempt.open:
            return
        failures: list[Failure] = []
        async with aclosing(self.hops(attempt.delivery)) as hops:
            async for hop in hops:
                failure = hop if isinstance(hop, Failure) else await self._visit(hop, attempt)
                if failure is None:
                    return
                failures.append(failure)
                self.refused(failure)
                if self._enough(failures):
                    break
        reply, host = self.verdict(failures)
        unreachable = all(failure.of_any_message for failure in failures)
        attempt.settle(attempt.open, reply, host, unreachable=unreachable)

    def _enough(self, failures: Sequence[Failure]) -> bool:
        limits = self.manner.limits
        return (
            len(failures) >= limits.hosts
            or isinstance(failures[-1].trouble, LoginRefused)  # more of it, and the account gets locked
            or sum(failure.interrupted for failure in failures) >= limits.transactions
        )

    async def _visit(self, hop: Hop, attempt: Attempt) -> Failure | None:
        """None if every recipient has its outcome now."""
        try:
            session = await open_session(hop, self.manner, await self.login())
        except Trouble as trouble:
            return Failure(str(hop), trouble)
        self.taken(hop)
        broken = await self._use(session, attempt)
        return Failure(str(hop), broken, interrupted=True) if broken else None

    async def _use(self, session: Session, attempt: Attempt) -> Trouble | None:
        trouble = await carry(session, attempt)
        self._kept.give(attempt.delivery.route, session)
        return trouble

"""Sessions that are kept open for the next message along the same route, for a while; not too many."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from mailserver.delivery.limits import Limits
from mailserver.delivery.session import Session
from mailserver.queue.courier import Route


class Kept:
    """Idle sessions by route. What is taken out is the taker's until it is given back."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._idle: OrderedDict[Session, tuple[Route, asyncio.TimerHandle]] = OrderedDict()
        self._leaving: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, route: Route) -> Session | None:
        """The session that was used last along this route, if one is still good."""
        while (session := self._latest(route)) is not None:
            self._forget(session)
            if session.usable:
                return session
            session.connection.abort()
        return None

    def give(self, route: Route, session: Session) -> None:
        """Keep a session, or say good-bye to it when it has carried enough."""
        if not session.usable:
            self._leave(session)
            return
        timer = asyncio.get_running_loop().call_later(self._limits.idle, self._expire, session)
        self._idle[session] = (route, timer)
        if len(self._idle) > self._limits.kept:
            self._expire(next(iter(self._idle)))

    async def close(self) -> None:
        """Leave all of them, within the time a QUIT may take."""
        for session in list(self._idle):
            self._expire(session)
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _latest(self, route: Route) -> Session | None:
        used = reversed(self._idle.items())
        return next((session for session, (its_route, _) in used if its_route == route), None)

    def _expire(self, session: Session) -> None:
        self._forget(session)
        self._leave(session)

    def _forget(self, session: Session) -> None:
        _, timer = self._idle.pop(session)
        timer.cancel()

    def _leave(self, session: Session) -> None:
        leaving = asyncio.get_running_loop().create_task(session.quit())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

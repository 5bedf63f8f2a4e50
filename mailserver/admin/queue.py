"""The queue for its operator: listed, shown, and its messages held, released, retried, dropped.

Not here: whether a server runs it or it lies on the disk: that is the business of whoever carries requests.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from mailserver.admin.entries import QueueDestination, QueueDetails, QueueEntry, QueueResult
from mailserver.admin.refused import Refused
from mailserver.admin.requests import COMMANDED, Answer, Request, Verb
from mailserver.directory.entries import Missing
from mailserver.queue.desk import State

_MOVING = frozenset(state.value for state in (State.WAITING, State.ACTIVE, State.DEFERRED))
_STATES = {  # what a command for all is for
    "retry": _MOVING,
    "hold": _MOVING,
    "release": frozenset({State.HELD.value}),
    "drop": frozenset(state.value for state in State),
}


class Office:
    """The operations. `ask` carries a request to the queue; whatever it raises passes through."""

    def __init__(self, ask: Callable[[Request], Awaitable[Answer]]) -> None:
        self._ask = ask

    async def entries(self, after: str = "") -> AsyncIterator[QueueEntry]:
        """All messages after an id in the order of ids, fetched as they are needed. Raises Refused."""
        while listed := (await self._done(Request("list", after=after))).listed:
            for entry in listed:
                yield entry
            after = listed[-1].id

    async def show(self, entry_id: str) -> QueueDetails:
        """Raises Missing, Refused."""
        shown = (await self._done(Request("show", (entry_id,)))).shown
        if shown is None:
            raise Missing(f"no message {entry_id} in the queue")
        return shown

    async def destinations(self) -> tuple[QueueDestination, ...]:
        """At most `requests.LISTED`. Raises Refused."""
        return (await self._done(Request("destinations"))).destinations

    async def command(
        self, verb: Verb, ids: Sequence[str] | None, among: Callable[[QueueEntry], bool] = lambda entry: True
    ) -> QueueResult:
        """Retry, hold, release or drop messages. Raises Refused.

        For None all of those `among` is true of, and that are not as they would be already: of the held ones
        none is retried or held, of the others none released.
        Raises Missing for an id that is not there, after the others were done.
        """
        if ids is not None:
            chosen = list(dict.fromkeys(ids))
        else:
            chosen = [
                entry.id async for entry in self.entries() if entry.state in _STATES[verb] and among(entry)
            ]
        done = 0
        missing: list[str] = []
        for start in range(0, len(chosen), COMMANDED):
            answer = await self._done(Request(verb, tuple(chosen[start : start + COMMANDED])))
            done += answer.done
            missing += answer.missing
        if missing and ids is not None:  # with all of them, some were settled meanwhile
            raise Missing(f"no message {missing[0]} in the queue")
        return QueueResult(done)

    async def _done(self, request: Request) -> Answer:
        answer = await self._ask(request)
        if answer.refused:
            raise Refused(answer.refused)
        return answer

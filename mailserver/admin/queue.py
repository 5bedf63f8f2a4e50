"""The queue for its operator: listed, shown, and its messages held, released, retried, dropped.

Not here: whether a server runs it or it lies on the disk: that is the business of whoever carries requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mailserver.admin.entries import QueueDetails, QueueEntry, QueueResult
from mailserver.admin.refused import Refused
from mailserver.admin.requests import COMMANDED, Answer, Request, Verb
from mailserver.directory.entries import Missing


class Office:
    """The operations. `ask` carries a request to the queue; whatever it raises passes through."""

    def __init__(self, ask: Callable[[Request], Answer]) -> None:
        self._ask = ask

    def entries(self) -> Iterator[QueueEntry]:
        """All messages in the order of their ids, fetched as they are needed. Raises Refused."""
        after = ""
        while listed := self._done(Request("list", after=after)).listed:
            yield from listed
            after = listed[-1].id

    def show(self, entry_id: str) -> QueueDetails:
        """Raises Missing, Refused."""
        shown = self._done(Request("show", (entry_id,))).shown
        if shown is None:
            raise Missing(f"no message {entry_id} in the queue")
        return shown

    def command(self, verb: Verb, ids: Sequence[str] | None) -> QueueResult:
        """Retry, hold, release or drop messages, all for None. Raises Refused.

        Raises Missing for an id that is not there, after the others were done.
        """
        chosen = list(dict.fromkeys(ids)) if ids is not None else [entry.id for entry in self.entries()]
        done = 0
        missing: list[str] = []
        for start in range(0, len(chosen), COMMANDED):
            answer = self._done(Request(verb, tuple(chosen[start : start + COMMANDED])))
            done += answer.done
            missing += answer.missing
        if missing and ids is not None:  # with all of them, some were settled meanwhile
            raise Missing(f"no message {missing[0]} in the queue")
        return QueueResult(done)

    def _done(self, request: Request) -> Answer:
        answer = self._ask(request)
        if answer.refused:
            raise Refused(answer.refused)
        return answer

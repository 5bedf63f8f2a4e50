"""What goes to a client without being asked for each time: events one by one, and mirrors of a state.

Nothing that is sent here is answered (fire and forget). A client that reads too slowly loses events and is
told how many; a mirror is brought up to date when the client has taken what was sent, over whatever happened
in between. Not here: where values come from (`perspective`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from twisted.spread import pb

from mailserver.admin.refused import Refused
from mailserver.console.pb.references import Reference

MOST = 16  # streams of one connection

State = Mapping[str, object]


class Line(Protocol):
    """The way to the client."""

    @property
    def congested(self) -> bool:
        """It has not taken what was sent."""

    def told(self, error: Exception) -> str:
        """An error in words for the client."""

    async def taken(self) -> None:
        """Return when the client has taken what was sent."""


class Streams:
    """The streams of one connection."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._tasks: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def subscribe(self, observer: object, values: AsyncGenerator[object, None]) -> Reference:
        """Call `event(value)` of the client's reference for each value, `lost(count)` after those that it
        was too slow for, `ended(why)` when there are no more; the answer has `stop()`. Raises Refused."""
        if not isinstance(observer, pb.RemoteReference):
            raise Refused("expected a reference with the method `event` first")
        return self._begin(self._tell(observer, values))

    async def mirror(self, states: AsyncGenerator[State, None]) -> Mirror:
        """A mirror of the states, from the first one on. Raises Refused, and what `states` raises."""
        self.require_room()
        first = await anext(states, None)
        if first is None:
            raise Refused("there is nothing to watch")
        mirror = Mirror(first)
        task = self._run(self._follow(mirror, states))
        mirror.forgotten = task.cancel
        return mirror

    def _begin(self, work: Any) -> Reference:
        try:
            self.require_room()
        except Refused:
            work.close()
            raise
        task = self._run(work)

        async def stop() -> None:
            task.cancel()

        return Reference({"stop": stop})

    def require_room(self) -> None:
        """Raises Refused where there are as many streams as there may be."""
        if len(self._tasks) >= MOST:
            raise Refused(f"there are {MOST} streams on this connection: stop one")

    def _run(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tell(self, observer: pb.RemoteReference, values: AsyncGenerator[object, None]) -> None:
        lost, why = 0, ""
        try:
            async for value in values:
                if self._line.congested:
                    lost += 1
                    continue
                if lost:
                    _call(observer.callRemote, "lost", lost)
                    lost = 0
                _call(observer.callRemote, "event", value)
        except Exception as error:
            why = self._line.told(error)
        finally:
            await values.aclose()
        _call(observer.callRemote, "ended", why)

    async def _follow(self, mirror: Mirror, states: AsyncGenerator[State, None]) -> None:
        why = ""
        try:
            async for state in states:
                await self._line.taken()
                mirror.show(state)
        except Exception as error:
            why = self._line.told(error)
        finally:
            await states.aclose()
        mirror.end(why)


class Mirror(pb.Cacheable):
    """A state that the client has a copy of, which follows: `values`, by their names.

    Its copy is a `pb.RemoteCache` for the name TYPE, on which `changed(name, value)`, `gone(name)` and
    `ended(why)` are observed.
    """

    TYPE = b"mailserver.Mirror"

    def __init__(self, values: State) -> None:
        self._values = dict(values)
        self._observer: pb.RemoteCacheObserver | None = None
        self.forgotten: Callable[[], object] = lambda: None

    def show(self, values: State) -> None:
        """Send what is different."""
        before, self._values = self._values, dict(values)
        if self._observer is None:
            return
        for name in before.keys() - values.keys():
            _call(self._observer.callRemote, "gone", name)
        for name, value in values.items():
            if name not in before or before[name] != value:
                _call(self._observer.callRemote, "changed", name, value)

    def end(self, why: str) -> None:
        if self._observer is not None:
            _call(self._observer.callRemote, "ended", why)

    # ---- asked by Twisted

    def getTypeToCopyFor(self, perspective: object) -> bytes:
        return self.TYPE

    def getStateToCacheAndObserveFor(
        self, perspective: object, observer: pb.RemoteCacheObserver
    ) -> dict[str, object]:
        self._observer = observer
        return {"values": self._values}

    def stoppedObserving(self, perspective: object, observer: pb.RemoteCacheObserver) -> None:
        self._observer = None
        self.forgotten()


def _call(remote: Callable[..., Awaitable[object] | None], name: str, *args: object) -> None:
    remote(name, *args, pbanswer=False)

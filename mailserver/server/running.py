"""The running server as operators know it (`admin.server.Server`), seen from the console's process.

Workers are asked on their sockets, the queue on its own, the supervisor over the channel. What does not
answer in time is left out, and the log says so.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Generic, TypeVar

import msgspec

from mailserver import __version__, maillog
from mailserver.admin import control
from mailserver.admin.refused import Refused
from mailserver.admin.requests import Answer, Request
from mailserver.admin.server import ServerStatus, SessionEntry
from mailserver.config.history import History
from mailserver.pool import Pool
from mailserver.queue.spool import Spool
from mailserver.server.asking import ask
from mailserver.server.channel import Ask, Channel, Told, Wish
from mailserver.server.events import Events
from mailserver.server.inside import Inside, Question, Reply, decode_reply, number_of, session_entry
from mailserver.server.worker import Grounds
from mailserver.transport.connections import Connections

T = TypeVar("T")

PATIENCE = 3.0  # seconds for a worker
LONGEST = 120.0  # seconds for the supervisor: workers of two families may have to say a word
FRESH = 1.0  # seconds for which the queue is not counted again


class RunningServer:
    """`follow` is called with nothing when another configuration is in force; it says what is wrong with it
    here. `heed` is called with all that the supervisor tells. `connections` are those of this process."""

    running = True

    def __init__(
        self,
        grounds: Grounds,
        connections: Connections,
        pool: Pool,
        follow: Callable[[], Awaitable[str]],
        heed: Callable[[Told], None],
    ) -> None:
        self._shared = grounds.shared
        self._channel: Channel = grounds.shared.channel
        self._gate = grounds.gate
        self._sockets = grounds.state.workers
        self._spool: Spool = grounds.state.spool
        self._queue = control.path_of(grounds.state.root)
        self._history = History(grounds.config.directory)
        self._connections = connections
        self._inside = Inside(connections, grounds.config.limits.drain_timeout)
        self._pool = pool
        self._follow = follow
        self._heed = heed
        self._events = Events(grounds.shared.tap)
        self._numbers = itertools.count(int(time.time() * 1000) << 8)  # answers to a console before: nobody's
        self._waiting: dict[int, asyncio.Future[Told]] = {}
        self._tasks: set[asyncio.Task[str]] = set()
        self._look_at_queue = Look(partial(pool.run, _count, self._spool), FRESH)
        self._look_at_sessions = Look(self._all_sessions)
        self._look_at_counters = Look(self._all_counters)

    def start(self) -> None:
        """Hear the supervisor, on the running loop."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._hear)

    def _hear(self) -> None:
        for told in self._channel.told():
            self._heed(told)
            waiting = self._waiting.get(told.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(told)
            elif told.changed:
                task = asyncio.ensure_future(self._follow())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _tell(self, wish: Wish) -> Told:
        number = next(self._numbers)
        answer: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._channel.ask(Ask(number, wish))
            async with asyncio.timeout(LONGEST):
                return await answer
        except (OSError, TimeoutError):
            raise Refused("the server does not answer; its log may say why") from None
        finally:
            del self._waiting[number]

    # -- admin.server.Server

    async def reload(self) -> None:
        told = await self._tell("reload")
        problem = await self._follow() if told.changed else ""
        if told.problem or problem:
            raise Refused("; ".join(filter(None, (told.problem, problem))))

    async def stop(self, *, drain: bool) -> None:
        await self._tell("drain" if drain else "stop")

    async def sessions(self) -> list[SessionEntry]:
        return await self._look_at_sessions()

    async def _all_sessions(self) -> list[SessionEntry]:
        found = await asyncio.gather(*map(self._sessions, self._sockets.all().items()))
        here = map(session_entry, self._connections)
        return [session for sessions in (*found, here) for session in sessions]

    async def _sessions(self, worker: tuple[int, str]) -> list[SessionEntry]:
        found: list[SessionEntry] = []
        last = 0
        while (reply := await self._ask(*worker, Question("sessions", last))) is not None:
            found += reply.sessions
            last = reply.last
            if not last:
                break
        return found

    async def close_session(self, session_id: str) -> None:
        try:
            process, number = number_of(session_id)
        except ValueError:
            raise Refused("no such session") from None
        question = Question("close", number)
        path = self._sockets.all().get(process)
        reply = None
        if process == os.getpid():
            reply = self._inside.reply(question)
        elif path is not None:
            reply = await self._ask(process, path, question)
        if reply is None or not reply.found:
            raise Refused("no such session")

    async def _ask(self, process: int, path: str, question: Question) -> Reply | None:
        try:
            return decode_reply(await ask(path, msgspec.json.encode(question) + b"\n", PATIENCE))
        except (FileNotFoundError, ConnectionError):  # it has just ended
            return None
        except (OSError, msgspec.DecodeError):
            maillog.event("worker-silent", worker=process)
            return None

    async def status(self) -> ServerStatus:
        queued, deferred = await self._look_at_queue()
        numbers = await self._pool.run(self._history.numbers)
        return ServerStatus(
            version=__version__,
            pid=os.getppid(),
            since=self._shared.since,
            workers=len(self._sockets.all()),
            connections=self._gate.connections + len(self._connections),
            queued=queued,
            deferred=deferred,
            configuration=max(numbers, default=0),
        )

    async def counters(self) -> dict[str, int]:
        return await self._look_at_counters()

    async def _all_counters(self) -> dict[str, int]:
        workers = self._sockets.all().items()
        replies = await asyncio.gather(*(self._ask(*worker, Question("counters")) for worker in workers))
        total = Counter(maillog.counters())
        for reply in replies:
            total.update(reply.counters if reply is not None else {})
        return dict(total)

    def events(self) -> AsyncIterator[str]:
        return self._events.follow()

    async def ask_queue(self, request: Request) -> Answer:
        line = msgspec.json.encode(request) + b"\n"
        try:
            return _answer.decode(await ask(self._queue, line, control.PATIENCE))
        except (OSError, msgspec.DecodeError):
            raise Refused("the queue does not answer; the server may be starting or stopping") from None


class Look(Generic[T]):
    """Something that is looked up for operators, once for all who ask while a look is under way.

    What they get was begun after they asked, or at most `fresh` seconds before.
    """

    def __init__(self, look: Callable[[], Awaitable[T]], fresh: float = 0.0) -> None:
        self._look = look
        self._fresh = fresh
        self._lock = asyncio.Lock()
        self._begun = -math.inf
        self._found: T | None = None

    async def __call__(self) -> T:
        """Raises what `look` raises."""
        asked = time.monotonic()
        async with self._lock:
            if self._found is None or self._begun < asked - self._fresh:
                begun = time.monotonic()
                self._found = await self._look()
                self._begun = begun
            return self._found


def _count(spool: Spool) -> tuple[int, int]:
    """Entries of the queue, and how many of them have to wait."""
    now = time.time()
    queued = deferred = 0
    for _, due in _ids(spool):
        queued += 1
        deferred += due > now
    return queued, deferred


def _ids(spool: Spool) -> Iterator[tuple[str, float]]:
    try:
        yield from spool.ids()
    except FileNotFoundError:
        return


_answer = msgspec.json.Decoder(Answer)

"""One worker: a process that accepts at all listeners and serves its connections on an event loop.

Workers are alike and share nothing but listening sockets, the gate's counts and the disk; the first one of
a family also sweeps. A worker lives with one configuration: a new one gets new workers (`supervisor`).

Signals: SIGTERM drains and ends; SIGUSR2 retires: nothing new is accepted, sessions go on to their end;
SIGUSR1 reopens the log. Not here: binding, privileges, reading the configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from mailserver import maillog
from mailserver.admin.control import answering
from mailserver.config.model import Config, Listener
from mailserver.mailbox.steady import SteadyClock
from mailserver.mailbox.sweep import Sweeper
from mailserver.mta.counts import Counts
from mailserver.pool import Busy
from mailserver.pop3 import LastLogins
from mailserver.server.channel import Channel
from mailserver.server.events import Tap
from mailserver.server.inside import Inside
from mailserver.server.loop import new_loop, unforeseen
from mailserver.server.outgoing import Nudges, Outgoing
from mailserver.server.services import Factory, Services
from mailserver.server.state import State
from mailserver.server.upkeep import SWEEP_INTERVAL, sweep
from mailserver.transport import listener as transport
from mailserver.transport.endpoint import Endpoint, EndpointError
from mailserver.transport.gate import SLOTS, Gate, Limits
from mailserver.transport.tls import Certificates

Factories = dict[Listener | str, Factory]
BEAT = 1.0  # seconds between signs of life
AGAIN = 5.0  # seconds until a queue that failed is begun anew
QUEUE = "queue"  # the place of the queue's socket among the factories
INSIDE = Limits(100, 0, 10.0)  # connections of the console's process, which are none of the mail's
MOST_WORKERS = 8  # by default, however many cores there are


class Shared:
    """What all processes of a server have in common, whatever their configuration.

    `inherited` are sockets that the service manager has passed (`notify.inherited`).
    """

    def __init__(self, inherited: Mapping[str, Sequence[int]]) -> None:
        self.inherited = inherited
        self.since = datetime.now(UTC).isoformat(timespec="seconds")
        self.tap = Tap()
        self.channel = Channel()
        self.nudges = Nudges()
        self.last_logins = LastLogins()
        self.counts = Counts()


class Grounds:
    """What a family of workers begins with; made before they are forked.

    `factories` is looked up at each connection; each worker fills its own. `workers` is how many there are
    to be.
    """

    def __init__(
        self,
        config: Config,
        state: State,
        certificates: Certificates,
        gate: Gate,
        factories: Factories,
        shared: Shared,
    ) -> None:
        self.config = config
        self.workers = config.workers or min(len(os.sched_getaffinity(0)), MOST_WORKERS)
        self.state = state
        self.certificates = certificates
        self.gate = gate
        self.factories = factories
        self.listeners: dict[Listener, transport.Listener] = {}
        self.queue: transport.Listener | None = None  # where the queue is asked
        self.shared = shared
        self.pulse = memoryview(mmap.mmap(-1, SLOTS * 8)).cast("d")
        """When the loop of each worker was alive last, in monotonic time; shared memory, by slot."""

    def unbind(self) -> None:
        """Let go of all listening sockets, those of a start that failed half-way too."""
        for listener in self._all():
            listener.close()

    def leave(self) -> None:
        """Have no part in accepting, in this process: others go on."""
        for listener in self._all():
            listener.leave()

    def _all(self) -> list[transport.Listener]:
        return [*self.listeners.values(), *([self.queue] if self.queue else [])]


class Worker:
    """The life of one worker, `first` of its family or not."""

    def __init__(self, grounds: Grounds, *, first: bool) -> None:
        self._grounds = grounds
        self._first = first
        self._stop = asyncio.Event()
        self._retire = asyncio.Event()

    def run(self, ready: Callable[[], None], left: Callable[[], None]) -> None:
        """Serve until told to stop; `ready` is called when connections are accepted, `left` when no more."""
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(self._serve(ready, left))

    async def _serve(self, ready: Callable[[], None], left: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unforeseen)
        grounds = self._grounds
        self._services = Services(
            grounds.config,
            grounds.state.staging,
            grounds.certificates,
            grounds.shared.last_logins,
            grounds.shared.counts,
        )
        self._services.reception.queued = grounds.shared.nudges.tell
        listeners = grounds.listeners
        grounds.factories.update({at: self._services.factory(at) for at in listeners})
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR2, self._retire.set)
        loop.add_signal_handler(signal.SIGUSR1, maillog.reopen)
        self._outgoing = Outgoing(
            grounds.config,
            self._services,
            grounds.shared.nudges,
            grounds.state.queue_lock_file,
            grounds.state.policies_file,
        )
        for listener in listeners.values():
            if self._first and grounds.workers > 1:
                listener.defers = self._outgoing.is_carrying
            listener.start()
        inside = self._open_inside()
        ready()
        chores = [asyncio.ensure_future(chore) for chore in self._chores()]
        await self._until_told(left, chores)
        await self._end()
        inside.close()

    def _open_inside(self) -> transport.Listener:
        """Where the console's process asks this one; mail is served without it."""
        connections, config = self._services.connections, self._grounds.config
        inside = Inside(connections, config.limits.drain_timeout)
        factory = answering(inside.obey, self._services.storage, self._services.inside)
        path = self._grounds.state.workers.path(os.getpid())
        listener = transport.Listener(Endpoint("unix", path), factory, gate=Gate(INSIDE))
        try:
            listener.open()
            listener.start()
        except EndpointError as error:
            maillog.event("listener-failed", problem=error)
        return listener

    def _chores(self) -> list[Coroutine[None, None, None]]:
        chores = [self._beating()]
        return [*chores, self._sweeping(), self._relaying()] if self._first else chores

    async def _beating(self) -> None:
        """Show the supervisor that the loop goes round."""
        while True:
            self._grounds.pulse[self._grounds.gate.slot] = time.monotonic()
            await asyncio.sleep(BEAT)

    async def _relaying(self) -> None:
        """Run the queue, and hear operators where it runs; begun anew should it ever fail."""
        grounds = self._grounds
        while True:
            try:
                await self._outgoing.run(self._hear_operators)
            except Exception as error:
                maillog.event("queue-failed", error=type(error).__name__)
            finally:
                if grounds.queue is not None:
                    grounds.queue.pause()
            await asyncio.sleep(AGAIN)

    def _hear_operators(self, factory: Factory) -> None:
        self._grounds.factories[QUEUE] = factory
        if self._grounds.queue is not None:
            self._grounds.queue.start()

    async def _until_told(self, left: Callable[[], None], chores: Sequence[asyncio.Future[None]]) -> None:
        """Return when the worker is to stop, or has retired and its last session has ended."""
        told: Mapping[str, asyncio.Task[object]] = {
            "stop": asyncio.ensure_future(self._stop.wait()),
            "retire": asyncio.ensure_future(self._retire.wait()),
        }
        await asyncio.wait(told.values(), return_when=asyncio.FIRST_COMPLETED)
        for listener in self._grounds.listeners.values():
            listener.leave()
        left()
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        if not self._stop.is_set():
            alone = asyncio.ensure_future(self._alone())
            await asyncio.wait((told["stop"], alone), return_when=asyncio.FIRST_COMPLETED)
            alone.cancel()
        for task in told.values():
            task.cancel()

    async def _alone(self) -> None:
        """Wait until the last of those who were accepted has gone."""
        for listener in self._grounds.listeners.values():
            await listener.settle()
        await self._services.connections.wait_empty()

    async def _end(self) -> None:
        """Let sessions end, finish what was accepted."""
        sessions = len(self._services.connections)
        cut = await self._services.connections.drain(self._grounds.config.limits.drain_timeout)
        await self._services.inside.drain(1.0)
        await asyncio.get_running_loop().run_in_executor(None, self._services.close)
        maillog.event("worker-ended", sessions=sessions, cut=cut, **maillog.counters())

    async def _sweeping(self) -> None:
        clock = SteadyClock(self._grounds.state.sweep_file)
        while True:
            mailboxes = partial(self._services.mailboxes.every, self._services.directory)
            sweeper = Sweeper(mailboxes, self._grounds.config.trash.retention, clock)
            with contextlib.suppress(Busy):  # the next pass finds what this one left
                removed = await sweep(sweeper, self._services.storage)
                maillog.event("swept", files_removed=removed)
            await asyncio.sleep(SWEEP_INTERVAL)

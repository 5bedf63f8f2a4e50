"""Mail that leaves: the queue at work, in one worker of all; and the socket on which operators reach it.

The workers tell of new entries over a pipe. Of the workers of two configurations the old one hands over: a
lock that goes with its process sees to it that the queue never runs twice.
Not here: the queue (`queue`), the ways out (`delivery`), what operators say (`admin.control`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator

from mailserver.admin.control import control
from mailserver.config import outgoing as settings
from mailserver.config.model import Config
from mailserver.delivery.relays import Relays
from mailserver.delivery.ways import Ways
from mailserver.mta.posting import Posting
from mailserver.queue.desk import Desk
from mailserver.queue.entry import Entry, Unreadable, decode, encode, is_id
from mailserver.queue.reports import Reports
from mailserver.queue.runner import Limits, Runner, steady_clock
from mailserver.server.services import Factory, Services
from mailserver.transport.resolver import DnsResolver

LATELY = 60.0  # seconds since the last new entry for which the queue's worker counts as busy
TURN = 0.1  # seconds between looks whether the queue's worker before us has ended
PIPE = 1 << 20  # octets of words that may wait; what every user may have
WORD = 4096  # octets of a word: PIPE_BUF of Linux
READ = 64 * 1024  # octets of words read at once


class Nudges:
    """A pipe by which workers tell the queue's one of new entries; made before they are forked.

    A word is an entry's text, or its id where the text is long. One that finds the pipe full is dropped: the
    queue looks through its directory once a minute.
    """

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._begun = b""
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # more than the system allows
                fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, PIPE)

    def tell(self, entry: Entry) -> None:
        word = encode(entry)
        if len(word) > WORD:
            word = entry.id.encode() + b"\n"
        with contextlib.suppress(BlockingIOError):
            os.write(self._writing, word)  # under PIPE_BUF, so never torn

    def heard(self) -> Iterator[tuple[str, Entry | None]]:
        """Ids, and entries where they came whole."""
        try:
            *words, self._begun = (self._begun + os.read(self.reading, READ)).split(b"\n")
        except BlockingIOError:
            return
        for word in words:
            with contextlib.suppress(Unreadable, UnicodeDecodeError):  # who ran the queue before read a part
                if word.startswith(b"{"):
                    entry = decode(word)
                    yield entry.id, entry
                elif is_id(word.decode()):
                    yield word.decode(), None


class Outgoing:
    """The queue of one worker: `run` waits for its turn, works, and hands over when it is cancelled."""

    def __init__(
        self, config: Config, services: Services, nudges: Nudges, lock_file: str, policies_file: str
    ) -> None:
        self._config = config
        self._services = services
        self._nudges = nudges
        self._lock_file = lock_file
        self._policies_file = policies_file
        self._heard = -LATELY

    def is_carrying(self) -> bool:
        """Whether mail that leaves has come in lately, so that this process has other work than sessions."""
        return time.monotonic() < self._heard + LATELY

    async def run(self, begun: Callable[[Factory], None]) -> None:
        """Run the queue until cancelled, and leave unfinished work to the disk.

        `begun` is given what makes the protocol of connections to the queue's socket. Raises OSError.
        """
        with contextlib.ExitStack() as turn:
            turn.callback(os.close, await self._take_turn())  # or it would never be anybody's turn again
            services, ways = self._services, self._ways()
            runner = self._runner(ways)
            loop = asyncio.get_running_loop()
            try:
                runner.start()
                loop.add_reader(self._nudges.reading, self._hear, runner)
                desk = Desk(runner, services.spool, services.storage, ways.troubles)
                begun(control(desk, services.storage, services.inside))
                await loop.create_future()
            finally:
                loop.remove_reader(self._nudges.reading)
                await runner.stop(self._config.limits.drain_timeout)
                turn.close()  # whoever waits for it need not wait for farewells
                await ways.close()

    def _hear(self, runner: Runner) -> None:
        self._heard = time.monotonic()
        for entry_id, entry in self._nudges.heard():
            runner.submit(entry_id, entry)

    async def _take_turn(self) -> int:
        """A descriptor that holds the lock of the queue at work."""
        fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return fd
                await asyncio.sleep(TURN)
        except BaseException:
            os.close(fd)
            raise

    def _ways(self) -> Ways:
        config = self._config
        relays = Relays(settings.relays(config))
        pace = settings.pace(config)
        return Ways(relays, DnsResolver(), self._services.storage, config.hostname, pace, self._policies_file)

    def _runner(self, ways: Ways) -> Runner:
        config, services = self._config, self._services
        schedule = settings.schedule(config)
        post = Posting(services.routing, services.reception)
        reports = Reports(services.spool, services.storage, post, schedule, config.hostname, post.postmaster)
        limits = Limits(deliveries=config.queue.connections)
        return Runner(
            services.spool, services.storage, ways, reports, steady_clock(), schedule=schedule, limits=limits
        )

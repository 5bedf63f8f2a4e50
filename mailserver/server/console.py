"""The console's process: operators are served here, beside the workers, and never in the way of the mail.

It lives over reloads, so that an operator's connection survives every change that he makes; when it dies it
is replaced, and the mail does not notice. Signals: SIGTERM drains and ends, SIGUSR1 reopens the log.
Not here: front ends (`mailserver.console`), operations (`mailserver.admin`), mail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable

from mailserver import maillog
from mailserver.admin.administration import Administration
from mailserver.admin.operators import Operators
from mailserver.config.editing import EditRefused, Settings
from mailserver.config.load import ConfigError
from mailserver.config.model import Config
from mailserver.console.desk import FrontDesk
from mailserver.pool import Busy, Pool
from mailserver.server.child import Say
from mailserver.server.confirming import Confirming
from mailserver.server.doors import FRONT_ENDS, Doors
from mailserver.server.loop import new_loop, unforeseen
from mailserver.server.running import RunningServer
from mailserver.server.settled import settled
from mailserver.server.worker import Grounds
from mailserver.transport.connections import Connections

BEAT = 1.0  # seconds between signs of life
SWITCH = 0.0005  # seconds a thread at work on files keeps the loop waiting (Python's own: ten times that)
PROTOCOLS = frozenset(FRONT_ENDS)
"""What is spoken to operators, and not by the workers."""


def run(reread: Callable[[], Config], grounds: Grounds, say: Say) -> None:
    """Be the console of a server that has begun with `grounds`, until told to stop."""
    grounds.leave()
    sys.setswitchinterval(SWITCH)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ConsoleProcess(reread, grounds).serve(say))


class ConsoleProcess:
    """The life of the process."""

    def __init__(self, reread: Callable[[], Config], grounds: Grounds) -> None:
        self._reread = reread
        self._grounds = grounds
        self._config = config = grounds.config
        self._connections = Connections()
        self._hashing = Pool("hash", threads=1, waiting=64)
        self._storage = Pool("operations", threads=4, waiting=256)
        self._server = RunningServer(
            grounds,
            self._connections,
            self._storage,
            self.follow,
            lambda told: self._doors.heed(told),
        )
        operators = Operators(config, self._hashing, grounds.shared.counts)
        self._administration = Administration(config, self._server, self._storage, operators)
        desk = FrontDesk(self._administration, operators, lambda: self._config.console, self._connections)
        mail = [at.endpoint for at in grounds.listeners]
        self._doors = Doors(desk, grounds.certificates, grounds.shared.inherited, mail)
        self._confirming = Confirming(config.directory, self._storage, self._server.reload)
        self._following = asyncio.Lock()
        self._stop = asyncio.Event()

    async def serve(self, say: Say) -> None:
        """Serve operators until SIGTERM; `say` that they can come."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unforeseen)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, maillog.reopen)
        self._server.start()
        chores = [asyncio.ensure_future(chore) for chore in (self._beating(), self._confirming.run())]
        await self._doors.follow(self._config)
        await self._doors.open_control(self._grounds.state.control_socket)
        maillog.event("console-serving", process=os.getpid(), listeners=self._doors.endpoints or None)
        say()
        async with self._following:
            await self._note_hand_edit()  # or nobody could go back to what it began with
        await self._stop.wait()
        for chore in chores:
            chore.cancel()
        self._doors.close()
        await self._connections.drain(self._config.limits.drain_timeout)
        self._storage.close()
        self._hashing.close()

    async def follow(self) -> str:
        """Another configuration is in force: go by it. Returns what is wrong with it here."""
        self._confirming.look()
        async with self._following:
            await self._note_hand_edit()
            await asyncio.to_thread(self._grounds.certificates.reload)  # what is wrong, the supervisor says
            try:
                config = settled(await asyncio.to_thread(self._reread), self._config)
            except ConfigError:  # changed again meanwhile: the supervisor will see it, too
                return ""
            with contextlib.suppress(OSError):  # likewise
                maillog.move(config.log_file)
            self._config = self._administration.config = config
            return "; ".join(await self._doors.follow(config))

    async def _note_hand_edit(self) -> None:
        """What a person has written is a version of its own; where that fails now, before the next edit."""
        with contextlib.suppress(EditRefused, ConfigError, OSError, Busy):
            await self._storage.run(Settings(self._config.directory).record_hand_edit)

    async def _beating(self) -> None:
        """Show the supervisor that the loop goes round."""
        while True:
            self._grounds.shared.channel.beat()
            await asyncio.sleep(BEAT)

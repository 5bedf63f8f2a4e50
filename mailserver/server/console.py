"""The console's process: operators are served here, beside the workers, and never in the way of the mail.

It lives over reloads, so that an operator's connection survives every change that he makes; when it dies it
is replaced, and the mail does not notice. Signals: SIGTERM drains and ends, SIGUSR1 reopens the log.
Not here: front ends (`mailserver.console`), operations (`mailserver.admin`), mail.
"""

from __future__ import annotations

import asyncio
import os
import signal

from mailserver import maillog
from mailserver.server.child import Say
from mailserver.server.loop import new_loop, unforeseen
from mailserver.server.worker import Grounds
from mailserver.transport.connections import Connections

BEAT = 1.0  # seconds between signs of life


def run(grounds: Grounds, say: Say) -> None:
    """Be the console of a server that has begun with `grounds`, until told to stop."""
    grounds.leave()
    with asyncio.Runner(loop_factory=new_loop()) as runner:
        runner.run(ConsoleProcess(grounds).serve(say))


class ConsoleProcess:
    """The life of the process."""

    def __init__(self, grounds: Grounds) -> None:
        self._grounds = grounds
        self._channel = grounds.shared.channel
        self._connections = Connections()
        self._stop = asyncio.Event()

    async def serve(self, say: Say) -> None:
        """Serve operators until SIGTERM; `say` that they can come."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(unforeseen)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGUSR1, maillog.reopen)
        beating = asyncio.ensure_future(self._beating())
        maillog.event("console-serving", process=os.getpid())
        say()
        await self._stop.wait()
        beating.cancel()
        await self._connections.drain(self._grounds.config.limits.drain_timeout)

    async def _beating(self) -> None:
        """Show the supervisor that the loop goes round."""
        while True:
            self._channel.beat()
            await asyncio.sleep(BEAT)

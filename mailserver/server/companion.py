"""The console's process as the supervisor sees it: started, replaced when it dies or hangs, ended.

Mail does not depend on it: a console that cannot begin is tried again, and the workers serve.
Not here: what the process does (`console`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Set

from mailserver import maillog
from mailserver.server.child import Say, fork
from mailserver.server.worker import Grounds

WORD_TIMEOUT = 10.0  # seconds the start of the server waits for its console
RESPAWN_DELAY = 1.0  # seconds from the start of one that died to the next
HUNG = 60.0  # seconds without a sign of life


class Companion:
    """Keeps one process that does `work(grounds, say)`."""

    def __init__(self, work: Callable[[Grounds, Say], None]) -> None:
        self._work = work
        self._pid = 0
        self._says = -1
        self._born = 0.0
        self._dying = False

    @property
    def lives(self) -> bool:
        return self._pid != 0

    def start(self, grounds: Grounds, log: maillog.MailLog, blocked: Set[signal.Signals]) -> None:
        """Start it, and wait for a while until it can be reached."""
        self.fill_up(grounds, log, blocked)
        if self.lives:
            select.select([self._says], [], [], WORD_TIMEOUT)

    def fill_up(self, grounds: Grounds, log: maillog.MailLog, blocked: Set[signal.Signals]) -> None:
        """Replace it if it is gone, one that died at its start not in haste; kill it if it hangs."""
        now = time.monotonic()
        if self.lives:
            self._end_hung(max(self._born, grounds.shared.channel.alive), now)
            return
        if self._dying or (self._born and now < self._born + RESPAWN_DELAY):
            return
        self._born = now
        log.flush()
        try:
            self._pid, self._says = fork(lambda say: self._work(grounds, say), log, blocked, "console-failed")
        except OSError as error:
            maillog.event("console-not-started", reason=error.strerror)

    def _end_hung(self, alive: float, now: float) -> None:
        if now - alive > HUNG:
            maillog.event("console-hung", process=self._pid)
            self.tell(signal.SIGKILL)

    def patience(self, otherwise: float) -> float:
        """Seconds until it is to be replaced, if it is missing."""
        if self.lives or self._dying:
            return otherwise
        return max(0.01, self._born + RESPAWN_DELAY - time.monotonic())

    def ended(self, pid: int, status: int) -> None:
        """A child has ended; perhaps it was this one."""
        if pid != self._pid:
            return
        os.close(self._says)
        self._pid = 0
        if not self._dying:
            maillog.event("console-died", process=pid, code=os.waitstatus_to_exitcode(status))

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal. After SIGTERM it is not replaced."""
        self._dying = self._dying or number == signal.SIGTERM
        if self.lives:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

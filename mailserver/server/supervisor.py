"""The supervisor: the parent of the workers and of the console. It serves nobody; it keeps them running.

A plain synchronous process without threads, so that it can fork at any time. It waits for signals: a
worker that died is replaced, SIGHUP or a file changed by hand makes a new family of workers with the new
configuration while the old one serves its sessions to their end, SIGTERM and SIGINT stop all, SIGUSR2 says
that the console has a wish.
Not here: the work (`worker`, `console`), what comes before the first fork (`appliance`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from typing import NamedTuple

from mailserver import maillog
from mailserver.server.channel import WAKE, Told, Wish
from mailserver.server.child import Say, fork
from mailserver.server.companion import Companion
from mailserver.server.notify import Notifier
from mailserver.server.upkeep import WATCH_INTERVAL, Watch
from mailserver.server.worker import Grounds, Worker
from mailserver.transport.gate import SLOTS
from mailserver.transport.listener import Listener

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, WAKE}
WORD_TIMEOUT = 30.0  # seconds for workers to begin to accept connections, or to leave off
RESPAWN_DELAY = 1.0  # seconds between the deaths of a worker at its start and its replacement
HUNG = 60.0  # seconds without a sign of life
MOST_RETIRED = 16  # workers with old configurations; beyond that the oldest are drained


class FamilyError(Exception):
    """Workers could not begin; the text is one line for the operator."""


class Refreshed(NamedTuple):
    """What the files say now: grounds for new workers, None where they say nothing useful; what is wrong."""

    grounds: Grounds | None
    problem: str = ""


@dataclass
class Child:
    """A worker as its parent sees it. `slot` is its place in the gate's counts."""

    pid: int
    slot: int
    first: bool
    born: float
    says: int  # descriptor with an octet when it serves and one when it accepts no more; it ends with it
    retired: bool = False


class Supervisor:
    """Runs a family of workers, and the console. `refresh` gives the grounds of a new configuration."""

    def __init__(
        self,
        grounds: Grounds,
        refresh: Callable[[Grounds], Refreshed],
        console: Companion,
        notifier: Notifier,
    ) -> None:
        self._grounds = grounds
        self._refresh = refresh
        self._console = console
        self._notifier = notifier
        self._channel = grounds.shared.channel
        self._children: dict[int, Child] = {}
        self._log: maillog.MailLog | None = None
        self._not_before = 0.0
        self._ending = self._draining = False
        self._leaving: list[Listener] = []  # of the former configuration, until workers of the new one serve

    @property
    def _count(self) -> int:
        """How many workers there are to be."""
        return 0 if self._draining else self._grounds.workers

    def run(self, log: maillog.MailLog, watch: Watch) -> None:
        """Serve until told to stop. Raises FamilyError when the first workers cannot begin."""
        self._log = log
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        gc.collect()
        gc.freeze()  # what is there now stays: no collector looks at it, no worker copies its pages
        try:
            self._start_family()
        except FamilyError:
            self._stop()
            raise
        self._console.start(self._grounds, log, SIGNALS)
        self._notifier.ready()
        endpoints = " ".join(at.endpoint for at in self._grounds.listeners)
        self._note("serving", workers=self._count, listeners=endpoints)
        _tell_terminal(self._grounds.config.log_file)
        while not self._ending:
            self._wait(watch)
            self._end_hung()
            self._fill_up()
            self._flush()
            self._notifier.alive()
        self._stop()

    def _wait(self, watch: Watch) -> None:
        """Wait for a signal or for a while, and do what is to be done then."""
        interval = min(WATCH_INTERVAL, self._notifier.interval or WATCH_INTERVAL)
        got = signal.sigtimedwait(SIGNALS, min(interval, self._patience()))
        number = got.si_signo if got is not None else None
        if number in (signal.SIGTERM, signal.SIGINT):
            self._ending = True
        elif number == signal.SIGUSR1:
            maillog.reopen()
            self._tell(signal.SIGUSR1)
            self._console.tell(signal.SIGUSR1)
        elif number == WAKE:
            for ask in self._channel.asked():
                watch.changed()  # what is read now is not news afterwards
                self._channel.tell(self._grant(ask.do, ask.id))
        elif watch.changed() or number == signal.SIGHUP:  # likewise
            self._channel.tell(self._reload())

    def _grant(self, wish: Wish, number: int) -> Told:
        if wish == "reload":
            return self._reload(number)
        if wish == "drain":
            self._drain()
        else:
            self._ending = True
        return Told(number)

    # -- workers ---------------------------------------------------------------------------------

    def _start_family(self) -> None:
        """Fork workers and wait until all accept connections. Raises FamilyError, and then none is left."""
        born: list[Child] = []
        try:
            born += [self._spawn(first=number == 0) for number in range(self._count)]
            if not self._await_word(born):
                raise FamilyError("one ended at once; the log says why")
        except (OSError, FamilyError) as error:
            for worker in born:
                worker.retired = True
            self._tell(signal.SIGKILL, born)
            raise FamilyError(f"workers could not begin: {error}") from error

    def _await_word(self, children: list[Child]) -> bool:
        """Wait until each has said its next word, or is dead; whether none is. Raises FamilyError."""
        waiting, alive = [worker.says for worker in children], True
        end = time.monotonic() + WORD_TIMEOUT
        while waiting:
            readable = select.select(waiting, [], [], max(0.0, end - time.monotonic()))[0]
            if not readable:
                raise FamilyError(f"not within {WORD_TIMEOUT:.0f} seconds")
            for says in readable:
                alive = bool(os.read(says, 1)) and alive
                waiting.remove(says)
        return alive

    def _end_hung(self) -> None:
        """Kill workers whose loop stands still: clients would wait for them for ever."""
        for worker in self._children.values():
            alive = max(worker.born, self._grounds.pulse[worker.slot])
            if not worker.retired and time.monotonic() - alive > HUNG:
                self._note("worker-hung", worker=worker.pid)
                self._tell(signal.SIGKILL, [worker])

    def _patience(self) -> float:
        """Seconds until a worker is to be replaced, if one is missing."""
        active = sum(not worker.retired for worker in self._children.values())
        if active < self._count:
            return max(0.01, self._not_before - time.monotonic())
        return self._console.patience(WATCH_INTERVAL)

    def _fill_up(self) -> None:
        """Replace those that died; one that dies at its start is not replaced in haste."""
        for worker, status in self._reap():
            if not worker.retired:
                self._note("worker-died", worker=worker.pid, code=os.waitstatus_to_exitcode(status))
                self._not_before = worker.born + RESPAWN_DELAY
            self._grounds.state.forget(worker.pid)
        assert self._log is not None
        self._console.fill_up(self._grounds, self._log, SIGNALS)
        self._ending = self._ending or (self._draining and not self._children)
        active = [worker for worker in self._children.values() if not worker.retired]
        if len(active) == self._count or time.monotonic() < self._not_before:
            return
        try:
            for _ in range(self._count - len(active)):
                active.append(self._spawn(first=not any(worker.first for worker in active)))
        except OSError as error:
            self._note("worker-not-started", reason=error.strerror)

    def _spawn(self, *, first: bool) -> Child:
        taken = {worker.slot for worker in self._children.values()}
        slot = next(number for number in range(SLOTS) if number not in taken)
        self._grounds.gate.clear(slot)
        self._flush()

        def work(say: Say) -> None:
            self._grounds.gate.slot = slot
            for listener in self._leaving:  # or its port would stay open here
                listener.leave()
            Worker(self._grounds, first=first).run(say, say)

        assert self._log is not None
        pid, says = fork(work, self._log, SIGNALS, "worker-failed")
        born = self._children[pid] = Child(pid, slot, first, time.monotonic(), says)
        return born

    def _reap(self) -> list[tuple[Child, int]]:
        """The workers that have ended, no longer among the living."""
        ended = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._console.ended(pid, status)
            worker = self._children.pop(pid, None)
            if worker is not None:
                os.close(worker.says)
                self._grounds.gate.clear(worker.slot)
                ended.append((worker, status))
        return ended

    def _tell(self, number: signal.Signals, children: list[Child] | None = None) -> None:
        for worker in list(self._children.values()) if children is None else children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, number)

    # -- changes and end -------------------------------------------------------------------------

    def _reload(self, number: int = 0) -> Told:
        """New workers with what the files say now; where that is wrong, nothing changes."""
        if self._draining:
            return Told(number, "the server is stopping")
        self._notifier.reloading()
        fresh, problem = self._refresh(self._grounds)
        changed = fresh is not None
        if fresh is not None:
            failure = self._change(fresh)
            changed, problem = not failure, failure or problem
        self._flush()
        self._notifier.ready()
        return Told(number, problem, changed, mail=tuple(str(at.endpoint) for at in self._grounds.listeners))

    def _change(self, fresh: Grounds) -> str:
        """New workers on new grounds, then the old ones leave; if the new cannot begin, the old go on.

        Returns why they cannot.
        """
        before, self._grounds = self._grounds, fresh
        old = [worker for worker in self._children.values() if not worker.retired]
        self._leaving = _only(before, fresh)
        try:
            self._start_family()
        except FamilyError as error:
            self._grounds = before
            _unbind(_only(fresh, before), {at.endpoint for at in before.listeners})
            self._note("reload-failed", problem=error)
            return str(error)
        else:
            _unbind(self._leaving, {at.endpoint for at in fresh.listeners})
            self._retire(old)
            self._limit_retired()
            self._note("reloaded", listeners=" ".join(at.endpoint for at in fresh.listeners))
            return ""
        finally:
            self._leaving = []

    def _drain(self) -> None:
        """Accept no more; end when the last session has."""
        self._draining = True
        self._notifier.stopping()
        self._note("draining", workers=len(self._children))
        self._retire([worker for worker in self._children.values() if not worker.retired])
        self._grounds.unbind()

    def _retire(self, old: list[Child]) -> None:
        """Have workers accept no more, and wait until they do not: whoever comes now finds the new ones."""
        for worker in old:
            worker.retired = True
        self._tell(signal.SIGUSR2, old)
        with contextlib.suppress(FamilyError):  # deaf, but it will hear in the end
            self._await_word(old)

    def _limit_retired(self) -> None:
        retired = sorted(
            (one for one in self._children.values() if one.retired), key=lambda worker: worker.born
        )
        self._tell(signal.SIGTERM, retired[: max(0, len(retired) - MOST_RETIRED)])

    def _stop(self) -> None:
        """Have all workers drain, and wait for them; what takes too long is killed."""
        self._notifier.stopping()
        self._note("stopping", workers=len(self._children))
        self._grounds.unbind()  # or new connections would wait for somebody to accept them
        self._tell(signal.SIGTERM)
        self._console.tell(signal.SIGTERM)
        drain = self._grounds.config.limits.drain_timeout
        end = time.monotonic() + 2 * drain + 10
        while (self._children or self._console.lives) and time.monotonic() < end:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
            self._reap()
        self._tell(signal.SIGKILL)
        self._console.tell(signal.SIGKILL)
        self._note("stopped", killed=len(self._children))

    def _note(self, name: str, **fields: object) -> None:
        """An event of the supervisor itself, which has no thread to write it."""
        maillog.event(name, **fields)
        self._flush()

    def _flush(self) -> None:
        assert self._log is not None
        self._log.flush()


def _only(these: Grounds, others: Grounds) -> list[Listener]:
    """Listeners that the others have not."""
    return [listener for at, listener in these.listeners.items() if at not in others.listeners]


def _unbind(listeners: Iterable[Listener], endpoints: Set[str]) -> None:
    """Let go of listeners; the socket files of `endpoints` stay, others have them now."""
    for listener in listeners:
        listener.leave() if str(listener.endpoint) in endpoints else listener.close()


def _tell_terminal(log_file: str | None) -> None:
    """Who started it by hand sees that it serves, though its log is elsewhere."""
    if log_file is None or sys.stderr is None:  # it is None where it was closed before we began
        return
    with contextlib.suppress(OSError):  # the terminal is gone
        if sys.stderr.isatty():
            print(f"Serving; the log is {log_file}", file=sys.stderr)

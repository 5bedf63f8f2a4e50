"""The supervisor: the parent of the workers. It serves nobody itself; it keeps workers running.

A plain synchronous process without threads, so that it can fork at any time. It waits for signals: a
worker that died is replaced, SIGHUP or a file changed by hand makes a new family of workers with the new
configuration while the old one serves its sessions to their end, SIGTERM and SIGINT stop all.
Not here: the work (`worker`), what comes before the first fork (`appliance`).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial

from mailserver import maillog
from mailserver.server.notify import Notifier
from mailserver.server.upkeep import WATCH_INTERVAL, Watch
from mailserver.server.worker import Grounds, Worker
from mailserver.transport.gate import SLOTS
from mailserver.transport.listener import Listener

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD}
WORD_TIMEOUT = 30.0  # seconds for workers to begin to accept connections, or to leave off
RESPAWN_DELAY = 1.0  # seconds between the deaths of a worker at its start and its replacement
HUNG = 60.0  # seconds without a sign of life
MOST_RETIRED = 16  # workers with old configurations; beyond that the oldest are drained
_PR_SET_PDEATHSIG = 1


class FamilyError(Exception):
    """Workers could not begin; the text is one line for the operator."""


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
    """Runs a family of `count` workers. `refresh` gives the grounds of a new configuration, or None."""

    def __init__(
        self, grounds: Grounds, count: int, refresh: Callable[[], Grounds | None], notifier: Notifier
    ) -> None:
        self._grounds = grounds
        self._count = count
        self._refresh = refresh
        self._notifier = notifier
        self._children: dict[int, Child] = {}
        self._log: maillog.MailLog | None = None
        self._not_before = 0.0
        self._leaving: list[Listener] = []  # of the former configuration, until workers of the new one serve

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
        self._notifier.ready()
        endpoints = " ".join(at.endpoint for at in self._grounds.listeners)
        self._note("serving", workers=self._count, listeners=endpoints)
        interval = min(WATCH_INTERVAL, self._notifier.interval or WATCH_INTERVAL)
        while True:
            got = signal.sigtimedwait(SIGNALS, min(interval, self._patience()))
            number = got.si_signo if got is not None else None
            if number in (signal.SIGTERM, signal.SIGINT):
                break
            if number == signal.SIGUSR1:
                maillog.reopen()
                self._tell(signal.SIGUSR1)
            elif watch.changed() or number == signal.SIGHUP:  # what SIGHUP reads is not news afterwards
                self._reload()
            self._end_hung()
            self._fill_up()
            self._flush()
            self._notifier.alive()
        self._stop()

    # -- workers ---------------------------------------------------------------------------------

    def _start_family(self) -> None:
        """Fork workers and wait until all accept connections. Raises FamilyError, and then none is left."""
        born: list[Child] = []
        try:
            born += [self._spawn(first=number == 0) for number in range(self._count)]
            if not self._await_word(born):
                raise FamilyError("one ended at once; the log says why")
        except (OSError, FamilyError) as error:
            for child in born:
                child.retired = True
            self._tell(signal.SIGKILL, born)
            raise FamilyError(f"workers could not begin: {error}") from error

    def _await_word(self, children: list[Child]) -> bool:
        """Wait until each has said its next word, or is dead; whether none is. Raises FamilyError."""
        waiting, alive = [child.says for child in children], True
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
        for child in self._children.values():
            alive = max(child.born, self._grounds.pulse[child.slot])
            if not child.retired and time.monotonic() - alive > HUNG:
                self._note("worker-hung", worker=child.pid)
                self._tell(signal.SIGKILL, [child])

    def _patience(self) -> float:
        """Seconds until a worker is to be replaced, if one is missing."""
        active = sum(not child.retired for child in self._children.values())
        missing = active < self._count
        return max(0.01, self._not_before - time.monotonic()) if missing else WATCH_INTERVAL

    def _fill_up(self) -> None:
        """Replace workers that died; one that dies at its start is not replaced in haste."""
        for child, status in self._reap():
            if not child.retired:
                self._note("worker-died", worker=child.pid, code=os.waitstatus_to_exitcode(status))
                self._not_before = child.born + RESPAWN_DELAY
            self._grounds.state.forget(child.pid)
        active = [child for child in self._children.values() if not child.retired]
        if len(active) == self._count or time.monotonic() < self._not_before:
            return
        try:
            for _ in range(self._count - len(active)):
                active.append(self._spawn(first=not any(child.first for child in active)))
        except OSError as error:
            self._note("worker-not-started", reason=error.strerror)

    def _spawn(self, *, first: bool) -> Child:
        taken = {child.slot for child in self._children.values()}
        slot = next(number for number in range(SLOTS) if number not in taken)
        self._grounds.gate.clear(slot)
        self._flush()
        says, tell = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(says)
            os.close(tell)
            raise
        if pid == 0:
            os.close(says)
            self._be_worker(slot, first, tell)
        os.close(tell)
        child = self._children[pid] = Child(pid, slot, first, time.monotonic(), says)
        return child

    def _be_worker(self, slot: int, first: bool, tell: int) -> None:
        """In the child: serve, and never come back."""
        code = 1
        try:
            _die_with_parent()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C: the parent decides
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            self._grounds.gate.slot = slot
            for listener in self._leaving:  # or its port would stay open here
                listener.leave()
            assert self._log is not None
            self._log.start()
            Worker(self._grounds, first=first).run(partial(_say, tell), partial(_say, tell))
            code = 0
        except BaseException as error:
            maillog.event("worker-failed", error=type(error).__name__, place=_place(error))
        finally:
            with contextlib.suppress(BaseException):
                assert self._log is not None
                self._log.close()
            os._exit(code)

    def _reap(self) -> list[tuple[Child, int]]:
        """The children that have ended, no longer among the living."""
        ended = []
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            child = self._children.pop(pid, None)
            if child is not None:
                os.close(child.says)
                self._grounds.gate.clear(child.slot)
                ended.append((child, status))
        return ended

    def _tell(self, number: signal.Signals, children: list[Child] | None = None) -> None:
        for child in list(self._children.values()) if children is None else children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    # -- changes and end -------------------------------------------------------------------------

    def _reload(self) -> None:
        """New workers with what the files say now; where that is wrong, nothing changes."""
        self._notifier.reloading()
        fresh = self._refresh()
        if fresh is not None:
            self._change(fresh)
        self._flush()
        self._notifier.ready()

    def _change(self, fresh: Grounds) -> None:
        """New workers on new grounds, then the old ones leave; if the new cannot begin, the old go on."""
        before, self._grounds = self._grounds, fresh
        old = [child for child in self._children.values() if not child.retired]
        self._leaving = [listener for at, listener in before.listeners.items() if at not in fresh.listeners]
        try:
            self._start_family()
        except FamilyError as error:
            self._grounds = before
            self._note("reload-failed", problem=error)
        else:
            _unbind(self._leaving, {at.endpoint for at in fresh.listeners})
            self._retire(old)
            self._note("reloaded", listeners=" ".join(at.endpoint for at in fresh.listeners))
        self._leaving = []

    def _retire(self, old: list[Child]) -> None:
        """Have workers accept no more, and wait until they do not: whoever comes now finds the new ones."""
        for child in old:
            child.retired = True
        self._tell(signal.SIGUSR2, old)
        with contextlib.suppress(FamilyError):  # deaf, but it will hear in the end
            self._await_word(old)
        self._limit_retired()

    def _limit_retired(self) -> None:
        retired = sorted((c for c in self._children.values() if c.retired), key=lambda child: child.born)
        self._tell(signal.SIGTERM, retired[: max(0, len(retired) - MOST_RETIRED)])

    def _stop(self) -> None:
        """Have all workers drain, and wait for them; what takes too long is killed."""
        self._notifier.stopping()
        self._note("stopping", workers=len(self._children))
        self._grounds.unbind()  # or new connections would wait for somebody to accept them
        self._tell(signal.SIGTERM)
        drain = self._grounds.config.limits.drain_timeout
        end = time.monotonic() + 2 * drain + 10
        while self._children and time.monotonic() < end:
            signal.sigtimedwait({signal.SIGCHLD}, 0.2)
            self._reap()
        self._tell(signal.SIGKILL)
        self._note("stopped", killed=len(self._children))

    def _note(self, name: str, **fields: object) -> None:
        """An event of the supervisor itself, which has no thread to write it."""
        maillog.event(name, **fields)
        self._flush()

    def _flush(self) -> None:
        assert self._log is not None
        self._log.flush()


def _unbind(listeners: list[Listener], endpoints: Set[str]) -> None:
    """Let go of listeners; the socket files of `endpoints` stay, others have them now."""
    for listener in listeners:
        listener.leave() if str(listener.endpoint) in endpoints else listener.close()


def _say(fd: int) -> None:
    """A worker's word to its parent."""
    with contextlib.suppress(BrokenPipeError):
        os.write(fd, b"+")


def _die_with_parent() -> None:
    """Be killed when the supervisor is: a restarted one must not find its state in use (prctl(2), Linux)."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else "?"

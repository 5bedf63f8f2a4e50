"""Group commit: message content becomes durable, then visible, then is reported, in this order.

One thread takes every message that is ready and does for all of them together

    write, prepare  ->  sync contents  ->  link into each destination  ->  sync directories  ->  report

so sessions that finish together share their syncs, and one that is alone waits for nobody; what gets ready
while others are written comes along. Content is written once and linked into every destination; when a
message fails half-way, what was linked is unlinked.

Where more than one file or directory is to be synced, `syncfs(2)` does it for the whole file system in one
pass. It is worth it because a file's own fsync costs a journal commit each: measured on a two-core virtual
machine, 4 KiB messages, one thread: fsync each 340/s, syncfs in groups of 8 1,700/s, of 64 4,000/s; a second
thread made it slower. What is alone is synced by fsync, which does not wait for other programs' writes.

Not here: what a destination is (a mailbox, a queue), and the event loop: reports are plain calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import queue
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mailserver.durable.directories import Directories

GROUP = 64  # messages a pass; also bounds the open descriptors
WAITING = 4096  # messages that may wait for the thread; more is "try again later"
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Full(Exception):
    """Too many messages wait for the disk."""


class Destination(Protocol):
    """A place a message goes to: a mailbox's `new/`, the queue."""

    @property
    def directory(self) -> str:
        """The directory that holds the name made by `link`; it is synced afterwards."""

    def open(self) -> int:
        """A descriptor of that directory, which is made if need be. Raises OSError."""

    def link(self, source: str, directory: int, *, last: bool) -> bool:
        """Give the content at `source` its name here; `last` may rename instead. Raises OSError.

        Returns whether the name is on the file system of `source`, so that a sync of the whole covers it.
        """

    def unlink(self) -> None:
        """Take the name back; silent when it is gone."""


class Prepared:
    """A destination that needs more on the disk than the content before it gives it a name.

    A plain class to inherit from: whether something is one is asked for each message, and asking that of a
    protocol took 50 µs, of an abstract class 1.
    """

    def prepare(self, source: str) -> None:
        """Write that, for no reader to see, with the content at `source` complete but not yet synced.

        Raises OSError.
        """
        raise NotImplementedError

    def sync(self) -> None:
        """Make durable what `prepare` did, where no sync of the whole file system did. Raises OSError."""
        raise NotImplementedError

    def unlink(self) -> None:
        """Take it all back, the name too; silent when it is gone."""
        raise NotImplementedError


class Staged:
    """Content on its way to the disk, in a file no reader looks at.

    Blocks gather in memory; `write` moves them to the file. The caller writes when `pending` is more than
    it wants to hold, the committer writes the rest: a short message costs the loop no system call.
    `write` and `discard` may be called from different threads.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = 0
        self.pending = 0
        self._blocks: list[bytes] = []
        self._fd = -1
        self._discarded = False
        self._lock = threading.Lock()

    def append(self, block: bytes) -> None:
        self._blocks.append(block)
        self.size += len(block)
        self.pending += len(block)

    def write(self) -> None:
        """Move what is pending to the file, unless it was discarded. Raises OSError."""
        with self._lock:
            if self._discarded:
                return
            if self._fd < 0:
                self._fd = os.open(self.path, _NEW_FILE, 0o600)
            blocks, self._blocks, self.pending = self._blocks, [], 0
            view = memoryview(b"".join(blocks))
            while view:
                view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1  # closed even where close(2) fails; by then it may be another's
            os.close(fd)

    def discard(self) -> None:
        """Forget the content: close and remove the file, silently if there is none. Never raises."""
        with self._lock:
            self._discarded = True
            self._blocks.clear()
            if self._fd >= 0:
                with contextlib.suppress(OSError):
                    self.close()
                with contextlib.suppress(OSError):
                    os.unlink(self.path)


class Job:
    """One message to commit. `errors[i]` tells why destination i does not have it; None: it has, durably.

    `together`: all destinations or none (SMTP has one reply for all); else each for itself (LMTP).
    `report` is called once, from the committing thread, when the outcome is final: with all jobs of a pass
    that have the same one, so that who waits in another thread is woken once.
    """

    def __init__(
        self,
        staged: Staged,
        destinations: Sequence[Destination],
        report: Callable[[list[Any]], None],
        *,
        together: bool,
    ) -> None:
        self.staged = staged
        self.destinations = destinations
        self.errors: list[Exception | None] = [None] * len(destinations)
        self.placed: list[Destination] = []
        self.elsewhere: list[Destination] = []
        """Those of `placed` that are on another file system."""
        self.prepared: list[Prepared] = []
        self.written = False
        self.report = report
        self.together = together

    def write(self) -> None:
        """Write content and preparations; raises the first error where it is all or none."""
        self.staged.write()
        for index, destination in enumerate(self.destinations):
            if isinstance(destination, Prepared):
                try:
                    destination.prepare(self.staged.path)
                except Exception as error:
                    self._fail_one(index, error)
                else:
                    self.prepared.append(destination)

    def sync(self) -> None:
        """Make content and preparations durable, one by one. Raises OSError."""
        self.staged.sync()
        for destination in self.prepared:
            destination.sync()

    def link(self, directories: Directories) -> None:
        """Give the content its name in each destination; raises the first error where it is all or none."""
        last = len(self.destinations) - 1
        source = self.staged.path
        for index, destination in enumerate(self.destinations):
            if self.errors[index] is not None:
                continue
            try:
                directory = directories.of(destination.directory, destination.open)
                covered = destination.link(source, directory, last=index == last)
            except Exception as error:
                self._fail_one(index, error)
                continue
            self.placed.append(destination)
            if not covered:
                self.elsewhere.append(destination)
            if index == last:
                self.staged.close()

    def sync_names(self, directories: Directories, covered: bool) -> None:
        """Make the names durable; `covered`: those on the file system of the content are. Raises OSError."""
        for destination in self.elsewhere if covered else self.placed:
            directories.sync(destination.directory)

    def _fail_one(self, index: int, error: Exception) -> None:
        self.destinations[index].unlink()  # it may have failed after the name was made
        if self.together:
            raise error
        self.errors[index] = error

    def fail(self, error: Exception) -> None:
        """No destination gets the message: take back what was prepared and linked."""
        taken: list[Destination | Prepared] = [*self.placed, *self.prepared]
        for destination in taken:
            destination.unlink()
        self.placed, self.prepared, self.elsewhere = [], [], []
        self.errors = [error] * len(self.destinations)
        self.staged.discard()


class Committer:
    """The thread that commits what is staged in `directory`."""

    def __init__(self, directory: str) -> None:
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="commit", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Commit `job` and call its `report` from the committing thread. Raises Full."""
        if self._jobs.qsize() >= WAITING:
            raise Full
        self._jobs.put(job)

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while jobs := self._take():
            self._commit(jobs)

    def _take(self) -> list[Job]:
        """What is ready, and what comes while that is written; empty at the end."""
        jobs: list[Job] = []
        while len(jobs) < GROUP and not (jobs and self._jobs.empty()):
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # for the next time, when there is nothing else
                break
            jobs.append(job)
            job.written = _attempt(job, Job.write)
        return jobs

    def _commit(self, jobs: list[Job]) -> None:
        ready = self._sync_contents([job for job in jobs if job.written])
        directories = Directories()
        ready = [job for job in ready if _attempt(job, Job.link, directories)]
        ready = self._sync_directories(ready, directories)
        directories.close()
        for job in ready:
            job.staged.discard()
        for report in dict.fromkeys(job.report for job in jobs):
            report([job for job in jobs if job.report is report])

    def _sync_contents(self, jobs: list[Job]) -> list[Job]:
        """The jobs whose content is durable. Where syncfs fails, each file tells if it is concerned."""
        if (len(jobs) > 1 or (jobs and jobs[0].prepared)) and _syncfs(self._fd):
            return jobs
        return [job for job in jobs if _attempt(job, Job.sync)]

    def _sync_directories(self, jobs: list[Job], directories: Directories) -> list[Job]:
        """The jobs whose names are durable."""
        names = {destination.directory for job in jobs for destination in job.placed}
        covered = len(names) > 1 and _syncfs(self._fd)
        return [job for job in jobs if _attempt(job, Job.sync_names, directories, covered)]


def _attempt(job: Job, step: Callable[..., None], *arguments: object) -> bool:
    """Run a step of one job. Any error is that job's alone: this thread serves all sessions."""
    try:
        step(job, *arguments)
    except Exception as error:
        job.fail(error)
        return False
    return True


def sync_files(paths: Sequence[str]) -> None:
    """Make the contents of closed files of one file system durable, many in one pass. Raises OSError."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if len(paths) > 1 and _syncfs(fd):
                return
            os.fsync(fd)
        finally:
            os.close(fd)


def recover(directory: str) -> int:
    """Remove staged content that no one was told about; how many files. Raises OSError.

    Called at start, before the first message, by the only server on this state.
    """
    removed = 0
    for name in os.listdir(directory):
        with contextlib.suppress(IsADirectoryError):  # not ours, and in nobody's way
            os.unlink(os.path.join(directory, name))
            removed += 1
    return removed


def _load_syncfs() -> Callable[[int], int] | None:
    """syncfs(2), where it reports write errors: Linux 5.8 and later."""
    version = re.match(r"(\d+)\.(\d+)", platform.release())
    if platform.system() != "Linux" or not version or tuple(map(int, version.groups())) < (5, 8):
        return None
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return function


_SYNCFS = _load_syncfs()


def _syncfs(fd: int) -> bool:
    return _SYNCFS is not None and _SYNCFS(fd) == 0

"""The mail log: one structured line per event, and counters. It never blocks the caller.

Lines go to a file descriptor through a thread of its own, the first after a quiet time at once, those of
a busy time together. When their reader stalls, at most `PENDING` lines wait and further ones are dropped
and counted, because a full log pipe must not stop the mail.
Values are escaped, so no client can forge a line or send control characters to a terminal.
Not here: tracebacks for people debugging (there are none in normal running), metrics over the network.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache

PENDING = 20_000
GATHER = 0.02  # seconds from one write to the next: a wake-up for each line took a tenth of the machine
_STANDARD_ERROR = 2

# printable ASCII without space, quote, equals sign and backslash
_PLAIN = re.compile(r"[!#-<>-\[\]-~]+").fullmatch
_ESCAPED = {ord('"'): '\\"', ord("\\"): "\\\\"}


class MailLog:
    """Where the lines go: standard error, or a file that is reopened on demand (log rotation)."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._fd = _STANDARD_ERROR if path is None else _open(path)
        self._lines: deque[str] = deque()
        self._wake = threading.Event()
        self._write_lock = threading.Lock()
        self._dropped = 0
        self._closing = threading.Event()
        self.tap: Callable[[str], None] | None = None
        """Gets each line, too; must not block."""
        self._writer = threading.Thread(target=self._run, name="maillog", daemon=True)

    def give_to(self, user: int, group: int) -> None:
        """Make a file the log of another user. Raises OSError."""
        if self._fd != _STANDARD_ERROR:
            os.fchown(self._fd, user, group)

    def start(self) -> None:
        """Begin to write, once root's rights are given up: a thread has those of its beginning."""
        self._writer.start()

    def line(self, text: str) -> None:
        if self.tap is not None:
            self.tap(text)
        if len(self._lines) >= PENDING:
            self._dropped += 1
            return
        self._lines.append(text)
        if not self._wake.is_set():
            self._wake.set()

    def reopen(self) -> None:
        """Write to a new file of the same name from now on (after `mv`, on SIGUSR1). Raises OSError."""
        if self._path is not None:
            self._write_to(self._path)

    def move(self, path: str | None) -> None:
        """Write to `path`, or to standard error for None. Raises OSError, and then all stays as it is."""
        if path != self._path:
            self._write_to(path)
            self._path = path

    def _write_to(self, path: str | None) -> None:
        fresh = _STANDARD_ERROR if path is None else _open(path)
        self.flush()
        with self._write_lock:
            old, self._fd = self._fd, fresh
        if old != _STANDARD_ERROR:
            os.close(old)

    def flush(self) -> None:
        """Write all that waits. Called by the writer thread, and before the process ends."""
        with self._write_lock:
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(len(self._lines), 500))]
                if self._dropped:
                    batch.append(_format("log-dropped", {"lines": self._dropped}))
                    self._dropped = 0
                _write_all(self._fd, "".join(batch).encode())

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        if self._writer.is_alive():
            self._writer.join(timeout=5)
        else:
            self.flush()

    def _run(self) -> None:
        """Write a line at once after a quiet time, else what has gathered since the last write."""
        while not self._closing.is_set() or self._lines:
            self._wake.wait()
            self._wake.clear()
            self.flush()
            self._closing.wait(GATHER)  # lines that come now find nobody to wake


def _open(path: str) -> int:
    """A log is a regular file that nobody runs: no pipe to wait for, no program to spoil. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o640)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) or mode & 0o111:
        os.close(fd)
        raise OSError(errno.EINVAL, "expected a regular file that is not executable", path)
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        count("log.write-failed")  # a full or vanished log is no reason to stop serving mail


def _format(name: str, fields: dict[str, object]) -> str:
    now = time.time()
    second = int(now)
    line = f"{_stamp(second)}.{int((now - second) * 1000):03d}Z event={name}"
    for key, value in fields.items():
        if value is None:
            continue
        if "_" in key:
            key = key.replace("_", "-")
        text = str(value)
        line += f" {key}={text if _PLAIN(text) else _quoted(text)}"
    return line + "\n"


@lru_cache(maxsize=1)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _quoted(text: str) -> str:
    safe = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text.translate(_ESCAPED))
    return f'"{safe}"'


_log: MailLog | None = None
_counters: Counter[str] = Counter()


def open_log(path: str | None, owner: tuple[int, int] | None = None) -> MailLog:
    """Send the process's events to `path`, or to standard error for None, once started. Raises OSError.

    A log that root makes is given to `owner`, a user and group, who goes on with it.
    """
    global _log
    made = path is not None and not os.path.lexists(path)
    fresh = MailLog(path)
    if made and owner is not None:
        fresh.give_to(*owner)
    if _log is not None:
        _log.close()
    _log = fresh
    return fresh


def reopen() -> None:
    """Reopen the log file (SIGUSR1); where that fails, the old file goes on and says so."""
    if _log is None:
        return
    try:
        _log.reopen()
    except OSError as error:
        event("log-not-reopened", error=error.strerror)


def move(path: str | None) -> None:
    """Write to another file, or to standard error for None, from now on. Raises OSError."""
    if _log is not None:
        _log.move(path)


def event(name: str, /, **fields: object) -> None:
    """Log one event: `time event=NAME key=value ...`; None values are left out, `_` in keys becomes `-`."""
    if _log is not None:
        _log.line(_format(name, fields))


def fault(name: str, error: BaseException, /, **fields: object) -> None:
    """Log an exception nobody foresaw as event `name`: its kind and place, never its text; each once, where
    several see it pass."""
    if getattr(error, "_in_the_log", False):
        return
    error._in_the_log = True  # type: ignore[attr-defined]
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}" if trace else None
    event(name, **fields, error=type(error).__name__, where=where)


def count(name: str, n: int = 1) -> None:
    """Add `n` to a counter of this process."""
    _counters[name] += n


def counters() -> dict[str, int]:
    """All counters of this process since its start."""
    return dict(_counters)

"""What a tree of processes costs: CPU seconds and memory, read from /proc.

Kernel threads (journal, block layer) belong to nobody's tree and are not counted, for any target.
Not here: starting and stopping (see target.py).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable

_TICKS = os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (field 3 of proc(5)); None when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return None


def tree(roots: Iterable[int]) -> list[int]:
    """The given processes and all their descendants that are alive."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    waiting = [pid for pid in roots if _stat(pid)]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of the trees, of children that ended (and were waited for) too."""
    ticks = 0
    for pid in tree(roots):
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def memory(roots: Iterable[int]) -> int:
    """Octets that are the processes' own: not backed by files, what is shared divided among its sharers.

    Programs and libraries are left out: their share changes with whoever else runs them (another Python).
    """
    return sum(_own(pid) for pid in tree(roots))


def _own(pid: int) -> int:
    """Pss_Anon and Pss_Shmem of /proc/PID/smaps_rollup (Linux 5.4 and later)."""
    kibibytes = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                kibibytes += int(line.split()[1])
    return kibibytes * 1024


class PeakMemory:
    """Watches the memory of process trees while a `with` block runs; `growth` is then in octets."""

    def __init__(self, roots: Iterable[int], every: float = 0.02) -> None:
        self._roots = list(roots)
        self._every = every
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = self._peak = 0

    def __enter__(self) -> PeakMemory:
        self._before = self._peak = memory(self._roots)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            started = time.monotonic()
            self._peak = max(self._peak, memory(self._roots))
            # At most a third of the time goes into looking: the watcher must not slow what it watches.
            self._done.wait(max(self._every, 2 * (time.monotonic() - started)))

    @property
    def growth(self) -> int:
        return self._peak - self._before

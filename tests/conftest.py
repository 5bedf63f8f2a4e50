"""What tests of several packages share, and the watchdog of every event loop in this process.

A callback that keeps a loop for more than LONGEST fails its test. What counts is the processor time of the loop's
thread, without the collector's, whose heap is that of the whole run: time by the clock says on a busy machine how
busy it is. While memory is traced, which takes several times as long, it does not count. A callback that waits for
a disk or a lock takes no processor, so time by the clock is bounded too, generously, where the callback is the
server's own; tests may wait in theirs. Servers that a test starts are processes of their own on uvloop, which calls
back without Python: tests/torture/test_loop_gaps.py listens to their hearts, and what their clients do is not
measured.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

LONGEST = 0.1  # seconds of processor time in one callback
LONGEST_BY_THE_CLOCK = 2.0
TESTS = str(Path(__file__).parent)
OF_CLIENTS = {"torture", "integration", "bench"}  # where the server is another process


class _Collecting(threading.local):
    """Seconds of processor time that a thread has spent collecting garbage."""

    began = total = 0.0


class Watchdog:
    """Measures each callback of asyncio's loops; those that took too long, of the test that runs."""

    def __init__(self, of_clients: bool) -> None:
        self._of_clients = of_clients
        self.found: list[str] = []
        self._collecting = _Collecting()
        self._run = asyncio.Handle._run

    def __enter__(self) -> Watchdog:
        run, found, collecting = self._run, self.found, self._collecting
        cpu, clock = time.thread_time, time.monotonic

        def watched(handle: asyncio.Handle) -> None:
            began, used = clock(), cpu() - collecting.total
            run(handle)
            took, used = clock() - began, cpu() - collecting.total - used
            slowed = tracemalloc.is_tracing() or sys.gettrace() is not None  # by whoever looks for a fault
            busy = used > LONGEST and not slowed
            if not (busy or took > LONGEST_BY_THE_CLOCK):
                return
            if not _is_a_tests(handle) or (busy and not self._of_clients):
                found.append(f"{used:.3f} s of processor time in {took:.3f} s: {handle!r}")

        gc.callbacks.append(self._collects)
        asyncio.Handle._run = watched  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._collects)
        asyncio.Handle._run = self._run  # type: ignore[method-assign]

    def _collects(self, phase: str, _: object) -> None:
        if phase == "start":
            self._collecting.began = time.thread_time()
        else:
            self._collecting.total += time.thread_time() - self._collecting.began


def _is_a_tests(handle: asyncio.Handle) -> bool:
    """Whether the coroutine whose step this is was written for a test."""
    task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
    code = getattr(task.get_coro(), "cr_code", None) if isinstance(task, asyncio.Task) else None
    return code is not None and code.co_filename.startswith(TESTS)


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[Watchdog]:
    """Every test is watched."""
    with Watchdog(request.path.parent.name in OF_CLIENTS) as watchdog:
        yield watchdog
    if watchdog.found:
        pytest.fail("a callback kept the event loop:\n" + "\n".join(watchdog.found[:5]), pytrace=False)


@pytest.fixture(autouse=True)
def same_umask() -> Iterator[None]:
    """The command line narrows the umask of its process, which here is that of all tests."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: for faults that are simulated, syncs cost only time."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="mailserver-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path, ignore_errors=True)

"""Work that may block, off the event loop: bounded pools of threads.

A pool has a fixed number of threads and a fixed number of places to wait. When both are taken, `run`
raises Busy at once and the caller answers "try again later"; it never stalls the loop and never grows.
Not `concurrent.futures`: its futures have locks and conditions of their own, and tell a loop twice of each
result: there and back took 100 µs of processor, this way 40.
Not here: what the work is.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Busy(Exception):
    """All threads are at work and all places to wait are taken."""


class _Job(NamedTuple):
    work: Callable[[], object]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Pool:
    """`threads` workers, begun when they are needed, and room for `waiting` jobs behind them."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name = name
        self._most = threads
        self._places = threads + waiting
        self._taken = 0
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args)` in a worker. Raises Busy, or whatever `fn` raises.

        A cancelled caller stops waiting, but the work goes on and keeps its place until it ends.
        """
        if self._closed or self._taken >= self._places:
            raise Busy(self.name)
        if self._taken >= len(self._threads) < self._most:
            self._begin_thread()
        self._taken += 1
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(partial(fn, *args, **kwargs), done, loop))
        return await done

    def close(self) -> None:
        """Wait for work under way, drop what has not begun; its callers are cancelled."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    self._tell(job, job.done.cancel)
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _begin_thread(self) -> None:
        """Raises Busy where there is no memory for one more thread."""
        name = f"{self.name}_{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            raise Busy(self.name) from None
        self._threads.append(thread)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = job.work()
            except StopIteration:  # no future takes it, and its caller would wait for ever
                self._tell(job, partial(job.done.set_exception, RuntimeError("stopped iterating")))
            except BaseException as error:
                self._tell(job, partial(job.done.set_exception, error))
            else:
                self._tell(job, partial(job.done.set_result, result))
            job = result = None  # nothing is kept until the next one comes

    def _tell(self, job: _Job, outcome: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits, and nobody counts
            job.loop.call_soon_threadsafe(self._leave, job.done, outcome)

    def _leave(self, done: asyncio.Future[Any], outcome: Callable[[], object]) -> None:
        self._taken -= 1
        if not done.done():  # its caller may have been cancelled
            outcome()

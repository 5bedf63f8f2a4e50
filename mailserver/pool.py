"""Work that may block, off the event loop: bounded pools of threads.

A pool has a fixed number of threads and a fixed number of places to wait. When both are taken, `run`
raises Busy at once and the caller answers "try again later"; it never stalls the loop and never grows.
Not here: what the work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Busy(Exception):
    """All threads are at work and all places to wait are taken."""


class Pool:
    """`threads` workers and room for `waiting` jobs behind them."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self.name = name
        self._places = threads + waiting
        self._taken = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args)` in a worker. Raises Busy, or whatever `fn` raises.

        A cancelled caller stops waiting, but the work goes on and keeps its place until it ends.
        """
        if self._taken >= self._places:
            raise Busy(self.name)
        self._taken += 1
        loop = asyncio.get_running_loop()
        try:
            job = self._executor.submit(fn, *args, **kwargs)
        except (RuntimeError, MemoryError):  # no memory for one more thread; one that is there may do it yet
            self._taken -= 1
            raise Busy(self.name) from None
        job.add_done_callback(lambda _: self._give_back(loop))
        return await asyncio.wrap_future(job, loop=loop)

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.call_soon_threadsafe(self._leave)
        except RuntimeError:  # the loop is closed: nobody counts any more
            return

    def _leave(self) -> None:
        self._taken -= 1

    def close(self) -> None:
        """Wait for work under way, drop what has not begun."""
        self._executor.shutdown(wait=True, cancel_futures=True)

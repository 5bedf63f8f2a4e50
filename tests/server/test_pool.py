"""Pools: how many threads, who waits, and what becomes of callers when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading

import pytest

from mailserver.pool import Busy, Pool


def test_no_memory_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool("test", 1, 1)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def run() -> int:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(10):
                with pytest.raises(Busy):
                    await pool.run(lambda: 1)
        return await pool.run(lambda: 2)

    assert asyncio.run(run()) == 2
    pool.close()


def test_as_many_threads_as_there_is_work_for() -> None:
    pool = Pool("test", 2, 1)
    names: set[str] = set()
    both = threading.Barrier(3)

    def work() -> None:
        names.add(threading.current_thread().name)
        both.wait(10)

    async def run() -> None:
        for _ in range(10):
            await pool.run(lambda: names.add(threading.current_thread().name))
        assert len(names) == 1
        at_work = [asyncio.ensure_future(pool.run(work)) for _ in range(2)]
        await asyncio.sleep(0)
        waits = asyncio.ensure_future(pool.run(lambda: 1))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await pool.run(lambda: 1)
        await asyncio.get_running_loop().run_in_executor(None, both.wait, 10)
        await asyncio.gather(*at_work, waits)
        assert len(names) == 2
        assert await pool.run(lambda: 3) == 3

    asyncio.run(run())
    pool.close()


def test_what_work_raises_reaches_its_caller_and_nobody_else() -> None:
    pool = Pool("test", 1, 1)

    async def run() -> None:
        with pytest.raises(ZeroDivisionError):
            await pool.run(lambda: 1 // 0)
        with pytest.raises(SystemExit):
            await pool.run(sys.exit)
        assert await pool.run(int, "7", base=8) == 7

    asyncio.run(run())
    pool.close()


def test_a_caller_that_left_keeps_his_place_until_the_work_ends() -> None:
    pool = Pool("test", 1, 0)
    go = threading.Event()

    async def run() -> None:
        left = asyncio.ensure_future(pool.run(go.wait, 10))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        with pytest.raises(Busy):
            await pool.run(lambda: 1)
        go.set()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(Busy):
                    assert await pool.run(lambda: 2) == 2
                    return
                await asyncio.sleep(0.001)

    asyncio.run(run())
    pool.close()


def test_closing_ends_what_was_begun_and_drops_the_rest() -> None:
    pool = Pool("test", 1, 5)
    begun, go = threading.Event(), threading.Event()
    ended: list[int] = []

    def work() -> None:
        begun.set()
        go.wait(10)
        ended.append(1)

    async def run() -> None:
        first = asyncio.ensure_future(pool.run(work))
        others = [asyncio.ensure_future(pool.run(ended.append, 2)) for _ in range(3)]
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, 10)
        closing = asyncio.get_running_loop().run_in_executor(None, pool.close)
        for other in others:
            with pytest.raises(asyncio.CancelledError):
                await other
        with pytest.raises(Busy):
            await pool.run(lambda: 1)
        go.set()
        await asyncio.gather(first, closing)

    asyncio.run(run())
    assert ended == [1]


def test_work_that_stops_iterating_leaves_nobody_waiting() -> None:
    """No future takes a StopIteration."""
    pool = Pool("test", 1, 1)

    async def run() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError):
                await pool.run(next, iter(()))

    asyncio.run(run())
    pool.close()

"""A pool that cannot have the thread it wants: Busy, and its place is free again."""

from __future__ import annotations

import asyncio
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

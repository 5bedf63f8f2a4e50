"""What the log says of changes that nobody confirmed."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from mailserver import maillog
from mailserver.config.editing import Author, Settings
from mailserver.pool import Pool
from mailserver.server.confirming import Confirming


@pytest.mark.parametrize(
    ("since", "event", "version"), [("", "config-taken-back", 3), ("# mine\n", "config-kept", 3)]
)
def test_what_was_taken_back_and_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: str, event: str, version: int
) -> None:
    file = tmp_path / "mailserver.toml"
    file.write_text('hostname = "old.test"\n')
    Settings(str(tmp_path)).set("hostname", "new.test", Author("ann", "telnet"), confirm=1)
    file.write_text(file.read_text() + since)
    seen: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))

    async def run() -> None:
        reloaded = asyncio.Event()

        async def reload() -> None:
            reloaded.set()

        pool = Pool("test", threads=1, waiting=4)
        task = asyncio.ensure_future(Confirming(str(tmp_path), pool, reload).run())
        try:
            await asyncio.wait_for(reloaded.wait(), 30)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            pool.close()

    asyncio.run(run())
    assert seen == [(event, {"version": version, "of": "ann"})]

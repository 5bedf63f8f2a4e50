"""The event loop of a process. Not here: what runs on it.

What loops import is loaded with this module, once for all processes, and by the user that starts the server:
the one that it becomes need not be able to read Python's own files.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401  (asyncio.to_thread)
import contextlib
from collections.abc import Callable

from mailserver import maillog

new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
"""Makes one: uvloop's where the platform has it, twice the messages of asyncio's own."""

with contextlib.suppress(ImportError):
    import uvloop

    new_loop = uvloop.new_event_loop


def unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no session caught: kind only, for the log is no place for a client's data."""
    error = context.get("exception")
    maillog.count("loop.unforeseen")
    maillog.event("unforeseen", error=type(error).__name__ if error else "none", what=context.get("message"))

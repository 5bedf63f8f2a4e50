"""The event loop of a process. Not here: what runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailserver import maillog


def new_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes one: uvloop's where the platform has it, twice the messages of asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no session caught: kind only, for the log is no place for a client's data."""
    error = context.get("exception")
    maillog.count("loop.unforeseen")
    maillog.event("unforeseen", error=type(error).__name__ if error else "none", what=context.get("message"))

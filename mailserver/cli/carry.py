"""Carries operations to the running server, by its control socket; where none runs, does them here.

Results are as JSON has them, whoever did it. Not here: what the operations are (`admin.table`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from mailserver.admin.administration import Administration
from mailserver.admin.operators import Operators
from mailserver.admin.refused import Refused
from mailserver.admin.requests import LOOKS, Answer, Request
from mailserver.admin.requests import perform as perform_on_queue
from mailserver.admin.roles import Operator
from mailserver.admin.server import NO_SERVER, NoServer
from mailserver.admin.still_queue import StillQueue
from mailserver.admin.table import TABLE
from mailserver.cli import place
from mailserver.cli.idle import Occupied, idle_state, logging_to
from mailserver.config.editing import Settings
from mailserver.config.load import ConfigError, defaults
from mailserver.config.model import Config
from mailserver.console import client
from mailserver.pool import Pool
from mailserver.queue.spool import Spool

FRONT = "command"

Given = Mapping[str, object]


def perform(words: str, given: Given) -> Any:
    """The result of an operation. Raises Refused, ConfigError, OSError, and what the operation raises."""
    config = _config(words)
    try:
        values = list(client.ask(client.path_of(config.maildirs), words, given))
    except client.NobodyThere:
        with logging_to(config):
            return msgspec.to_builtins(asyncio.run(_perform(config, words, given)))
    return values if TABLE[words].lists else values[0] if values else None


def require_server(words: str) -> None:
    """Raises Refused where no server runs; ConfigError, OSError."""
    try:
        client.reach(client.path_of(_config(words).maildirs))
    except client.NobodyThere:
        raise Refused(NO_SERVER) from None


def watch(words: str, given: Given) -> Iterator[Any]:
    """The values of a stream, as they come. Raises like `perform`."""
    config = _config(words)
    try:
        yield from client.ask(client.path_of(config.maildirs), words, given)
    except client.NobodyThere:
        with asyncio.Runner() as runner, logging_to(config):
            values = _watch(config, words, given)
            while (value := runner.run(_next(values))) is not _END:
                yield msgspec.to_builtins(value)


def _config(words: str) -> Config:
    """The configuration; commands about it are there to mend one that cannot be read."""
    try:
        return place.config()
    except ConfigError:
        if not words.startswith("config "):
            raise
        directory = os.path.abspath(place.directory())
        with suppress(OSError):  # a history that is not ours
            if (known := Settings(directory).last_known()) is not None:
                return known
        return defaults(directory)


# ---- where no server runs


async def _perform(config: Config, words: str, given: Given) -> Any:
    with _at_rest(config) as (administration, operator):
        return await administration.perform(operator, FRONT, words, given)


async def _watch(config: Config, words: str, given: Given) -> AsyncGenerator[Any, None]:
    with _at_rest(config) as (administration, operator):
        async for value in administration.watch(operator, FRONT, words, given):
            yield value


_END = object()


async def _next(values: AsyncIterator[Any]) -> Any:
    return await anext(values, _END)


@contextmanager
def _at_rest(config: Config) -> Iterator[tuple[Administration, Operator]]:
    """All operations while no server runs, and who asks for them."""
    pool = Pool("operations", threads=1, waiting=16)
    try:
        operators = Operators(config, pool)
        operator = operators.of_uid(os.geteuid())
        assert operator is not None, "whoever runs the program owns what it does"
        yield Administration(config, _AtRest(config), pool, operators), operator
    finally:
        pool.close()


class _AtRest(NoServer):
    """No server; but its queue lies on the disk, where commands find it."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def ask_queue(self, request: Request) -> Answer:
        queue = StillQueue(Spool(os.path.join(self._config.maildirs, ".queue")))
        if request.verb in LOOKS:
            return await perform_on_queue(queue, request)
        try:
            with idle_state(self._config):
                return await perform_on_queue(queue, request)
        except Occupied:
            raise Refused("the server is starting or stopping, try again") from None

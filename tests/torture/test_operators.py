"""A hundred operators at once, on a server that takes in and hands out mail: they are in nobody's way.

The goal for a phrase is 250 ms at the 99th percentile on a quiet machine, clients on the same cores counted
in; what is asserted has room for a busy one. Mail has a goal of its own: no session fails, and what the
operators add to its waits is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from torture.clients import Mail, Pop3, Smtp
from torture.figures import SCALE, report
from torture.running import Server

OPERATORS = 100
ROUNDS = 3 * SCALE  # of the phrases, for each operator
SENDERS = 4
BREATH = 0.02  # seconds between two messages of a sender: mail flows, and the machine is not exhausted by it
USERS = 300
GOAL = 0.25  # seconds
WORST = 5.0
KEPT = 12 << 20  # octets that the console may have more of afterwards
PAUSE = 0.25  # seconds between two phrases of an operator, who is quick
PHRASES = (
    "whoami",
    "user list",
    "user show user0@example.test",
    "status",
    "session list",
    "queue list",
    "counters",
    "domain list",
    "nonsense",
)


def test_a_hundred_operators_beside_the_mail(memory_path: Path) -> None:
    server = Server(memory_path, users=USERS, more="[limits]\nconnections_per_address = 0\n")
    with server.running():
        alone, crowded, phrases, before, after = asyncio.run(torture(server))
    report(
        f"{OPERATORS} operators, a phrase",
        count=len(phrases),
        median=milliseconds(phrases, 50),
        p99=milliseconds(phrases, 99),
        goal=f"{GOAL * 1000:.0f} ms",
        max=f"{max(phrases) * 1000:.0f} ms",
    )
    for name, waits in (("without them", alone), ("beside them", crowded)):
        report(
            f"mail {name}",
            sessions=len(waits),
            median=milliseconds(waits, 50),
            p99=milliseconds(waits, 99),
            longest=f"{max(waits) * 1000:.0f} ms",
        )
    report("the console's memory", before=mebibytes(before), after=mebibytes(after))
    assert len(phrases) == OPERATORS * ROUNDS * len(PHRASES)
    assert statistics.quantiles(phrases, n=100)[98] < WORST
    assert max(crowded) < WORST
    assert after - before < KEPT
    assert sum(len(server.stored(user)) for user in server.users) == len(alone) + len(crowded)


def milliseconds(waits: Sequence[float], percent: int) -> str:
    return f"{statistics.quantiles(waits, n=100)[percent - 1] * 1000:.1f} ms"


def mebibytes(octets: int) -> str:
    return f"{octets / (1 << 20):.1f} MiB"


async def torture(server: Server) -> tuple[list[float], list[float], list[float], int, int]:
    alone: list[float] = []
    crowded: list[float] = []
    phrases: list[float] = []
    path = server.maildirs / ".run" / "control.sock"
    async with mail(server, alone):
        await asyncio.sleep(2.0)
    await operate(path, 1, [])  # what is used at the first time is there
    before = resident(server)
    async with mail(server, crowded):
        await asyncio.gather(*(operate(path, ROUNDS, phrases) for _ in range(OPERATORS)))
    return alone, crowded, phrases, before, resident(server)


@contextlib.asynccontextmanager
async def mail(server: Server, waits: list[float]) -> AsyncIterator[None]:
    """Sessions that deliver a message each, and one that reads; any failure of one fails the test."""
    ended = asyncio.Event()
    numbers = itertools.count()

    async def send() -> None:
        while not ended.is_set():
            user = server.users[next(numbers) % 7]
            began = time.monotonic()
            async with await Smtp.connect(server.smtp) as client:
                await client.hello()
                assert (await client.deliver(Mail.make(2000), [user]))[:3] == b"250"
                await client.command(b"QUIT")
            waits.append(time.monotonic() - began)
            await asyncio.sleep(BREATH)

    async def read() -> None:
        while not ended.is_set():
            async with await Pop3.connect(server.pop3) as client:
                assert (await client.login(server.users[0])).startswith(b"+OK")
                await client.count()
                assert (await client.command(b"QUIT")).startswith(b"+OK")
            await asyncio.sleep(BREATH)

    tasks = [asyncio.create_task(send()) for _ in range(SENDERS)] + [asyncio.create_task(read())]
    try:
        yield
    finally:
        ended.set()
        await asyncio.gather(*tasks)


async def operate(path: Path, rounds: int, waits: list[float]) -> None:
    """One operator: phrases, one after the other; operators do not come in step."""
    await asyncio.sleep(random.uniform(0, PAUSE * len(PHRASES)))
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        for _ in range(rounds):
            for phrase in PHRASES:
                began = time.monotonic()
                writer.write(phrase.encode() + b"\n")
                while "value" in (answer := json.loads(await reader.readline())):
                    pass
                waits.append(time.monotonic() - began)
                assert ("refused" in answer) == (phrase == "nonsense"), answer
                await asyncio.sleep(PAUSE)
    finally:
        writer.close()


def resident(server: Server) -> int:
    """Of the console's process alone."""
    [line] = server.events("console-serving")
    found = re.search(r"process=(\d+)", line)
    assert found
    return server.resident_of(int(found[1]))

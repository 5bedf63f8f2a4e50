"""The judge of sync orders: right order passes, each way to be wrong is seen."""

from __future__ import annotations

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))

import sync_order

READ = 'read(9<socket:[7]>, "Subject: order-0-for-1\\r\\n", 100) = 24'
START = 'sendto(9<socket:[7]>, "354 go on\\r\\n", 11, 0, NULL, 0) = 11'
WRITE = 'write(12</m/tmp/a>, "Subject: order-0-for-1\\n", 23) = 23'
SYNC = "fsync(12</m/tmp/a>) = 0"
NAME = 'rename("/m/tmp/a", "/m/new/b") = 0'
LINK = 'linkat(AT_FDCWD</>, "/m/tmp/a", AT_FDCWD</>, "/m/new/b", 0) = 0'
NAME_AT = 'renameat(AT_FDCWD</>, "/m/tmp/a", 13</m/new>, "b") = 0'
DIRECTORY = "fsync(13</m/new>) = 0"
ALL = "syncfs(5</m>) = 0"
REPLY = 'write(9<socket:[7]>, "250 2.0.0 kept\\r\\n", 16) = 16'


def judge(*lines: str) -> list[str]:
    return sync_order.violations(
        sync_order.calls(f"100 1.{place} {line}" for place, line in enumerate(lines))
    )


@pytest.mark.parametrize(
    "lines",
    [
        (START, READ, WRITE, SYNC, NAME, DIRECTORY, REPLY),
        (START, READ, WRITE, SYNC, LINK, DIRECTORY, REPLY),
        (START, READ, WRITE, SYNC, NAME_AT, DIRECTORY, REPLY),
        (START, READ, WRITE, ALL, NAME, ALL, REPLY),
    ],
)
def test_right_order(lines: tuple[str, ...]) -> None:
    assert judge(*lines) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ((START, READ, WRITE, NAME, DIRECTORY, REPLY), "before its content was synced"),
        ((START, READ, SYNC, WRITE, NAME, DIRECTORY, REPLY), "before its content was synced"),
        ((START, READ, WRITE, SYNC, WRITE, NAME, DIRECTORY, REPLY), "before its content was synced"),
        ((START, READ, WRITE, NAME, SYNC, DIRECTORY, REPLY), "before its content was synced"),
        ((START, READ, WRITE, SYNC, NAME, REPLY, DIRECTORY), "250 before the directory"),
        ((START, READ, WRITE, SYNC, NAME_AT, REPLY), "250 before the directory"),
        ((START, READ, WRITE, SYNC, NAME, REPLY), "250 before the directory"),
        ((START, READ, WRITE, SYNC, DIRECTORY, NAME, REPLY), "250 before the directory"),
        ((START, READ, WRITE, SYNC, REPLY), "0 names in new/ for 1 recipients"),
        ((START, READ, WRITE, SYNC, NAME, DIRECTORY), "no 250"),
        ((START, READ, WRITE, "fsync(12</m/tmp/a>) = -1 EIO", NAME, DIRECTORY, REPLY), "content was synced"),
    ],
)
def test_wrong_order(lines: tuple[str, ...], problem: str) -> None:
    assert problem in " ".join(judge(*lines))


def test_a_call_counts_from_when_it_returned() -> None:
    """Another thread's call may begin while a sync still runs: such a sync proves nothing."""
    trace = [
        f"100 1.0 {START}",
        f"100 1.1 {READ}",
        f"101 1.2 {WRITE}",
        "101 1.3 fsync(12</m/tmp/a> <unfinished ...>",
        f"102 1.4 {NAME}",
        "101 1.5 <... fsync resumed>) = 0",
        f"102 1.6 {DIRECTORY}",
        f"100 1.7 {REPLY}",
    ]
    assert "content was synced" in " ".join(sync_order.violations(sync_order.calls(trace)))
    trace[4], trace[5] = trace[5], trace[4]
    assert sync_order.violations(sync_order.calls(trace)) == []

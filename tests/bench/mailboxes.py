"""Maildirs as the benchmark prepares and counts them: filled with known messages, emptied, looked at.

The same files for every target. Names carry `,S=` and `,W=` (the sizes as stored and with CRLF), so that
no server has to read a message to know its size.
"""

from __future__ import annotations

import itertools
import os
import time

_SUBDIRECTORIES = ("tmp", "new", "cur")
_LINE = b"The quick brown fox jumps over the lazy dog while the mail is on its way home.\n"

_counter = itertools.count()

Owner = tuple[int, int]


def message(octets: int, number: int) -> bytes:
    """A message of about `octets` as stored (LF), different for each number."""
    header = (
        f"Return-Path: <sender@bench.test>\nFrom: sender@bench.test\nTo: box@bench.test\n"
        f"Date: Fri, 21 Nov 1997 09:55:06 -0600\nSubject: number {number}\nMessage-ID: <{number}@bench.test>\n\n"
    ).encode()
    lines = max(1, (octets - len(header)) // len(_LINE))
    return header + _LINE * lines


def make(path: str, owner: Owner | None) -> None:
    """The Maildir and what leads to it."""
    for name in _SUBDIRECTORIES:
        os.makedirs(os.path.join(path, name), mode=0o700, exist_ok=True)
    if owner:
        for name in (os.path.dirname(path), path, *(os.path.join(path, name) for name in _SUBDIRECTORIES)):
            os.chown(name, *owner)


def fill(path: str, count: int, octets: int, owner: Owner | None) -> list[int]:
    """Put `count` messages into `new/`; their sizes on the wire (CRLF), in order of delivery."""
    sizes = []
    began = int(time.time()) - count
    for index in range(count):
        number = next(_counter)
        data = message(octets, number)
        wire = len(data) + data.count(b"\n")
        name = f"{began + index}.M{number % 1000000:06d}P{os.getpid()}Q{number}.bench,S={len(data)},W={wire}"
        fd = os.open(os.path.join(path, "new", name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, data)
        if owner:
            os.fchown(fd, *owner)
        os.close(fd)
        sizes.append(wire)
    return sizes


def empty(path: str, aside: str, owner: Owner | None) -> None:
    """Put every message, and everything a server keeps beside them (indexes, Trash), into `aside`.

    Nothing is removed before the run is over: ext4 without a journal looks at each inode that was freed in the
    last minutes before it makes a file, which cost whoever came next up to two thirds of its messages a second.
    """
    if os.path.isdir(path) and os.listdir(path):
        os.makedirs(aside, exist_ok=True)
        os.rename(path, os.path.join(aside, str(next(_counter))))
    make(path, owner)


def count(path: str) -> int:
    """Messages in `new/`."""
    try:
        return len(os.listdir(os.path.join(path, "new")))
    except FileNotFoundError:
        return 0


def short_messages(path: str, octets: int) -> int:
    """How many messages of `new/` hold less than they must: a torn file is as bad as a lost one."""
    return sum(entry.stat().st_size < octets for entry in os.scandir(os.path.join(path, "new")))

"""A program: two bare processes that take mail in and give it out, and do nothing else. Arguments: mail, staging, port, port.

The ceiling of this design on a machine: an event loop and a committing thread in each of two processes, and
the same syncs in the same order as this server has, for all messages that are ready. Nothing is checked,
logged, limited or looked up; a client that does anything unusual gets nonsense. No mail server.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import uvloop

_GROUP = 64
_BLOCK = 1 << 17
_REPLIES = {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}


class Work(NamedTuple):
    """A message on its way to the disk."""

    path: str
    content: bytes
    targets: list[str]
    stored: Callable[[], object]


class Committer(threading.Thread):
    """Write, sync, name, sync, tell; for all that are ready."""

    def __init__(self, staging: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self.queue: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._loop = loop
        self._staging = os.open(staging, os.O_RDONLY)
        self._syncfs = ctypes.CDLL(None).syncfs

    def run(self) -> None:
        while True:
            works = [self.queue.get()]
            files = [_write(works[0])]
            while len(works) < _GROUP and not self.queue.empty():
                works.append(self.queue.get())
                files.append(_write(works[-1]))
            self._sync(files)
            for file in files:
                os.close(file)
            for work in works:
                *others, last = work.targets
                for target in others:
                    os.link(work.path, target)
                os.rename(work.path, last)
            directories = [
                os.open(path, os.O_RDONLY) for path in {os.path.dirname(t) for w in works for t in w.targets}
            ]
            self._sync(directories)
            for directory in directories:
                os.close(directory)
            self._loop.call_soon_threadsafe(_tell, works)

    def _sync(self, files: list[int]) -> None:
        if len(files) > 1:
            self._syncfs(self._staging)
        else:
            os.fsync(files[0])


def _write(work: Work) -> int:
    fd = os.open(work.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(fd, work.content)
    return fd


def _tell(works: list[Work]) -> None:
    for work in works:
        work.stored()


class Smtp(asyncio.Protocol):
    """Commands one by one or pipelined, content with its end at the end of a segment."""

    number = 0

    def __init__(self, mail: str, staging: str, committer: Committer) -> None:
        self._mail, self._staging, self._committer = mail, staging, committer
        self._recipients: list[str] = []
        self._content: list[bytes] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._transport.write(b"220 sketch\r\n")

    def data_received(self, data: bytes) -> None:
        if self._content is not None:
            self._content.append(data)
            if data[-5:] == b"\r\n.\r\n":
                self._finish(b"".join(self._content))
            return
        for line in data.splitlines():
            verb = line[:4].upper()
            if verb == b"RCPT":
                self._recipients.append(line[9 : line.index(b"@")].decode())
            elif verb == b"DATA":
                self._content = []
            self._transport.write(_REPLIES.get(verb, b"250 ok\r\n"))
            if verb == b"QUIT":
                self._transport.close()

    def _finish(self, data: bytes) -> None:
        content = data[:-3].replace(b"\r\n..", b"\r\n.").replace(b"\r", b"")
        Smtp.number += 1
        name = f"{time.time():.6f}.P{os.getpid()}Q{Smtp.number}.sketch,S={len(content)}"
        targets = [f"{self._mail}/{recipient}/new/{name}" for recipient in self._recipients]
        self._committer.queue.put(Work(f"{self._staging}/{name}", content, targets, self._stored))
        self._recipients, self._content = [], None

    def _stored(self) -> None:
        self._transport.write(b"250 stored\r\n")


class Pop3(asyncio.Protocol):
    """In lock-step; messages are read where they are asked for, and moved away at QUIT."""

    def __init__(self, mail: str, staging: str, committer: Committer) -> None:
        self._mail, self._loop = mail, asyncio.get_running_loop()
        self._deleted: list[str] = []

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._transport.write(b"+OK\r\n")

    def data_received(self, data: bytes) -> None:
        verb, *words = data.split()
        write = self._transport.write
        if verb == b"RETR":
            write(b"+OK\r\n%b.\r\n" % _wire(self._paths[int(words[0]) - 1]))
        elif verb == b"DELE":
            self._deleted.append(self._paths[int(words[0]) - 1])
            write(b"+OK\r\n")
        elif verb == b"USER":
            self._maildir = f"{self._mail}/{words[0].decode().partition('@')[0]}"
            write(b"+OK\r\n")
        elif verb == b"PASS":
            self._open()
            write(b"+OK\r\n")
        elif verb == b"STAT":
            write(b"+OK %d %d\r\n" % (len(self._sizes), sum(self._sizes)))
        elif verb == b"LIST":
            write(_list(b"%d" % size for size in self._sizes))
        elif verb == b"UIDL":
            write(_list(os.path.basename(path).partition(",")[0].encode() for path in self._paths))
        elif self._deleted:
            self._loop.run_in_executor(None, _move, self._maildir, self._deleted).add_done_callback(self._end)
        else:
            self._end()

    def _open(self) -> None:
        found = [
            (name, f"{self._maildir}/{part}/{name}")
            for part in ("cur", "new")
            for name in os.listdir(f"{self._maildir}/{part}")
        ]
        found.sort()
        self._paths = [path for _, path in found]
        self._sizes = [int(name.rpartition(",W=")[2].partition(":")[0]) for name, _ in found]

    def _end(self, moved: object = None) -> None:
        self._transport.write(b"+OK\r\n")
        self._transport.close()


def _wire(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    content = b""
    while block := os.read(fd, _BLOCK):
        content += block
    os.close(fd)
    return content.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")


def _list(values: Iterable[bytes]) -> bytes:
    return b"+OK\r\n%b.\r\n" % b"".join(b"%d %b\r\n" % pair for pair in enumerate(values, 1))


def _move(maildir: str, paths: list[str]) -> None:
    trash = f"{maildir}/.Trash/cur"
    os.makedirs(trash, exist_ok=True)
    for path in paths:
        os.rename(path, f"{trash}/{os.path.basename(path)}")
    for directory in {trash, *map(os.path.dirname, paths)}:
        fd = os.open(directory, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


async def _serve(mail: str, staging: str, listening: dict[type[Smtp | Pop3], socket.socket]) -> None:
    loop = asyncio.get_running_loop()
    committer = Committer(staging, loop)
    committer.start()
    for protocol, sock in listening.items():
        await loop.create_server(lambda made=protocol: made(mail, staging, committer), sock=sock)
    await asyncio.Event().wait()


if __name__ == "__main__":
    root, temporary, *ports = sys.argv[1:]
    sockets = {
        kind: socket.create_server(("127.0.0.1", int(port)), backlog=1024)
        for kind, port in zip((Smtp, Pop3), ports, strict=True)
    }
    os.fork()
    uvloop.run(_serve(root, temporary, sockets))

"""A program: stock aiosmtpd on asyncio, delivering into Maildirs, synced. Arguments: directory, port.

The handler writes, syncs, renames and syncs the directory in a thread, once for each recipient.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
import time
import warnings

from aiosmtpd.smtp import SMTP, Envelope, Session

_SIZE_LIMIT = 100 * 1024 * 1024


class SyncedMaildir:
    """250 after every recipient's copy is in `new/` and synced."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._counter = itertools.count()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        assert isinstance(envelope.content, bytes)
        for recipient in envelope.rcpt_tos:
            await asyncio.to_thread(self._deliver, recipient.partition("@")[0], envelope.content)
        return "250 OK"

    def _deliver(self, local: str, content: bytes) -> None:
        maildir = os.path.join(self._root, local)
        name = f"{int(time.time())}.P{os.getpid()}Q{next(self._counter)}.bench"
        temporary = os.path.join(maildir, "tmp", name)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new = os.path.join(maildir, "new")
        os.rename(temporary, os.path.join(new, name))
        fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(fd)
        os.close(fd)


async def _serve(root: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    handler = SyncedMaildir(root)
    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    server = await loop.create_server(lambda: SMTP(handler, data_size_limit=_SIZE_LIMIT), sock=listening)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))

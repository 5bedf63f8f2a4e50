"""More connections than descriptors (EMFILE): the server waits without spinning, and serves again when it can."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.figures import report
from torture.running import Server

DESCRIPTORS = 64
FLOOD = 400
SECONDS = 3.0


def _few() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def test_flood(tmp_path: Path) -> None:
    server = Server(tmp_path, users=2, before=_few)
    kept: list[str] = []
    figures: dict[str, object] = {}

    async def send(client: Smtp, user: str) -> bytes:
        mail = Mail.make(3000)
        reply = await client.deliver(mail, [user])
        if reply[:3] == b"250":
            kept.append(mail.id)
        return reply

    async def torture() -> None:
        sender, reader = await Smtp.connect(server.smtp), await Pop3.connect(server.pop3)
        await sender.hello()
        assert (await reader.login(server.users[1])).startswith(b"+OK")
        await send(sender, server.users[0])
        ports = [server.smtp, server.pop3] * (FLOOD // 2)
        flood = [(await asyncio.open_connection("127.0.0.1", port))[1] for port in ports]
        used, began = server.processor_seconds(), time.monotonic()
        replies = set()
        while time.monotonic() - began < SECONDS:
            replies.add((await send(sender, server.users[0]))[:3])
            replies.add((await reader.command(b"NOOP"))[:3])
            await asyncio.sleep(0.1)
        figures["processor"] = f"{(server.processor_seconds() - used) / SECONDS:.2f}"
        figures["replies_meanwhile"] = b" ".join(sorted(replies)).decode()
        assert replies <= {b"250", b"451", b"452", b"+OK"}, replies
        assert (server.processor_seconds() - used) / SECONDS < 0.9
        for writer in flood:
            writer.close()
        began = time.monotonic()
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            assert (await send(client, server.users[0]))[:3] == b"250"
        figures["back_after"] = f"{time.monotonic() - began:.2f} s"
        assert time.monotonic() - began < 5
        assert (await sender.command(b"NOOP"))[:3] == b"250"
        await sender.close()
        await reader.close()

    with server.running():
        asyncio.run(torture())
        stored = {whole_id(file.read_bytes()) for file in server.stored(server.users[0])}
        assert stored >= set(kept)
        assert len(server.events("accept-failed")) < 20, "the log says it once, not each time"
        assert server.staged() == []
    report(f"{FLOOD} connections, {DESCRIPTORS} descriptors", restarts=0, **figures)

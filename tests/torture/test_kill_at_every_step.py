"""kill -9 while each of several smarthosts is at another step, and so are clients: what had its 250 arrives, once.

What had none is nowhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from remote_host import STALL, RemoteHost
from torture.clients import Mail, Smtp, whole_id
from torture.relaying import DRAIN_SECONDS, SENDER, Relaying, arrived, drained, relaying

# where the smarthosts are
STEPS = ("greeting", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "content", "end")
OFFERS = "250-remote.test\n250-SIZE 1000000\n250 STARTTLS"
# what clients have sent
SENT = ("MAIL", "RCPT", "DATA", "half", "all but the dot")


async def submit(run: Relaying, mails: dict[str, Mail]) -> None:
    """Each to the smarthost that stalls at the step."""
    async with await Smtp.connect(run.socket) as client:
        await client.hello()
        for step, mail in mails.items():
            reply = await client.deliver(mail, [f"x@{step.lower()}.test"], sender=SENDER)
            assert reply[:3] == b"250", reply


async def unfinished(run: Relaying, step: str) -> Smtp:
    """A client who has come so far with a message."""
    client = await Smtp.connect(run.socket)
    await client.hello()
    wire = Mail.make(300_000).stuffed
    for line in (f"MAIL FROM:<{SENDER}>", "RCPT TO:<x@end.test>", "DATA")[: SENT.index(step) + 1]:
        assert (await client.command(line.encode()))[:1] in (b"2", b"3")
    if step in SENT[3:]:
        await client.send(wire[: len(wire) // 2] if step == "half" else wire.removesuffix(b".\r\n"))
    return client


async def until_killed(run: Relaying, mails: dict[str, Mail]) -> None:
    async with contextlib.AsyncExitStack() as life:
        hosts = [
            await life.enter_async_context(RemoteHost({"EHLO": OFFERS, step: STALL}, wants_port=port))
            for step, port in run.smarthosts.items()
        ]
        await asyncio.to_thread(run.server.start)
        await submit(run, mails)
        for step in SENT:
            await life.enter_async_context(await unfinished(run, step))
        async with asyncio.timeout(DRAIN_SECONDS):
            for host in hosts:
                await host.stalling()
        run.server.kill()


async def afterwards(run: Relaying) -> dict[str, list[str]]:
    """What each smarthost has when it takes all."""
    async with contextlib.AsyncExitStack() as life:
        hosts = {
            step: await life.enter_async_context(RemoteHost(wants_port=port))
            for step, port in run.smarthosts.items()
        }
        await asyncio.to_thread(run.server.start)
        await drained(run.server)
    return {step: [arrived(message) for message in host.messages] for step, host in hosts.items()}


def test_killed_at_every_step(tmp_path: Path) -> None:
    mails = {step: Mail.make(300_000) for step in STEPS}
    routes = {step: f'recipient_domains = ["{step.lower()}.test"]' for step in STEPS}
    with relaying(tmp_path, routes) as run:
        asyncio.run(until_killed(run, mails))
        queued = {whole_id(content) for content in run.server.queued_contents()}
        assert queued == {mail.id for mail in mails.values()}
        assert asyncio.run(afterwards(run)) == {step: [mail.id] for step, mail in mails.items()}

"""kill -9 between MAIL and the smarthost's 250, under load: whatever was answered with 250 arrives at least once.

Clients submit mail for other hosts, by TLS and login and over a UNIX socket; the server hands it to a smarthost,
and is killed again and again: the whole family, or all workers at once. The smarthost remembers what it has
acknowledged in which life of the server. Clients send nothing twice here, so what arrives twice was sent twice by
the server, and that is right in one case only: the smarthost had acknowledged the message and the entry was not
settled yet when the server died (RFC 1047). What was settled is read from the disk of the dead server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import serving
from remote_host import STALL, RemoteHost, Taken
from torture.clients import Mail, Smtp, whole_id
from torture.figures import SCALE, report
from torture.running import Server

KILLS = 10 * SCALE
SENDERS = 8
DRAIN_SECONDS = 60.0
SENDER = "user0@example.test"
SETTINGS = """
[[listener]]
protocol = "submission"
endpoint = "unix:{socket}"

[[listener]]
protocol = "submission"
endpoint = "tls:127.0.0.1:{tls}"

[submission]
messages_per_hour = 0
messages_per_day = 0
"""
RELAY = """
[[relay]]
name = "{name}"
hosts = ["127.0.0.1:{port}"]
tls = "opportunistic"
connections = 20
{whose}
"""
# Where the smarthost is, or the client, when the server is killed.
STEPS = ("greeting", "EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "content", "end")
OFFERS = "250-remote.test\n250-SIZE 1000000\n250 STARTTLS"
SENT = ("MAIL", "RCPT", "DATA", "half", "all but the dot")


class Load:
    """Clients that go on, over every crash, until told to stop."""

    def __init__(self, places: list[int | Path], seed: int) -> None:
        self.answered: dict[str, list[str]] = {}
        self.unsure: set[str] = set()
        self._places = places
        self._chance = random.Random(seed)
        self._stop = False
        self._tls = ssl.create_default_context()
        self._tls.check_hostname, self._tls.verify_mode = False, ssl.CERT_NONE
        self._tasks = [asyncio.create_task(self._send(places[n % len(places)])) for n in range(SENDERS)]

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a client has found wrong meanwhile."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _send(self, place: int | Path) -> None:
        while not self._stop:
            with contextlib.suppress(OSError):
                async with await Smtp.connect(place, self._tls) as client:
                    await client.hello()
                    if isinstance(place, int):
                        await client.login("user0")
                        await client.hello()
                    await self._session(client)
            await asyncio.sleep(0.02)

    async def _session(self, client: Smtp) -> None:
        for _ in range(self._chance.randint(1, 30)):
            if self._stop:
                return
            mail = Mail.make(self._chance.choices((500, 5_000, 60_000), (60, 35, 5))[0])
            to = [
                f"x{n}@host{self._chance.randint(1, 5)}.test" for n in range(self._chance.choice((1, 1, 3)))
            ]
            self.unsure.add(mail.id)
            reply = await client.deliver(mail, to, sender=SENDER)
            if reply[:3] == b"250":
                self.unsure.remove(mail.id)
                self.answered[mail.id] = to
            else:
                assert reply[:1] == b"4", reply


def arrived(message: Taken) -> str:
    """The id of a message as the smarthost has it, which has to be whole."""
    mail_id = whole_id(message.wire.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
    assert mail_id, f"the smarthost got a torn message:\n{message.wire[:300]!r}"
    return mail_id


class Arrivals:
    """What the smarthost acknowledged: for each message the lives of the server that sent it, in order."""

    def __init__(self) -> None:
        self.lives: dict[str, list[int]] = defaultdict(list)
        self.recipients: dict[str, list[str]] = {}
        self.unsettled: list[set[str]] = []  # for each life, what was in the queue at its end
        self.window: list[
            list[float]
        ] = []  # and for how long it had sent what it had not settled, in seconds

    def life_ended(self, taken: list[Taken], queued: list[Path], ended: float) -> None:
        """A life has sent this, and left this in its queue."""
        left = {whole_id(content.read_bytes()) or "" for content in queued}
        assert "" not in left, "there is a torn message in the queue"
        window = []
        for message in taken:
            if message.reply.startswith("250"):
                mail_id = arrived(message)
                self.lives[mail_id].append(len(self.unsettled))
                self.recipients[mail_id] = [
                    rcpt.partition("<")[2].partition(">")[0] for rcpt in message.rcpts
                ]
                if mail_id in left:
                    window.append(max(0.0, ended - message.at))
        self.unsettled.append(left)
        self.window.append(window)

    def unexplained(self) -> list[str]:
        """Messages sent again though they were settled, or twice in one life."""
        return [
            f"{mail_id}: lives {lives}"
            for mail_id, lives in self.lives.items()
            for before, after in itertools.pairwise(lives)
            if before == after or mail_id not in self.unsettled[before]
        ]


def test_no_acknowledged_message_is_lost_on_its_way(tmp_path: Path) -> None:
    ports = serving.Ports()
    smarthost, tls, socket = ports.take(), ports.take(), tmp_path / "submission"
    relay = RELAY.format(name="smarthost", port=smarthost, whose="default = true")
    server = Server(tmp_path, more=SETTINGS.format(socket=socket, tls=tls) + relay)
    arrivals = Arrivals()

    async def torture(seed: int) -> Load:
        chance = random.Random(seed)
        load = None
        revive = server.start
        for number in range(KILLS):
            async with RemoteHost(wants_port=smarthost) as host:
                await asyncio.to_thread(revive)
                load = load or Load([socket, tls], seed)
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                load.check()
                revive = kill(server, whole=number % 3 < 2)
                ended = time.monotonic()
            arrivals.life_ended(host.messages, server.queued(), ended)
        async with RemoteHost(wants_port=smarthost) as host:
            await asyncio.to_thread(revive)
            await load.stop()
            await drained(server)
        arrivals.life_ended(host.messages, [], time.monotonic())
        return load

    seed = random.randrange(1 << 32)
    print("seed", seed)
    try:
        load = asyncio.run(torture(seed))
        server.stop()
    finally:
        if server.process.poll() is None:
            server.kill()
        ports.close()
    server.assert_no_bugs()
    assert server.staged() == []
    judge(load, arrivals)


def kill(server: Server, *, whole: bool) -> Callable[[], object]:
    """Kill the family, or all but the parent; what brings them back."""
    if not whole:
        return server.kill_workers()
    server.kill()
    return server.start


async def drained(server: Server) -> None:
    """Wait until the queue is empty."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while left := server.queued():
        assert time.monotonic() < deadline, f"{len(left)} messages were not sent again"
        await asyncio.sleep(0.05)


def judge(load: Load, arrivals: Arrivals) -> None:
    lost = load.answered.keys() - arrivals.lives.keys()
    twice = sum(len(lives) - 1 for lives in arrivals.lives.values())
    window = list(itertools.chain(*arrivals.window))
    report(
        "kill -9 while relaying",
        kills=KILLS,
        acknowledged=len(load.answered),
        lost=len(lost),
        torn=0,
        in_the_queue_at_a_kill=f"{max(map(len, arrivals.unsettled))} at most",
        sent_and_not_settled=f"{len(window)} ({max(map(len, arrivals.window))} at most)",
        for_at_most=f"{max(window, default=0.0) * 1000:.0f} ms",
        so_sent_twice=f"{twice} ({twice / KILLS:.1f} a kill)",
    )
    assert not lost, f"{len(lost)} of {len(load.answered)} acknowledged messages are lost"
    assert arrivals.unexplained() == []
    assert arrivals.lives.keys() <= load.answered.keys() | load.unsure
    for mail_id, recipients in load.answered.items():
        assert arrivals.recipients[mail_id] == recipients
    assert twice <= len(window)


def test_killed_at_every_step(tmp_path: Path) -> None:
    """A smarthost for each step, which stalls there; and clients who have come so far with their message."""
    ports = serving.Ports()
    smarthosts, socket = {step: ports.take() for step in STEPS}, tmp_path / "submission"
    relays = "".join(
        RELAY.format(name=step, port=port, whose=f'recipient_domains = ["{step.lower()}.test"]')
        for step, port in smarthosts.items()
    )
    server = Server(tmp_path, more=SETTINGS.format(socket=socket, tls=ports.take()) + relays)
    mails = {step: Mail.make(300_000) for step in STEPS}

    async def submit() -> None:
        async with await Smtp.connect(socket) as client:
            await client.hello()
            for step, mail in mails.items():
                reply = await client.deliver(mail, [f"x@{step.lower()}.test"], sender=SENDER)
                assert reply[:3] == b"250", reply

    async def unfinished(step: str) -> Smtp:
        client = await Smtp.connect(socket)
        await client.hello()
        wire = Mail.make(300_000).stuffed
        for line in ("MAIL FROM:<" + SENDER + ">", "RCPT TO:<x@end.test>", "DATA")[: SENT.index(step) + 1]:
            assert (await client.command(line.encode()))[:1] in (b"2", b"3")
        if step in SENT[3:]:
            await client.send(wire[: len(wire) // 2] if step == "half" else wire.removesuffix(b".\r\n"))
        return client

    async def torture() -> None:
        async with contextlib.AsyncExitStack() as life:
            stalling = [
                await life.enter_async_context(
                    RemoteHost({"EHLO": OFFERS, step: STALL}, wants_port=smarthosts[step])
                )
                for step in STEPS
            ]
            await asyncio.to_thread(server.start)
            await submit()
            for step in SENT:
                await life.enter_async_context(await unfinished(step))
            async with asyncio.timeout(DRAIN_SECONDS):
                for host in stalling:
                    await host.stalling()
            server.kill()
        assert {whole_id(file.read_bytes()) for file in server.queued()} == {
            mail.id for mail in mails.values()
        }
        async with contextlib.AsyncExitStack() as life:
            taking = {
                step: await life.enter_async_context(RemoteHost(wants_port=port))
                for step, port in smarthosts.items()
            }
            await asyncio.to_thread(server.start)
            await drained(server)
            for step, host in taking.items():
                assert [arrived(message) for message in host.messages] == [mails[step].id]

    try:
        asyncio.run(torture())
        server.stop()
    finally:
        if server.process.poll() is None:
            server.kill()
        ports.close()
    server.assert_no_bugs()
    assert server.staged() == []

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
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import serving
from remote_host import RemoteHost, Taken
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

[[relay]]
name = "smarthost"
hosts = ["127.0.0.1:{smarthost}"]
tls = "none"
connections = 20
default = true

[submission]
messages_per_hour = 0
messages_per_day = 0
"""


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
            self.unsure.remove(mail.id)
            assert reply[:3] == b"250", reply
            self.answered[mail.id] = to


class Arrivals:
    """What the smarthost acknowledged: for each message the lives of the server that sent it, in order."""

    def __init__(self) -> None:
        self.lives: dict[str, list[int]] = defaultdict(list)
        self.recipients: dict[str, list[str]] = {}
        self.unsettled: list[set[str]] = []  # for each life that ended, what was in the queue at its end

    def add(self, taken: list[Taken]) -> None:
        """What the life that ends now has sent."""
        for message in taken:
            if message.reply.startswith("250"):
                mail_id = whole_id(message.wire.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
                assert mail_id, f"the smarthost got a torn message:\n{message.wire[:300]!r}"
                self.lives[mail_id].append(len(self.unsettled))
                self.recipients[mail_id] = [
                    rcpt.partition("<")[2].partition(">")[0] for rcpt in message.rcpts
                ]

    def life_ended(self, queued: list[Path]) -> None:
        """The life has ended, with this in its queue."""
        ids = [whole_id(content.read_bytes()) for content in queued]
        assert None not in ids, "there is a torn message in the queue"
        self.unsettled.append({mail_id for mail_id in ids if mail_id})

    @property
    def in_the_window(self) -> list[int]:
        """For each life, how many messages it had sent, and not settled, when it ended."""
        sent = Counter(
            life
            for mail_id, lives in self.lives.items()
            for life in set(lives)
            if life < len(self.unsettled) and mail_id in self.unsettled[life]
        )
        return [sent[life] for life in range(len(self.unsettled))]

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
    server = Server(tmp_path, more=SETTINGS.format(socket=socket, tls=tls, smarthost=smarthost))
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
            arrivals.add(host.messages)
            arrivals.life_ended(server.queued())
        async with RemoteHost(wants_port=smarthost) as host:
            await asyncio.to_thread(revive)
            await load.stop()
            await drained(server)
        arrivals.add(host.messages)
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
    window = arrivals.in_the_window
    report(
        "kill -9 while relaying",
        kills=KILLS,
        acknowledged=len(load.answered),
        lost=len(lost),
        torn=0,
        in_the_queue_at_a_kill=f"{max(map(len, arrivals.unsettled))} at most",
        sent_and_not_settled=f"{sum(window)} ({max(window)} at most)",
        so_sent_twice=f"{twice} ({twice / KILLS:.1f} a kill)",
    )
    assert not lost, f"{len(lost)} of {len(load.answered)} acknowledged messages are lost"
    assert arrivals.unexplained() == []
    assert arrivals.lives.keys() <= load.answered.keys() | load.unsure
    for mail_id, recipients in load.answered.items():
        assert arrivals.recipients[mail_id] == recipients
    assert twice <= sum(window)

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

from remote_host import RemoteHost, Taken
from torture.clients import Mail, Smtp, whole_id
from torture.figures import report, times
from torture.relaying import SENDER, Relaying, arrived, drained, relaying
from torture.running import Server

KILLS = times(10, 300)
SENDERS = 8


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


class Arrivals:
    """What the smarthost acknowledged: for each message the lives of the server that sent it, in order."""

    def __init__(self) -> None:
        self.lives: dict[str, list[int]] = defaultdict(list)
        self.recipients: dict[str, list[str]] = {}
        self.unsettled: list[set[str]] = []  # for each life, what was in the queue at its end
        self.window: list[
            list[float]
        ] = []  # and for how long it had sent what it had not settled, in seconds

    def life_ended(self, taken: list[Taken], queued: list[bytes], ended: float) -> None:
        """A life has sent this, and left this in its queue."""
        left = {whole_id(content) or "" for content in queued}
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
    arrivals = Arrivals()

    async def torture(run: Relaying, seed: int) -> Load:
        chance = random.Random(seed)
        load = None
        server = run.server
        revive: Callable[[], object] = server.start
        for number in range(KILLS):
            async with RemoteHost(wants_port=run.smarthosts["smarthost"]) as host:
                await asyncio.to_thread(revive)
                load = load or Load([run.socket, run.tls], seed)
                await asyncio.sleep(chance.uniform(0.1, 1.0))
                load.check()
                revive = kill(server, whole=number % 3 < 2)
                ended = time.monotonic()
            arrivals.life_ended(host.messages, server.queued_contents(), ended)
        assert load
        async with RemoteHost(wants_port=run.smarthosts["smarthost"]) as host:
            await asyncio.to_thread(revive)
            await load.stop()
            await drained(server)
        arrivals.life_ended(host.messages, [], time.monotonic())
        return load

    seed = random.randrange(1 << 32)
    print("seed", seed)
    with relaying(tmp_path, {"smarthost": "default = true"}) as run:
        load = asyncio.run(torture(run, seed))
    judge(load, arrivals)


def kill(server: Server, *, whole: bool) -> Callable[[], object]:
    """Kill the family, or all but the parent; what brings them back."""
    if not whole:
        return server.kill_workers()
    server.kill()
    return server.start


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

"""kill -9 at random instants under load: whatever was answered with 250 is there afterwards, whole.

SMTP clients send as real ones do: a message whose 250 they did not see is sent again, which is the one way
to a second copy (RFC 1047). Every third kill hits one worker only, and the server has to go on by itself.
All of them are always waiting for one, so that a crash finds many. Beside them POP3 clients fetch and delete; what they delete is in Trash. Power
is not cut here: the kernel keeps what was written (see test_power_cut).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from pathlib import Path

from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.figures import report, times
from torture.running import Server

KILLS = times(12, 1500)
SENDERS = 8
READERS = 3
USERS = 12


class Load:
    """Clients that go on, over every crash, until told to stop."""

    def __init__(self, server: Server, seed: int) -> None:
        self.acknowledged: list[tuple[str, tuple[str, ...]]] = []
        self.kills = 0
        self.sent_again: dict[str, int] = {}  # and after which kill, for the first time
        self.refused: Counter[bytes] = Counter()
        self.deleted = self.retrieved = self.logins = 0
        self._server = server
        self._chance = random.Random(seed)
        self._stop = False
        self._tasks = [asyncio.create_task(self._send()) for _ in range(SENDERS)]
        self._tasks += [asyncio.create_task(self._read()) for _ in range(READERS)]

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    def check(self) -> None:
        """Raise what a client has found wrong meanwhile."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def _send(self) -> None:
        unsure: tuple[Mail, tuple[str, ...]] | None = None
        while not self._stop:
            try:
                async with await Smtp.connect(self._server.smtp) as client:
                    await client.hello()
                    for _ in range(self._chance.randint(1, 30)):
                        if self._stop:
                            return
                        if unsure:
                            self.sent_again.setdefault(unsure[0].id, self.kills)
                        mail, users = unsure = unsure or self._next()
                        reply = await client.deliver(mail, users)
                        if reply[:3] == b"250":
                            self.acknowledged.append((mail.id, users))
                            unsure = None
                        else:
                            assert reply[:1] == b"4", reply
                            self.refused[reply] += 1
            except OSError:
                await asyncio.sleep(0.02)

    def _next(self) -> tuple[Mail, tuple[str, ...]]:
        octets = self._chance.choices((500, 5_000, 60_000, 600_000), (60, 30, 9, 1))[0]
        many = self._chance.choices((1, 3, 8), (60, 25, 15))[0]
        return Mail.make(octets), tuple(self._chance.sample(self._server.users, many))

    async def _read(self) -> None:
        while not self._stop:
            try:
                async with await Pop3.connect(self._server.pop3) as client:
                    await self._session(client)
            except OSError:
                await asyncio.sleep(0.02)

    async def _session(self, client: Pop3) -> None:
        answer = await client.login(self._chance.choice(self._server.users))
        if answer.startswith(b"-ERR [IN-USE]"):
            await asyncio.sleep(0.01)
            return
        assert answer.startswith(b"+OK"), answer
        self.logins += 1
        count = await client.count()
        chosen = self._chance.sample(range(1, count + 1), min(count, 20))
        for number in chosen:
            text = b"\r\n".join(await client.listing(b"RETR %d" % number))
            assert whole_id(text + b"\r\n"), f"POP3 gave out a torn message:\n{text[:300]!r}"
            self.retrieved += 1
            answer = await client.command(b"DELE %d" % number)
            assert answer.startswith(b"+OK"), answer
        if self._chance.random() < 0.8:
            answer = await client.command(b"QUIT")
            assert answer.startswith(b"+OK"), answer
            self.deleted += len(chosen)


def test_no_acknowledged_copy_is_lost_or_torn(tmp_path: Path) -> None:
    server = Server(tmp_path, users=USERS)
    back: list[float] = []

    async def torture(seed: int) -> Load:
        server.start()
        load = Load(server, seed)
        chance = random.Random(seed)
        for number in range(KILLS):
            await asyncio.sleep(chance.uniform(0.2, 1.2))
            load.check()
            load.kills += 1
            if number % 3 == 2:
                server.kill_worker(chance.choice(server.workers))
                continue
            began = time.monotonic()
            server.kill()
            await asyncio.to_thread(server.start)
            back.append(time.monotonic() - began)
        await asyncio.sleep(0.3)
        await load.stop()
        server.kill()
        return load

    seed = random.randrange(1 << 32)
    print("seed", seed)
    try:
        load = asyncio.run(torture(seed))
    finally:
        if server.process.poll() is None:
            server.kill()
    with server.running():
        assert server.staged() == []
        copies = count_copies(server)
        assert sum(copies.values()) == asyncio.run(served(server)), "POP3 and the disk disagree"
    acknowledged = {(mail_id, user) for mail_id, users in load.acknowledged for user in users}
    lost = [copy for copy in acknowledged if not copies[copy]]
    assert lost == [], f"{len(lost)} of {len(acknowledged)} acknowledged copies are lost"
    twice = {mail_id for (mail_id, _), count in copies.items() if count > 1}
    after = Counter(load.sent_again[mail_id] for mail_id in twice & load.sent_again.keys())
    report(
        "kill -9 under load",
        kills=KILLS,
        acknowledged_copies=len(acknowledged),
        lost=len(lost),
        torn=0,
        sent_again=len(load.sent_again),
        so_there_twice=f"{len(twice)} ({len(twice) / KILLS:.2f} a kill, {max(after.values(), default=0)} at most)",
        refused=sum(load.refused.values()),
        retrieved=load.retrieved,
        deleted=load.deleted,
        back_after=f"{sorted(back)[len(back) // 2]:.2f} s (longest {max(back):.2f} s)",
    )
    assert twice <= load.sent_again.keys(), "stored twice, though it was sent once"
    assert max(back) < 15


def count_copies(server: Server) -> Counter[tuple[str, str]]:
    """(message, user) of every file a reader can see; each has to be whole."""
    copies: Counter[tuple[str, str]] = Counter()
    for user in server.users:
        for file in server.stored(user):
            mail_id = whole_id(file.read_bytes())
            assert mail_id, f"{file} is torn"
            copies[mail_id, user] += 1
    return copies


async def served(server: Server) -> int:
    """How many messages POP3 shows, and Trash holds, of all users."""
    total = 0
    for user in server.users:
        async with await Pop3.connect(server.pop3) as client:
            answer = await client.login(user)
            assert answer.startswith(b"+OK"), answer
            total += await client.count() + len(list((server.mailbox(user) / ".Trash" / "cur").glob("*")))
    return total

"""What may happen to a machine meanwhile: a worker dies, memory is short, the clock leaps, no name server answers.

A prober sends a message every now and then, each over a connection of its own, and reads the mailbox: in trouble it
may hear 4xx, or be cut off when a process dies, and nothing else; what was answered with 250 is there. How long it
takes until all is well again is printed; the goal on a quiet machine is a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import dns.message
import dns.rrset
import serving
from destinations import queued_content
from name_servers import free_port
from remote_host import RemoteHost
from torture.clients import Mail, Pop3, Smtp, whole_id
from torture.figures import report, times
from torture.leaping_server import Clock
from torture.running import LIMITS, Server

from mailserver.queue.spool import Spool

HOUR, YEAR = 3600.0, 365 * 86_400.0
BACK = 30.0  # seconds; what is asserted has room for a busy machine
SENDER = "user0@example.test"
SUBMISSION = """
[[listener]]
protocol = "submission"
endpoint = "unix:{socket}"
"""
RELAY = """
[[relay]]
name = "{name}"
hosts = ["127.0.0.1:{port}"]
tls = "opportunistic"
{whose}
"""
ROUNDS = times(2, 40)
MEGABYTE = 1 << 20


class Prober:
    """Sends to one user, over and over, until told to stop."""

    def __init__(self, server: Server, user: str) -> None:
        self.kept: set[str] = set()
        self.heard: Counter[str] = Counter()
        self._server = server
        self._user = user

    async def once(self, octets: int = 1000) -> bool:
        """Send a message and look into the mailbox; whether both went well."""
        try:
            async with asyncio.timeout(BACK), await Smtp.connect(self._server.smtp) as client:
                await client.hello()
                mail = Mail.make(octets)
                reply = await client.deliver(mail, [self._user])
            self.heard[reply[:3].decode()] += 1
            assert reply[:3] == b"250" or reply[:1] == b"4", reply
            if reply[:3] != b"250":
                return False
            self.kept.add(mail.id)
            return await self._read()
        except OSError:
            self.heard["cut off"] += 1
            return False

    async def _read(self) -> bool:
        async with asyncio.timeout(BACK), await Pop3.connect(self._server.pop3) as client:
            answer = await client.login(self._user)
            if not answer.startswith(b"+OK"):
                assert answer.startswith((b"-ERR [SYS/TEMP]", b"-ERR [IN-USE]")), answer
                self.heard[answer.split()[1].decode()] += 1
                return False
            return await client.count() > 0

    async def is_well_again(self) -> str:
        """After how long a message goes in and can be read."""
        began = time.monotonic()
        while not await self.once():
            assert time.monotonic() < began + BACK, self.heard
            await asyncio.sleep(0.01)
        return f"{time.monotonic() - began:.2f} s"

    @contextlib.asynccontextmanager
    async def probing(self) -> AsyncIterator[None]:
        async def probe() -> None:
            while True:
                await self.once()
                await asyncio.sleep(0.05)

        task = asyncio.create_task(probe())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def judge(self) -> None:
        """Nothing that was answered with 250 is missing."""
        stored = {whole_id(file.read_bytes()) for file in self._server.stored(self._user)}
        assert None not in stored
        assert self.kept <= stored, f"{len(self.kept - stored)} messages are lost"


async def until(condition: Callable[[], object], what: str) -> str:
    """Wait for something; after how long it was so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + BACK, what
        await asyncio.sleep(0.005)
    return f"{time.monotonic() - began:.2f} s"


# ---- processes


def test_a_worker_is_killed(tmp_path: Path) -> None:
    """The only one there is."""
    server = Server(tmp_path, users=1, workers=1)
    prober = Prober(server, server.users[0])
    back: list[str] = []

    async def torture() -> None:
        for _ in range(ROUNDS):
            async with prober.probing():
                [worker] = await workers(server)
                await asyncio.sleep(1)  # one that dies at its start is not replaced in haste
                server.kill_worker(worker)
                await until(lambda worker=worker: worker not in server.workers, "it is dead")
            back.append(await prober.is_well_again())

    with server.running():
        asyncio.run(torture())
        prober.judge()
    report("the only worker killed", lost=0, heard=dict(prober.heard), back_after=max(back))


def consoles(server: Server) -> set[int]:
    return {
        int(found[1])
        for line in server.events("console-serving")
        if (found := re.search(r"process=(\d+)", line))
    }


async def workers(server: Server, count: int = 1) -> list[int]:
    """All children but the console, which is the last one to be begun."""
    await until(lambda: len(set(server.workers) - consoles(server)) == count, "all workers are there")
    return [pid for pid in server.workers if pid not in consoles(server)]


def test_the_console_is_killed(tmp_path: Path) -> None:
    """Mail does not notice."""
    server = Server(tmp_path, users=1, workers=1)
    prober = Prober(server, server.users[0])
    back: list[str] = []

    async def torture() -> None:
        await until(lambda: consoles(server), "a console")
        async with prober.probing():
            for _ in range(ROUNDS):
                before = consoles(server)
                [console] = before & set(server.workers)
                os.kill(console, signal.SIGKILL)
                back.append(await until(lambda before=before: consoles(server) - before, "another console"))

    with server.running():
        asyncio.run(torture())
        prober.judge()
        assert server.events("worker-died") == []
    assert set(prober.heard) == {"250"}
    report("the console killed", lost=0, heard=dict(prober.heard), console_back_after=max(back))


def test_the_queues_worker_is_killed(tmp_path: Path) -> None:
    """Each of the workers in turn, so that of the queue too: another one goes on with it."""
    ports = serving.Ports()
    smarthost, submission = ports.take(), tmp_path / "submission"
    relay = RELAY.format(name="smarthost", port=smarthost, whose="default = true")
    server = Server(tmp_path, users=1, workers=2, more=LIMITS + SUBMISSION.format(socket=submission) + relay)
    back: list[str] = []

    async def arrives(host: RemoteHost) -> str:
        """A message goes out; after how long it is there, the death before it included."""
        mail = Mail.make(1000)
        began = time.monotonic()
        while not await accepted(submission, mail, "x@elsewhere.test"):
            assert time.monotonic() < began + BACK
            await asyncio.sleep(0.01)
        await until(lambda: arrivals(host, mail), "it arrives")
        return f"{time.monotonic() - began:.2f} s"

    async def torture() -> None:
        async with RemoteHost(wants_port=smarthost) as host:
            await arrives(host)
            for _ in range(ROUNDS):
                for worker in await workers(server, 2):
                    server.kill_worker(worker)
                    back.append(await arrives(host))

    try:
        with server.running():
            asyncio.run(torture())
    finally:
        ports.close()
    report("the queue's worker killed", lost=0, mail_goes_out_after=max(back))


async def accepted(place: Path, mail: Mail, to: str) -> bool:
    try:
        async with await Smtp.connect(place) as client:
            await client.hello()
            reply = await client.deliver(mail, [to], sender=SENDER)
    except OSError:
        return False
    assert reply[:3] == b"250" or reply[:1] == b"4", reply
    return reply[:3] == b"250"


def test_no_memory_for_a_worker(tmp_path: Path) -> None:
    """Its address space may hardly grow (RLIMIT_AS, set from outside), then it may again.

    Some are cut off: the loop itself has no memory to read what they say.
    """
    server = Server(tmp_path, users=2, workers=1)
    prober, crowd = (Prober(server, user) for user in server.users)
    figures: dict[str, object] = {}

    async def torture() -> None:
        assert await prober.once()
        [worker] = await workers(server)
        size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker, resource.RLIMIT_AS, (size + 16 * MEGABYTE, resource.RLIM_INFINITY))
        async with prober.probing():
            for _ in range(ROUNDS):
                await asyncio.gather(*(crowd.once(4 * MEGABYTE) for _ in range(30)))
        with contextlib.suppress(ProcessLookupError):  # it may have died of it
            resource.prlimit(worker, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        figures["back_after"] = await prober.is_well_again()
        figures["workers_that_died"] = len(server.events("worker-died"))

    server.start()
    try:
        asyncio.run(torture())
        server.stop()
    finally:
        if server.process.poll() is None:
            server.kill()
    prober.judge()
    crowd.judge()
    assert [line for line in server.events("unforeseen") if " error=MemoryError " not in line] == []
    report("no memory for a worker", lost=0, heard=dict(prober.heard + crowd.heard), **figures)


# ---- the clock


def test_the_clock_leaps(tmp_path: Path) -> None:
    """Back an hour, forward a year and home again: mail flows, nothing expires, nothing is given up."""
    ports = serving.Ports()
    smarthost, nobody, submission = ports.take(), ports.take(), tmp_path / "submission"
    more = SUBMISSION.format(socket=submission)
    more += RELAY.format(name="smarthost", port=smarthost, whose="default = true")
    more += RELAY.format(name="nobody", port=nobody, whose='recipient_domains = ["nobody.test"]')
    clock = Clock(tmp_path / "clock")
    program = (str(Path(__file__).with_name("leaping_server.py")), str(tmp_path / "clock"))
    server = Server(tmp_path, users=2, more=LIMITS + more, program=program)
    prober = Prober(server, server.users[0])
    waiting, trashed = Mail.make(500), Mail.make(500)
    back: list[str] = []

    async def torture() -> None:
        reader = server.users[1]
        async with await Smtp.connect(server.smtp) as client:
            await client.hello()
            assert (await client.deliver(trashed, [reader]))[:3] == b"250"
        async with await Pop3.connect(server.pop3) as client:
            await client.login(reader)
            await client.command(b"DELE 1")
            assert (await client.command(b"QUIT")).startswith(b"+OK")
        assert await accepted(submission, waiting, "x@nobody.test")
        async with (
            RemoteHost(wants_port=smarthost) as host,
            await Smtp.connect(server.smtp) as old,
            await Pop3.connect(server.pop3) as older,
            prober.probing(),
        ):
            await older.login(reader)
            for leap in (-HOUR, HOUR + YEAR, -YEAR, YEAR, -HOUR):
                clock.leap(leap)
                back.append(await prober.is_well_again())
                mail = Mail.make(500)
                assert await accepted(submission, mail, "x@elsewhere.test")
                await until(lambda mail=mail: arrivals(host, mail) == 1, "it is relayed")
                assert (await old.command(b"NOOP"))[:3] == b"250"
                assert (await older.command(b"NOOP")).startswith(b"+OK")
            await old.close()

    with server.running():
        asyncio.run(torture())
        prober.judge()
        [kept] = server.stored(server.users[1])
        assert (kept.parent.parent.name, whole_id(kept.read_bytes())) == (".Trash", trashed.id)
        spool = Spool(str(server.maildirs / ".queue"))
        left = {whole_id(queued_content(spool, spool.load(entry_id))) for entry_id, _ in spool.ids()}
        assert waiting.id in left
        assert not any(" outcome=failed " in line for line in server.events("delivery"))
    ports.close()
    assert set(prober.heard) <= {"250", "[IN-USE]"}  # two of its own looks at once
    report(
        "the clock leaps",
        by="-1 h, +1 year, and home",
        lost=0,
        heard=dict(prober.heard),
        back_after=max(back),
    )


def arrivals(host: RemoteHost, mail: Mail) -> int:
    return sum(f"<{mail.id}@client.test>".encode() in message.wire for message in host.messages)


# ---- name servers

ELSEWHERE = """
import sys
from functools import partial
from mailserver.cli import main
from mailserver.delivery import ways
from mailserver.server import outgoing
names, port = int(sys.argv.pop(1)), int(sys.argv.pop(1))
outgoing.DnsResolver = partial(outgoing.DnsResolver, [("127.0.0.1", names)])
ways.DirectMx = partial(ways.DirectMx, port=port, ours=lambda address: False)
main()
"""


@contextlib.contextmanager
def name_server(port: int) -> Iterator[threading.Event]:
    """Every host is 127.0.0.1, but nobody hears of it before the event."""
    answers = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", port))

        def serve() -> None:
            while True:
                wire, client = sock.recvfrom(4096)
                if not wire:
                    return
                if answers.is_set():
                    sock.sendto(_answer(wire), client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield answers
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", port))
            thread.join()


def _answer(wire: bytes) -> bytes:
    question = dns.message.from_wire(wire)
    answer = dns.message.make_response(question)
    asked = question.question[0]
    if asked.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", "127.0.0.1"))
    return answer.to_wire()


def test_no_name_server_answers(tmp_path: Path) -> None:
    """Mail for elsewhere is accepted and waits; mail for here flows."""
    names, port, submission = free_port(), free_port(), tmp_path / "submission"
    program = ("-c", ELSEWHERE, str(names), str(port))
    server = Server(tmp_path, users=1, more=LIMITS + SUBMISSION.format(socket=submission), program=program)
    prober = Prober(server, server.users[0])
    waiting = [Mail.make(500) for _ in range(20)]
    figures: dict[str, object] = {}

    async def torture(answers: threading.Event) -> None:
        async with RemoteHost(wants_port=port) as host:
            async with prober.probing():
                for number, mail in enumerate(waiting):
                    assert await accepted(submission, mail, f"x@host{number}.test")
                await asyncio.sleep(1)
            assert host.messages == []
            assert len(server.queued()) == len(waiting)
            answers.set()
            fresh = Mail.make(500)
            assert await accepted(submission, fresh, "x@fresh.test")
            figures["new_mail_out_after"] = await until(lambda: arrivals(host, fresh), "new mail leaves")
            figures["waiting_mail_out_after"] = await until(
                lambda: all(arrivals(host, mail) for mail in waiting), "mail that waited leaves"
            )

    with name_server(names) as answers, server.running():
        asyncio.run(torture(answers))
        prober.judge()
    assert set(prober.heard) == {"250"}
    report("no name server answers", lost=0, heard=dict(prober.heard), **figures)

"""The cells: what is done to a target once, and the figures that come of it.

Not here: how many of what (plan.py), rounds and medians (rounds.py), the loads themselves (loads.py).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import loads
import mailboxes
import processes
from loads import Load, Mail
from sink import Sink
from target import Target, TargetFailed

_BIG = 119  # the number of the mailbox that holds tens of thousands
_LARGE = 3  # large messages a sample


class Row(NamedTuple):
    """One line of the report."""

    id: str
    title: str
    unit: str
    less_is_better: bool = False
    near_zero: bool = False  # a ratio of two such figures says nothing


class Sample(NamedTuple):
    """A figure. `cpu`: the target's CPU seconds per 1,000 messages; `generator`: cores the load took."""

    value: float
    cpu: float | None = None
    generator: float | None = None


Figures = dict[Row, Sample]


class Cell(Protocol):
    """Something to do to a target, and to do again."""

    @property
    def id(self) -> str: ...

    @property
    def protocols(self) -> frozenset[str]:
        """Of these the cell takes what the target has; with none in common it is left out."""

    def warm_up(self, target: Target) -> None:
        """A short run that counts for nothing. Raises TargetFailed."""

    def run(self, target: Target) -> Figures:
        """One sample of each row. Raises TargetFailed."""


class Cpu:
    """CPU seconds of the target while a `with` block runs, the work it does afterwards for it included."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.seconds = 0.0

    def __enter__(self) -> Cpu:
        self._before = processes.cpu_seconds(self._target.pids)
        return self

    def __exit__(self, *exception: object) -> None:
        self._target.settle()
        self.seconds = processes.cpu_seconds(self._target.pids) - self._before

    def sample(self, value: float, messages: int, load: Load) -> Sample:
        return Sample(value, self.seconds * 1000 / messages, load.cpu / load.seconds)


@dataclass(frozen=True)
class Inbound:
    """SMTP in: messages per second, each counted when it is in `new/` of every recipient."""

    id: str
    title: str
    mail: Mail
    protocols = frozenset({"smtp"})

    def warm_up(self, target: Target) -> None:
        target.reset()
        fewer = max(self.mail.sessions, self.mail.messages // 50 * 10)
        loads.send(target, self.mail._replace(messages=fewer))

    def run(self, target: Target) -> Figures:
        target.reset()
        with Cpu(target) as cpu:
            load = loads.send(target, self.mail)
        rate = self.mail.messages / load.seconds
        return {Row(self.id, self.title, "msg/s"): cpu.sample(rate, self.mail.messages, load)}


@dataclass(frozen=True)
class Relayed:
    """Mail for elsewhere, by a relay: messages per second, each counted when the next hop has taken it."""

    id: str
    title: str
    mail: Mail
    protocols = frozenset({"relay"})

    def warm_up(self, target: Target) -> None:
        with Sink(target.sink_port) as sink:
            loads.relay(
                target, self.mail._replace(messages=max(self.mail.sessions, self.mail.messages // 5)), sink
            )

    def run(self, target: Target) -> Figures:
        os.sync()
        with Sink(target.sink_port) as sink, Cpu(target) as cpu:
            load = loads.relay(target, self.mail, sink)
        rate = self.mail.messages / load.seconds
        return {Row(self.id, self.title, "msg/s"): cpu.sample(rate, self.mail.messages, load)}


@dataclass(frozen=True)
class Maildrops:
    """POP3 out: sessions per second over many mailboxes; lock-step, every message fetched each time.

    First opening (no index of the server's yet), again, and a drain that deletes everything. Each user has
    logged in before, to the empty mailbox: a password is not what is measured.
    """

    id: str
    count: int
    messages: int
    octets: int
    clients: int = 20
    protocols = frozenset({"pop3"})

    def warm_up(self, target: Target) -> None:
        few = Maildrops(self.id, max(self.clients, self.count // 5), self.messages // 5, self.octets)
        few.run(target)

    def run(self, target: Target) -> Figures:
        target.reset()
        numbers = range(self.count)
        loads.read(target, {number: [] for number in numbers}, clients=self.clients)
        target.reset(numbers)
        users = {
            number: mailboxes.fill(target.maildir(number), self.messages, self.octets, target.owner)
            for number in numbers
        }
        os.sync()
        figures: Figures = {}
        for step, title in (("first", "first opening"), ("again", "opened again"), ("drain", "drained")):
            with Cpu(target) as cpu:
                load = loads.read(target, users, clients=self.clients, delete=step == "drain")
            row = Row(f"{self.id}-{step}", f"POP3, {self.messages} messages, {title}", "sessions/s")
            figures[row] = cpu.sample(self.count / load.seconds, self.count * self.messages, load)
        left = sum(mailboxes.count(target.maildir(number)) for number in numbers)
        if left:
            raise TargetFailed(f"{target.name}: {left} messages are still in new/ after the drain")
        return figures


@dataclass(frozen=True)
class BigMailbox:
    """One mailbox of tens of thousands: UIDL, LIST and ten RETR, in milliseconds.

    Cold: a server just started that has not seen these messages, nor made an index of them. Warm: again.
    """

    id: str
    messages: int
    octets: int = 1024
    protocols = frozenset({"pop3"})

    def warm_up(self, target: Target) -> None:
        pass  # cold is the point

    def run(self, target: Target) -> Figures:
        target.reset([_BIG])
        target.restart()
        loads.read(target, {_BIG: []}, clients=1)  # the password is known
        target.reset([_BIG])
        sizes = mailboxes.fill(target.maildir(_BIG), self.messages, self.octets, target.owner)
        os.sync()
        figures: Figures = {}
        for step in ("cold", "warm"):
            load = loads.read(target, {_BIG: sizes}, clients=1, retrieve=10)
            row = Row(f"{self.id}-{step}", f"POP3, {self.messages:,} messages, {step}", "ms", True)
            figures[row] = Sample(load.seconds * 1000, None, load.cpu / load.seconds)
        target.reset([_BIG])
        return figures


@dataclass(frozen=True)
class LargeMessage:
    """Messages of 50 MB in and out: MB/s, and by how much the server's memory grew meanwhile."""

    id: str
    octets: int
    protocols = frozenset({"smtp", "pop3"})

    def warm_up(self, target: Target) -> None:
        self.run(target)

    def run(self, target: Target) -> Figures:
        figures: Figures = {}
        if "smtp" in target.protocols:
            target.reset()
            with processes.PeakMemory(target.pids) as peak:
                load = loads.send(target, Mail(_LARGE, 1, self.octets))
            figures |= self._figures("in", load, peak)
        if "pop3" in target.protocols:
            target.reset()
            users = {0: mailboxes.fill(target.maildir(0), _LARGE, self.octets, target.owner)}
            os.sync()
            with processes.PeakMemory(target.pids) as peak:
                load = loads.read(target, users, clients=1)
            figures |= self._figures("out", load, peak)
        target.reset()
        return figures

    def _figures(self, way: str, load: Load, peak: processes.PeakMemory) -> Figures:
        megabytes = self.octets / 1e6
        speed = Row(f"{self.id}-{way}", f"{megabytes:.0f} MB {way}", "MB/s")
        growth = Row(f"{self.id}-{way}-memory", f"{megabytes:.0f} MB {way}, memory", "MiB more", True, True)
        return {
            speed: Sample(_LARGE * megabytes / load.seconds, None, load.cpu / load.seconds),
            growth: Sample(peak.growth / 2**20),
        }


@dataclass(frozen=True)
class Idle:
    """Connections that have been greeted and say nothing: memory of the server for each, in KiB."""

    id: str
    connections: int
    protocols = frozenset({"smtp", "pop3"})

    def warm_up(self, target: Target) -> None:
        pass  # each run begins with a restart

    def run(self, target: Target) -> Figures:
        figures: Figures = {}
        for protocol, port in (("smtp", target.smtp_port), ("pop3", target.pop3_port)):
            if protocol not in target.protocols:
                continue
            count = min(self.connections, target.most_idle.get(protocol, self.connections))
            target.restart()
            with _connected(port, 20):
                pass  # what is made at the first connections is not theirs
            time.sleep(0.5)
            before = processes.memory(target.pids)
            with _connected(port, count):
                time.sleep(0.5)
                growth = processes.memory(target.pids) - before
            row = Row(f"{self.id}-{protocol}", f"idle {protocol.upper()} connection", "KiB", True)
            figures[row] = Sample(growth / 1024 / count)
        return figures


@contextmanager
def _connected(port: int, count: int) -> Iterator[None]:
    """`count` connections, each greeted. Raises TargetFailed."""
    with ExitStack() as stack:
        for number in range(1, count + 1):
            try:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
                greeting = connection.recv(512)
            except OSError as error:
                raise TargetFailed(f"connection {number} of {count}: {error}") from None
            if greeting[:3] not in (b"220", b"+OK"):
                raise TargetFailed(f"connection {number} of {count} was greeted with {greeting[:60]!r}")
        yield

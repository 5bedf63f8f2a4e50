"""A server under test: what the benchmark needs of it, whatever it is.

A subclass says what to configure and which commands to start; processes, mailboxes and clean-up are here.
Everything listens on loopback and lives in one directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import mailboxes
import processes

DOMAIN = "bench.test"
PASSWORD = "bench"
# SHA512-CRYPT of PASSWORD with the fewest rounds the scheme has: logins are to show the mailbox, not the hash.
PASSWORD_HASH = "$6$rounds=1000$benchbenchbench$8e1hyQJhHM81Nm3UszKZ1755RbuWp1OR5HmTEQxiOD33SkAsE154vYCWiD2pJTFTUx1FEE32MiNulJnL8yRBX0"
MAILBOXES = 120
START_SECONDS = 30.0
STOP_SECONDS = 10.0


class Unavailable(Exception):
    """This target cannot run here; the text says why in one line."""


class TargetFailed(Exception):
    """The target did not start, answered with an error or lost something."""


def user(number: int) -> str:
    """The local part of mailbox 0, 1, ...: box, 2box, 3box, as smtp-source names its recipients."""
    return f"{number + 1}box" if number else "box"


def free_port() -> int:
    """A port nobody listens on, below those the kernel gives to clients: it must be free at a restart too."""
    while True:
        port = random.randrange(20000, 30000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def is_root() -> bool:
    return os.geteuid() == 0


class Target:
    """One server: start, stop, its mailboxes, its processes."""

    name: str
    protocols: frozenset[str] = frozenset({"smtp", "pop3"})
    cells: tuple[str, ...] = ("",)  # what the ids of those begin with in which it takes part
    owner: mailboxes.Owner | None = None  # of the mailboxes, where it is not who runs the benchmark
    most_idle: Mapping[str, int] = {}  # connections of a protocol, where it cannot hold any number

    def __init__(self, state: str) -> None:
        """`state` is an empty directory of the target's own; raises Unavailable."""
        self.state = state
        self.smtp_port = free_port()
        self.pop3_port = free_port()
        self.sink_port = free_port()
        self._running: list[subprocess.Popen[bytes]] = []

    def configure(self) -> None:
        """Write the configuration, once."""
        raise NotImplementedError

    def commands(self) -> list[list[str]]:
        """What to start; each stays in the foreground until SIGTERM."""
        raise NotImplementedError

    def maildir(self, number: int) -> str:
        """The Maildir of user(number)."""
        raise NotImplementedError

    def submission(self) -> str:
        """The UNIX socket on which programs of this machine send mail to other hosts, by `sink_port`."""
        raise NotImplementedError

    def busy(self) -> bool:
        """Is work left that no client waits for any more (a queue)?"""
        return False

    # ---- processes

    @property
    def pids(self) -> list[int]:
        """Roots of the target's process trees."""
        return [process.pid for process in self._running]

    def start(self, wrapper: Sequence[str] = ()) -> None:
        """Start and wait until every port greets. `wrapper` (strace) goes before each command."""
        log = os.path.join(self.state, "output.log")
        with open(log, "ab") as output:
            for command in self.commands():
                self._running.append(
                    subprocess.Popen(
                        [*wrapper, *command],
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        cwd=self.state,
                        env=self.environment(),
                        start_new_session=True,
                    )
                )
        for protocol, port in (("smtp", self.smtp_port), ("pop3", self.pop3_port)):
            if protocol in self.protocols:
                self._wait_for_greeting(port, log)

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _wait_for_greeting(self, port: int, log: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._running):
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as probe,
            ):
                if probe.recv(512)[:3] in (b"220", b"+OK"):
                    probe.sendall(b"QUIT\r\n")
                    return
            time.sleep(0.05)
        with open(log, errors="replace") as file:
            tail = file.read()[-1500:].strip()
        raise TargetFailed(f"{self.name} did not greet on port {port}. Its last words:\n{tail}")

    def stop(self) -> None:
        """End every process, politely first."""
        everything = processes.tree(self.pids)
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader(process), signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        for pid in set(processes.tree(self.pids)) | {pid for pid in everything if self._is_ours(pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._running:
            process.wait()
        self._running.clear()

    def _leader(self, process: subprocess.Popen[bytes]) -> int:
        """The process to signal: under a tracer, its child (the tracer itself ignores SIGTERM)."""
        children = processes.tree([process.pid])[1:]
        with contextlib.suppress(OSError), open(f"/proc/{process.pid}/comm") as file:
            if file.read().strip() == "strace" and children:
                return children[0]
        return process.pid

    def _is_ours(self, pid: int) -> bool:
        """Guards against a process number that was used again: the session is that of one of our commands."""
        try:
            return os.getsid(pid) in self.pids
        except ProcessLookupError:
            return False

    def restart(self) -> None:
        self.stop()
        self.start()

    # ---- mailboxes

    def reset(self, numbers: Sequence[int] = range(MAILBOXES)) -> None:
        """Empty mailboxes, written back: no target pays for the one before it."""
        self.settle()
        for number in numbers:
            mailboxes.empty(self.maildir(number), os.path.join(self.state, "aside"), self.owner)
        os.sync()

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until nothing is left to do; raises TargetFailed."""
        if not wait_until(lambda: not self.busy(), seconds):
            raise TargetFailed(f"{self.name} still had work to do after {seconds:.0f} s")


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.003) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True

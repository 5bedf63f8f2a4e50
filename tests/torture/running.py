"""A server of its own process for torture: configured in one directory, started, killed, looked at from outside.

What it costs is read from /proc. Not here: clients (`clients`), and what is done to it (the tests).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from destinations import queued_content

from mailserver.queue.spool import Spool
from mailserver.transport.tls import make_self_signed

DOMAIN = "example.test"
PASSWORD = "open sesame"
# argon2id of PASSWORD at the least cost: most tests are about mail, not about hashing.
CHEAP_HASH = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$J0h/eOIccad38gI2gY5uz0HCloBYgjF8EI2nPrCFklw"
START_SECONDS = 30.0

_SETTINGS = """\
hostname = "mail.example.test"
default_domain = "example.test"
maildirs = "{maildirs}"
log_file = "{log}"
allow_root = true
{workers}

[[listener]]
protocol = "smtp"
endpoint = "tcp:127.0.0.1:{smtp}"

[[listener]]
protocol = "pop3"
endpoint = "tcp:127.0.0.1:{pop3}"

[[listener]]
protocol = "pop3"
endpoint = "tls:127.0.0.1:{pop3s}"

[passwords]
upgrade = false

{more}
"""
LIMITS = "[limits]\nconnections_per_address = 0\n"
# What no input may ever bring about; `loop.unforeseen` is logged as unforeseen too.
_BUGS = re.compile(r"event=(unforeseen|session-failed|operation-failed|worker-failed|console-failed)\b.*")


class Server:
    """One configuration and, while it runs, one process. Ports are the same at every start."""

    def __init__(
        self,
        root: Path,
        *,
        users: int = 4,
        maildirs: Path | None = None,
        more: str = LIMITS,
        workers: int | None = None,
        hash_text: str = CHEAP_HASH,
        program: tuple[str, ...] = ("-m", "mailserver"),
        before: Callable[[], None] | None = None,
    ) -> None:
        self.config = root / "config"
        self.maildirs = maildirs or root / "maildirs"
        self.log = root / "log"
        self.users = [f"user{n}" for n in range(users)]
        self.smtp, self.pop3, self.pop3s = _free_ports(3)
        self._program = program
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None
        accounts = self.config / "domains" / DOMAIN / "users"
        accounts.mkdir(parents=True)
        for user in self.users:
            (accounts / user).write_text(f"{hash_text}\n")
        make_self_signed(str(self.config / "tls"), ["mail.example.test"])
        (self.config / "mailserver.toml").write_text(
            _SETTINGS.format(
                maildirs=self.maildirs,
                log=self.log,
                smtp=self.smtp,
                pop3=self.pop3,
                pop3s=self.pop3s,
                more=more,
                workers=f"workers = {workers}" if workers else "",
            )
        )

    # ---- life

    def start(self) -> float:
        """Start, and return after how many seconds both ports greet."""
        began = time.monotonic()
        with (self.config.parent / "stderr").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "--config", str(self.config), "serve"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._before,
            )
        for port in (self.smtp, self.pop3):
            self._wait_for_greeting(port, began + START_SECONDS)
        return time.monotonic() - began

    def _wait_for_greeting(self, port: int, deadline: float) -> None:
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server has ended:\n{self.last_words()}"
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5) as probe,
            ):
                if probe.recv(512)[:3] in (b"220", b"+OK"):
                    return
            time.sleep(0.01)
        raise AssertionError(f"no greeting within {START_SECONDS:.0f} s:\n{self.last_words()}")

    def last_words(self) -> str:
        return (self.config.parent / "stderr").read_text(errors="replace")[-2000:]

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def workers(self) -> list[int]:
        """The processes that serve, children of the one that was started."""
        pid = self.process.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def kill(self) -> None:
        """kill -9, now: of the one process whose number the administrator knows; its workers die with it."""
        workers = self.workers
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        _wait_for_death(workers)

    def kill_workers(self) -> Callable[[], None]:
        """kill -9 of all workers, now; others are there when what this returns has been called."""
        self.process.send_signal(signal.SIGSTOP)
        workers = self.workers
        for pid in workers:
            self.kill_worker(pid)
        _wait_for_death(workers)
        return lambda: self.process.send_signal(signal.SIGCONT)

    def kill_worker(self, pid: int) -> None:
        """kill -9 of one worker, as the kernel does when memory is short."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; the server has to end by itself, in order."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.last_words()

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Started; at the end stopped, and its log looked through for what must never be there."""
        self.start()
        try:
            yield self
            assert self.process.poll() is None, f"the server has ended:\n{self.last_words()}"
            self.stop()
        finally:
            if self.process.poll() is None:
                self.kill()
        self.assert_no_bugs()

    def assert_no_bugs(self) -> None:
        text = self.log.read_text(errors="replace")
        assert not (found := _BUGS.findall(text)), (found, _BUGS.search(text))
        assert "Traceback" not in self.last_words()

    # ---- from outside

    def events(self, name: str) -> list[str]:
        """The log's lines of one event."""
        return [line for line in self.log.read_text().splitlines() if f" event={name}" in line]

    @property
    def _processes(self) -> list[int]:
        return [self.process.pid, *self.workers]

    def resident(self, kind: str = "VmRSS") -> int:
        """Octets in memory, what processes share counted in each: VmRSS now, VmHWM at most since `forget_peak`."""
        return sum(_resident(pid, kind) for pid in self._processes)

    def resident_of(self, pid: int) -> int:
        """Octets in memory of one process."""
        return _resident(pid, "VmRSS")

    def forget_peak(self) -> None:
        for pid in self._processes:
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._processes)

    def processor_seconds(self) -> float:
        ticks = 0
        for pid in self._processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    # ---- state

    def mailbox(self, user: str) -> Path:
        return self.maildirs / DOMAIN / user

    def stored(self, user: str) -> list[Path]:
        """Every message of a user: in new, in cur, and in Trash."""
        found: list[Path] = []
        for place in ("new", "cur", ".Trash/new", ".Trash/cur"):
            found += (self.mailbox(user) / place).glob("*")
        return found

    def staged(self) -> list[Path]:
        return list((self.maildirs / ".queue" / "tmp").iterdir())

    def queued(self) -> list[str]:
        """The id of every entry of the queue."""
        return [entry.name for entry in (self.maildirs / ".queue" / "env").iterdir()]

    def queued_contents(self) -> list[bytes]:
        """The content of every entry of the queue. It is there for sure only while no worker is at work."""
        spool = Spool(str(self.maildirs / ".queue"))
        return [queued_content(spool, spool.load(entry_id)) for entry_id in self.queued()]


def _wait_for_death(pids: list[int]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"some of {pids} live on"
        time.sleep(0.001)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def _resident(pid: int, kind: str) -> int:
    match = re.search(rf"^{kind}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match, pid
    return int(match[1]) * 1024

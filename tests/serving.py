"""The server as a process of its own, for tests: configured, started, listened to, stopped.

A test waits for what the server says (a notification, a line of its log), never for time to pass.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import argon2

from mailserver.directory.names import encode
from mailserver.transport.tls import make_self_signed

HOST = "mx.example.test"
PASSWORD = "open sesame"
HASH = argon2.PasswordHasher(1, 64, 1).hash(PASSWORD)  # cheap: what it costs is no affair of these tests
USERS = ("ann@example.test", "bob@example.test", "postmaster@example.test")
LIMIT = 30.0  # seconds to wait for anything, on a machine that does much else
PYTHON = (sys.executable, "-W", "default::ResourceWarning")
MODULE = (*PYTHON, "-m", "mailserver")

UNFORESEEN = {"unforeseen", "session-failed"}
TRACES = ("Traceback", "ResourceWarning", "RuntimeWarning")
_FIELD = re.compile(r'(\S+?)=(?:"((?:[^"\\]|\\.)*)"|(\S*))')

# Runs the command line with constants of modules changed: the few times and numbers that are no settings.
_PATCHED = """
import importlib, json, sys
for place, value in json.loads(sys.argv.pop(1)).items():
    module, _, name = place.partition(":")
    holder = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    setattr(holder, last, value)
from mailserver.cli import main
main()
"""


def patched(constants: Mapping[str, object]) -> tuple[str, ...]:
    """The command `mailserver` with other values for `module:Name`."""
    return (*PYTHON, "-c", _PATCHED, json.dumps(constants))


class Ports:
    """TCP ports of loopback for servers to come.

    Each stays bound here, not listening, so that nobody else is given it; SO_REUSEADDR on both sides lets
    the server bind it all the same.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self, host: str = "127.0.0.1") -> int:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        self._held.append(sock)
        return sock.getsockname()[1]

    def close(self) -> None:
        for sock in self._held:
            sock.close()


class Event(NamedTuple):
    """A line of the log."""

    name: str
    fields: dict[str, str]


class Server:
    """`mailserver ... serve` as a subprocess, ready when the constructor returns.

    `command` and `arguments` make its command line; `descriptors` are passed on as 3, 4, ... like systemd's.
    """

    def __init__(
        self,
        *arguments: str | Path,
        command: Sequence[str] = MODULE,
        descriptors: Sequence[tuple[str, socket.socket]] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._happened = threading.Condition()
        self._lines: list[str] = []
        self._seen = 0
        self._ended = False
        self._told: deque[str] = deque()
        address = f"\0mailserver-test-{os.urandom(8).hex()}"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(address)
        self._notify.settimeout(LIMIT)
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + address[1:], **(environment or {})}
        line = [*command, *map(str, arguments)]
        if descriptors:
            line, environment = _activated(line, environment, descriptors)
        try:
            self.process = subprocess.Popen(
                line,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[sock.fileno() for _, sock in descriptors],
            )
        except OSError:
            self._notify.close()
            raise
        self._readers = [
            threading.Thread(target=self._read, args=(stream,), daemon=True)
            for stream in (self.process.stderr, self.process.stdout)
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.notified("READY=1")
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self, stream: Any) -> None:
        for line in stream:
            with self._happened:
                self._lines.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))
                self._happened.notify_all()
        if stream is self.process.stderr:
            with self._happened:
                self._ended = True
                self._happened.notify_all()
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"ENDED", self._notify.getsockname())

    # -- what it says ----------------------------------------------------------------------------

    def notified(self, state: str) -> None:
        """Wait until the server has notified its manager of `state`."""
        while True:
            said = self._notify.recv(4096).decode()
            if said == "ENDED":
                raise AssertionError(f"the server ended before {state}:\n{self.output}")
            if said.partition("\n")[0] == state:
                return

    def event(self, name: str, **fields: object) -> dict[str, str]:
        """Wait for a log line after the one found last: its fields, if `fields` (`_` for `-`) are among them."""
        wanted = {key.replace("_", "-"): str(value) for key, value in fields.items()}
        with self._happened:
            while True:
                while self._seen < len(self._lines):
                    found = parse(self._lines[self._seen])
                    self._seen += 1
                    if found and found.name == name and wanted.items() <= found.fields.items():
                        return found.fields
                assert not self._ended, f"the server ended before {name} {wanted}:\n{self.output}"
                assert self._happened.wait(LIMIT), f"no {name} {wanted}:\n{self.output}"

    def says(self, pattern: str) -> re.Match[str]:
        """Wait for a line of any kind in which `pattern` is found."""
        seen = 0
        with self._happened:
            while True:
                for line in self._lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self._lines)
                assert self._happened.wait(LIMIT), f"no {pattern!r}:\n{self.output}"

    def events(self, name: str) -> list[dict[str, str]]:
        """All events of that name so far."""
        found = (parse(line) for line in list(self._lines))
        return [event.fields for event in found if event and event.name == name]

    @property
    def output(self) -> str:
        """The last of what it said, for a test that failed."""
        return "\n".join(self._lines[-40:])

    # -- its end ---------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait until it has ended by itself; the exit code."""
        code = self.process.wait(LIMIT)
        self._notify.close()  # first: a reader that has to tell the end waits there while ten lie unread
        for reader in self._readers:
            reader.join(LIMIT)
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        return code

    def stop(self) -> None:
        """SIGTERM, and a look at what it has said in its life."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        assert self.wait() == 0, self.output
        self.check()

    def check(self) -> None:
        """Nothing unforeseen happened."""
        bad = [line for line in self._lines if any(word in line for word in TRACES) or _unforeseen(line)]
        assert not bad, "\n".join(bad) + "\n\n" + self.output

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()


def _activated(
    line: list[str], environment: dict[str, str], descriptors: Sequence[tuple[str, socket.socket]]
) -> tuple[list[str], dict[str, str]]:
    """As a service manager passes sockets (sd_listen_fds(3)): the number of the process is the shell's."""
    moves = "".join(f" {3 + n}<&{sock.fileno()}" for n, (_, sock) in enumerate(descriptors))
    script = f'LISTEN_PID=$$ exec "$@"{moves}'
    environment = {
        **environment,
        "LISTEN_FDS": str(len(descriptors)),
        "LISTEN_FDNAMES": ":".join(name for name, _ in descriptors),
    }
    return ["bash", "-c", script, "-", *line], environment


def parse(line: str) -> Event | None:
    """A line of the log; None for any other line."""
    fields = {match[1]: match[3] if match[2] is None else match[2] for match in _FIELD.finditer(line)}
    name = fields.pop("event", None)
    return None if name is None else Event(name, fields)


def _unforeseen(line: str) -> bool:
    event = parse(line)
    return event is not None and event.name in UNFORESEEN


class Site:
    """A configuration directory and mailboxes in a directory of their own, with a short path for sockets."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mailserver-"))
        self.config = self.root / "config"
        self.mail = self.root / "maildirs"
        self.certificate = self.config / "tls" / HOST / "fullchain.pem"
        self.ports = Ports()

    def configure(
        self,
        listeners: Sequence[tuple[str, str]] | Sequence[tuple[str, str, str]],
        settings: str = "",
        *,
        users: Sequence[str] = USERS,
        top: str = "",
        certificate: bool = True,
    ) -> None:
        """Write all of it. `listeners` are (protocol, endpoint[, further lines]); `top` are lines before them.

        Without a `certificate` there is an empty place for one, so that the server makes none either.
        """
        self.settings(listeners, settings, top=top)
        for user in users:
            local, _, domain = user.partition("@")
            self.write(f"domains/{domain}/users/{encode(local)}", HASH + "\n")
        self.certificate.parent.mkdir(parents=True, exist_ok=True)
        if certificate and not self.certificate.exists():
            make_self_signed(str(self.config / "tls"), [HOST, "localhost", "127.0.0.1"])

    def settings(
        self,
        listeners: Sequence[tuple[str, str]] | Sequence[tuple[str, str, str]],
        settings: str = "",
        *,
        top: str = "",
    ) -> None:
        """Write mailserver.toml. Wrong passwords cost no time, unless it is said otherwise."""
        tables = "".join(
            f'[[listener]]\nprotocol = "{listener[0]}"\nendpoint = "{listener[1]}"\n{"".join(listener[2:])}\n'
            for listener in listeners
        )
        if "[passwords]" not in settings:
            settings += '\n[passwords]\nupgrade = false\nfailure_delay = "0s"\n'
        head = f'hostname = "{HOST}"\ndefault_domain = "example.test"\nmaildirs = "{self.mail}"\n'
        self.write("mailserver.toml", f"{head}{top}\n{tables}{settings}")

    def write(self, name: str, text: str) -> None:
        """Write a file of the configuration as an editor does: at once."""
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.parent / f".{path.name}.tmp"
        fresh.write_text(text)
        fresh.replace(path)

    def serve(self, *arguments: str | Path, command: Sequence[str] = MODULE, **keywords: Any) -> Server:
        return Server("--config", self.config, "serve", *arguments, command=command, **keywords)

    def run(self, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Another command of `mailserver` on the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "mailserver", "--config", str(self.config), *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )

    def mailbox(self, user: str) -> Path:
        local, _, domain = user.partition("@")
        return self.mail / (domain or "example.test") / local

    def messages(self, user: str) -> list[bytes]:
        """What is in a user's mailbox, in the order of arrival."""
        box = self.mailbox(user)
        files = [path for part in ("new", "cur") for path in (box / part).glob("*")]
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.name)]

    def empty(self, user: str) -> None:
        """Take everything out of a mailbox, when no session has it open any more."""
        shutil.rmtree(self.mailbox(user), ignore_errors=True)

    def give(self, owner: str) -> None:
        """Make all of it the property of another user, for a server that becomes that user."""
        account = pwd.getpwnam(owner)
        for path in [self.root, *self.root.rglob("*")]:
            os.chown(path, account.pw_uid, account.pw_gid)
        self.root.chmod(0o755)

    def close(self) -> None:
        self.ports.close()
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    made = Site()
    try:
        yield made
    finally:
        made.close()

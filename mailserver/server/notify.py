"""The service manager: telling it our state (sd_notify(3)), taking its sockets (sd_listen_fds(3)).

Without a manager all of it does nothing. Not here: binding (`transport.endpoint`, which is given the
descriptors), signals.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

FIRST = 3  # SD_LISTEN_FDS_START
MAX_DESCRIPTORS = 1024


def inherited(environ: MutableMapping[str, str] = os.environ) -> dict[str, tuple[int, ...]]:
    """The sockets passed to this very process, by name and by number as text; takes the variables away.

    Several sockets may share a name. No child inherits them from us.
    """
    pid, count = _number(environ.pop("LISTEN_PID", "")), _number(environ.pop("LISTEN_FDS", ""))
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    found: dict[str, tuple[int, ...]] = {}
    if pid != os.getpid() or not count:
        return found
    for position in range(min(count, MAX_DESCRIPTORS)):
        fd = FIRST + position
        with contextlib.suppress(OSError):  # closed meanwhile: binding to it will say so
            os.set_inheritable(fd, False)
        found[str(fd)] = (fd,)
        if position < len(names) and names[position]:
            found[names[position]] = (*found.get(names[position], ()), fd)
    return found


class Notifier:
    """Tells the manager our state. Never blocks, never raises: a deaf manager must not stop the mail."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        """Takes the variables away, so that no child speaks for us."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        elif not self._address.startswith("/"):
            self._address = ""
        self.interval = _watchdog_interval(environ)

    def ready(self) -> None:
        """Serving; also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Reading the configuration again; ready() ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """No new work is taken."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for people."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """Feed the watchdog, if there is one; to be called every `interval` seconds."""
        if self.interval:
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.setblocking(False)
            sock.sendto(state.encode(), self._address)


def _watchdog_interval(environ: MutableMapping[str, str]) -> float:
    """Seconds between signs of life, 0.0 for none (sd_watchdog_enabled(3): half the time allowed)."""
    pid, allowed = environ.pop("WATCHDOG_PID", ""), _number(environ.pop("WATCHDOG_USEC", ""))
    if not allowed or (pid and _number(pid) != os.getpid()):
        return 0.0
    return allowed / 2_000_000


def _number(text: str) -> int:
    """Zero for what is no number."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0

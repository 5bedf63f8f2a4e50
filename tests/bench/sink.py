"""Where relayed mail ends: Postfix's smtp-sink, as the next hop of a target. It counts, and keeps nothing."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from types import TracebackType

import processes
from target import START_SECONDS, TargetFailed, Unavailable, is_root, wait_until

_CONNECTIONS = 256
_AS_ROOT = ["-u", "nobody"]  # it insists
_COUNT = re.compile(rb"mesg=(\d+)")
_TAIL = 200  # octets of its running count that surely hold a whole number


class Sink:
    """smtp-sink on a port of loopback, with its defaults, while a `with` block runs."""

    def __init__(self, port: int) -> None:
        """Raises Unavailable."""
        self._port = port
        self._program = shutil.which("smtp-sink", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not self._program:
            raise Unavailable("needs smtp-sink, of the package postfix")

    def __enter__(self) -> Sink:
        """Start it; raises TargetFailed."""
        self._counts = tempfile.TemporaryFile()
        address = f"127.0.0.1:{self._port}"
        command = [str(self._program), "-4", "-c", "-m", str(_CONNECTIONS), *_AS_ROOT * is_root()]
        command += [address, str(_CONNECTIONS)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._counts)
        wait_until(lambda: self._listens() or self._process.poll() is not None, START_SECONDS, every=0.05)
        if self._process.poll() is not None or not self._listens():
            self.__exit__(None, None, None)
            raise TargetFailed(f"smtp-sink does not listen on port {self._port}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._counts.close()

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    @property
    def received(self) -> int:
        """Messages so far: those whose end of data it has answered."""
        fd = self._counts.fileno()
        tail = os.pread(fd, _TAIL, max(0, os.fstat(fd).st_size - _TAIL))
        counts = _COUNT.findall(tail.rpartition(b"\r")[0])
        return int(counts[-1]) if counts else 0

    @property
    def cpu(self) -> float:
        """Seconds it has taken."""
        return processes.cpu_seconds([self._process.pid])

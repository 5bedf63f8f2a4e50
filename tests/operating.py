"""Operators of a started server, for tests: phrases and requests over its control socket."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import serving


class Refused(Exception):
    """What the server said instead of an answer."""


class Operator:
    """A connection to the control socket below `maildirs`."""

    def __init__(self, maildirs: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(serving.LIMIT)
        self.sock.connect(str(maildirs / ".run" / "control.sock"))
        self._file = self.sock.makefile("rb")

    def say(self, request: str | dict[str, Any]) -> None:
        line = request if isinstance(request, str) else json.dumps(request)
        self.sock.sendall(line.encode() + b"\n")

    def hear(self) -> dict[str, Any]:
        """One line of an answer; empty when the server has closed."""
        line = self._file.readline()
        return json.loads(line) if line else {}

    def values(self) -> Iterator[Any]:
        """The values of an answer, or of a stream."""
        while "value" in (line := self.hear()):
            yield line["value"]
        if "refused" in line:
            raise Refused(line["refused"])
        assert set(line) == {"done"}, line

    def ask(self, request: str | dict[str, Any]) -> list[Any]:
        """All that comes of a request."""
        self.say(request)
        return list(self.values())

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

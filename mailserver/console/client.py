"""The client of the control socket, for the command line: plain and synchronous.

Not here: the socket's other end (`control`), what is done where no server runs (`cli`).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mailserver.admin.refused import Refused

CONNECT = 60.0  # seconds to wait for a server that is busy
LINE = 16 << 20  # octets of a line of an answer


def path_of(maildirs: str) -> str:
    """Where the socket of the server on these mailboxes is."""
    return os.path.join(maildirs, ".run", "control.sock")


class NobodyThere(Exception):
    """No server listens at the socket."""


class Broken(Refused):
    """The server went away, or answered what this program does not understand."""


def reach(path: str) -> None:
    """Return if a server listens at `path`. Raises NobodyThere, OSError (not allowed to)."""
    _connected(path).close()


def ask(path: str, words: str, given: Mapping[str, object]) -> Iterator[Any]:
    """Carry out an operation on the server at `path`: its values, as they come, of plain kinds.

    Ends with the answer, or when the caller leaves off. Raises Refused, NobodyThere, Broken, OSError (not
    allowed to).
    """
    request = msgspec.json.encode({"do": words, "with": given}) + b"\n"
    with contextlib.closing(_connected(path)) as sock:
        try:
            sock.sendall(request)
            with sock.makefile("rb") as file:
                yield from _values(file)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            raise Broken("the server went away before it had answered") from None


def _values(file: Any) -> Iterator[Any]:
    while True:
        answer = msgspec.json.decode(file.readline(LINE), type=dict[str, Any])
        if "refused" in answer:
            raise Refused(str(answer["refused"]))
        if "value" not in answer:
            return
        yield answer["value"]


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(CONNECT)
        sock.connect(path)
        sock.settimeout(None)  # an operation may take its time; a server that dies closes the connection
        return sock
    except BaseException as error:
        sock.close()
        too_long = isinstance(error, OSError) and error.errno is None  # for a socket's path
        if too_long or isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            raise NobodyThere from None
        raise

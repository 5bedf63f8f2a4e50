"""A relay: a named way out over somebody else's mail server (smarthost). Values, and the secret's file.

Not here: which mail takes it (`delivery.relays`), speaking with it (`delivery.smarthost`).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from msgspec import Struct

from mailserver.delivery.security import Level

MAX_SECRET = 1024  # octets


class Host(NamedTuple):
    """A host name or numeric address, and a port; or the path of a UNIX socket and port 0."""

    name: str
    port: int


class Relay(Struct, frozen=True, kw_only=True):
    """One relay. `hosts` are tried in their order; `lmtp`: as another mail store. `user` empty: no login.

    `secret` is the path of a file whose first line is the password. `verify` False takes any certificate.
    `authorities` is the path of a PEM file with the authorities to trust instead of the system's.
    `connections` at once; `rate`: deliveries begun in a second (0: no limit).
    Mail takes it by its sender (`senders`: addresses or domains), by the recipient's domain (`recipients`),
    or because nothing else was chosen (`default`).
    """

    name: str
    hosts: tuple[Host, ...]
    lmtp: bool = False
    tls: Level = Level.REQUIRED
    verify: bool = True
    authorities: str = ""
    user: str = ""
    secret: str = ""
    connections: int = 5
    rate: float = 0.0
    senders: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()
    default: bool = False


class SecretError(Exception):
    """The secret cannot be used; the text says why without naming the file."""


def read_secret(path: str) -> str:
    """The password in a file that nobody else may read. May block; raises SecretError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise SecretError("the secret is no regular file")
            if status.st_mode & 0o077:
                raise SecretError("the secret file may be read by others: give it mode 600")
            line = file.read(MAX_SECRET + 1).partition(b"\n")[0].rstrip(b"\r")
        if len(line) > MAX_SECRET:
            raise SecretError(f"the secret is longer than {MAX_SECRET} octets")
        secret = line.decode()
    except OSError as error:
        raise SecretError(f"the secret file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError("the secret is not UTF-8 text") from None
    if not secret:
        raise SecretError("the secret file's first line is empty")
    return secret

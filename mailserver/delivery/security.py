"""TLS towards other hosts: when it is used, and what a certificate must prove.

Four levels: none; opportunistic (used where offered, proves nothing, clear text where it fails); required
(STARTTLS or no mail); implicit (TLS from the first octet). Not here: TLS of our own listeners
(`transport.tls`), where a domain's policy comes from (`delivery.mta_sts`, `delivery.dane`).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from mailserver.durable import files
from mailserver.pool import Pool


class Level(Enum):
    """How TLS is used with a host."""

    NONE = "none"
    OPPORTUNISTIC = "opportunistic"
    REQUIRED = "required"
    IMPLICIT = "implicit"

    @property
    def mandatory(self) -> bool:
        return self in (Level.REQUIRED, Level.IMPLICIT)


class Refused(Exception):
    """The certificate does not prove what it must; the text says why, for the operator."""


class Security(NamedTuple):
    """How to speak with one host. `name` is sent as SNI, and a verifying `context` looks for it.

    `check` judges a connection after the handshake and raises Refused (DANE).
    """

    level: Level
    context: ssl.SSLContext
    name: str
    check: Callable[[ssl.SSLObject], None] | None = None

    def in_clear(self) -> Security:
        """The same host without TLS."""
        return self._replace(level=Level.NONE)


def unverified() -> ssl.SSLContext:
    """Encrypts, and takes any certificate (RFC 7435): against those who only listen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    return context


class Authorities:
    """Whose certificates are taken: the system's authorities, or those in the PEM file `path` alone.

    Read in a thread of `pool` at the first need, and again when the file has changed.
    """

    def __init__(self, pool: Pool, path: str = "") -> None:
        self._pool = pool
        self._path = path
        self._file = path or ssl.get_default_verify_paths().cafile or ""
        self._version: tuple[int, int] | None = None
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Takes a certificate for the host's name only. Raises Busy, OSError, SSLError (no certificates)."""
        version = self._file_version()
        if self._context is None or version != self._version:
            self._context = await self._pool.run(_verified, self._path)
            self._version = version
        return self._context

    def _file_version(self) -> tuple[int, int] | None:
        """What changes with the file. In a directory, all that some systems have, OpenSSL looks each time."""
        if not self._file:
            return None
        status = os.stat(self._file)
        return status.st_ino, status.st_mtime_ns


def _verified(authorities: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks name and chain
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities:
        os.close(files.regular(authorities, os.O_RDONLY | os.O_CLOEXEC))  # OpenSSL would wait for a pipe
        context.load_verify_locations(authorities)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context

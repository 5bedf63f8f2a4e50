"""Endpoints: the text form of a place to listen at, and the sockets bound there.

    tcp:HOST:PORT  tcp:[2001:db8::1]:PORT  tcp:*:PORT     tls: likewise, with TLS from the first octet
    unix:/path  unix:/path:mode=660                        a socket file, mode 600 unless said otherwise
    fd:N  fd:NAME                                          inherited, already listening; fd+tls: likewise

`*`, or no host (`tcp:25`), is every address of the machine, IPv4 and IPv6. Not here: accepting
(`listener`), and who passed the descriptors: `bind` takes them as a mapping (`server.notify` stands above).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mailserver.durable import files

BACKLOG = 1024
FORMS = "tcp:HOST:PORT, tcp:[IPV6]:PORT, tls:HOST:PORT, unix:/PATH[:mode=660], fd:N or fd:NAME"

_MAX_PATH = 107  # octets of sun_path before its NUL
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?")
_NUMERIC = re.compile(r"[0-9.]+")
_PATH = re.compile(r"(/[^\0]*?)(?::mode=([0-7]{3,4}))?", re.DOTALL)
_DESCRIPTOR = re.compile(r"[!-9;-~]{1,255}")
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class EndpointError(ValueError):
    """The text is no endpoint, or the endpoint cannot be bound; the message is fit for an operator."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place to listen at. `str()` gives the text that `parse` reads back to an equal value."""

    kind: Literal["tcp", "unix", "fd"]
    target: str  # host name or address ('*': all), path, or descriptor number or name
    port: int = 0
    tls: bool = False  # TLS from the first octet
    mode: int = 0o600  # of the socket file

    @property
    def is_private(self) -> bool:
        """Whether what is said there crosses no network in clear: TLS, loopback, or a UNIX socket."""
        return self.tls or self.is_local

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches it; of an inherited socket nobody knows."""
        if self.kind != "tcp":
            return self.kind == "unix"
        try:
            return ipaddress.ip_address(self.target).is_loopback
        except ValueError:
            return self.target == "localhost"

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.target}" + (f":mode={self.mode:03o}" if self.mode != 0o600 else "")
        if self.kind == "fd":
            return f"{'fd+tls' if self.tls else 'fd'}:{self.target}"
        host = f"[{self.target}]" if ":" in self.target else self.target
        return f"{'tls' if self.tls else 'tcp'}:{host}:{self.port}"


def parse(text: str) -> Endpoint:
    """Read an endpoint; raises EndpointError, which names the forms there are."""
    kind, colon, rest = text.partition(":")
    if colon and kind in ("tcp", "tls"):
        host, _, port = rest.rpartition(":")
        return Endpoint("tcp", _host(text, host), _port(text, port), tls=kind == "tls")
    if colon and kind == "unix":
        return _unix(text, rest)
    if colon and kind in ("fd", "fd+tls"):
        if not _DESCRIPTOR.fullmatch(rest):
            raise EndpointError(f"{text!r}: expected a descriptor's number or name, as in fd:3 or fd:smtp")
        return Endpoint("fd", rest, tls=kind == "fd+tls")
    raise EndpointError(f"{text!r} is no endpoint, expected {FORMS}")


def _host(text: str, host: str) -> str:
    if host in ("", "*"):
        return "*"
    try:
        if host.startswith("[") and host.endswith("]"):
            return str(ipaddress.IPv6Address(host[1:-1]))
        if _NUMERIC.fullmatch(host):
            return str(ipaddress.IPv4Address(host))
    except ValueError:
        raise EndpointError(f"{text!r}: {host} is no IP address") from None
    if ":" in host:
        raise EndpointError(f"{text!r}: an IPv6 address stands in brackets, as in tcp:[::1]:25")
    if not _HOST.fullmatch(host):
        raise EndpointError(f"{text!r}: expected a host name, an address or * before the port")
    return host


def _port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise EndpointError(f"{text!r}: expected a port from 0 to 65535 at the end, as in tcp:HOST:25")
    return int(port)


def _unix(text: str, rest: str) -> Endpoint:
    match = _PATH.fullmatch(rest)
    if not match or not rest.isprintable():
        raise EndpointError(
            f"{text!r}: expected an absolute path, as in unix:/run/x.sock or unix:/x:mode=660"
        )
    path, mode = match[1], int(match[2] or "600", 8)
    if len(os.fsencode(path)) > _MAX_PATH:
        raise EndpointError(f"{text!r}: a socket's path has at most {_MAX_PATH} octets")
    if mode > 0o777:
        raise EndpointError(f"{text!r}: expected a mode from 000 to 777")
    return Endpoint("unix", path, mode=mode)


def bind(endpoint: Endpoint, inherited: Mapping[str, Sequence[int]] | None = None) -> list[socket.socket]:
    """Listening, non-blocking sockets at `endpoint`; `inherited` gives descriptors by name and number.

    Host names are resolved here, to all their addresses. May block; raises EndpointError.
    """
    try:
        if endpoint.kind == "unix":
            return [_bind_unix(endpoint)]
        if endpoint.kind == "fd":
            return _adopt(endpoint, inherited or {})
        return _bind_tcp(endpoint)
    except OSError as error:
        raise EndpointError(f"{endpoint}: {error.strerror or 'cannot be bound'}") from error


def _bind_tcp(endpoint: Endpoint) -> list[socket.socket]:
    port = endpoint.port
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, host in _addresses(endpoint):
            try:
                sockets.append(_listen(family, host, port))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                missing = error  # a machine without IPv6 may still have ::1 in its hosts file
                continue
            port = sockets[0].getsockname()[1]  # of port 0: the same one for every address
        if missing and not sockets:
            raise missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _addresses(endpoint: Endpoint) -> list[tuple[socket.AddressFamily, str]]:
    if endpoint.target == "*":
        return [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    found = socket.getaddrinfo(
        endpoint.target, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has its own socket: clients never look like ::ffff:192.0.2.1
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        return _ready(sock)
    except BaseException:
        sock.close()
        raise


def _ready(sock: socket.socket) -> socket.socket:
    if sock.family != socket.AF_UNIX:  # accepted sockets inherit it: no system call per connection
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def _bind_unix(endpoint: Endpoint) -> socket.socket:
    _clear_stale(endpoint)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(sock.fileno(), endpoint.mode)  # Linux makes the file with this mode less the umask
        sock.bind(endpoint.target)
        _set_access(endpoint)
        return _ready(sock)
    except BaseException:
        sock.close()
        raise


def _set_access(endpoint: Endpoint) -> None:
    """Exact mode, and as root the owner of the directory, without following a link put there meanwhile."""
    fd = os.open(endpoint.target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise EndpointError(f"{endpoint}: something else took the place of the socket")
        itself = f"/proc/self/fd/{fd}"
        files.inherit_owner(itself, os.path.dirname(endpoint.target))
        os.chmod(itself, endpoint.mode)
    finally:
        os.close(fd)


def _clear_stale(endpoint: Endpoint) -> None:
    """Remove the socket file of a server that is gone; one that answers, or is no socket, stays."""
    try:
        status = os.lstat(endpoint.target)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise EndpointError(f"{endpoint}: the path exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(endpoint.target) != errno.ECONNREFUSED:
            raise EndpointError(f"{endpoint}: another server listens there")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(endpoint.target)


def _adopt(endpoint: Endpoint, inherited: Mapping[str, Sequence[int]]) -> list[socket.socket]:
    name = endpoint.target
    descriptors = inherited.get(name) or ([int(name)] if name.isascii() and name.isdigit() else [])
    if not descriptors:
        known = ", ".join(inherited) or "none"
        raise EndpointError(f"{endpoint}: no descriptor of that name was passed to us (passed: {known})")
    return [_adopt_one(endpoint, fd) for fd in descriptors]


def _adopt_one(endpoint: Endpoint, fd: int) -> socket.socket:
    try:
        copy = os.dup(fd)  # the original stays, for the next time this endpoint is bound (reload)
    except (OSError, OverflowError):
        raise EndpointError(f"{endpoint}: descriptor {fd} is not open") from None
    try:
        sock = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise EndpointError(f"{endpoint}: descriptor {fd} is no socket") from None
    families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
    if sock.family not in families or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise EndpointError(f"{endpoint}: descriptor {fd} is no listening TCP or UNIX socket")
    return _ready(sock)

"""Behind a proxy that says for whom it speaks (PROXY protocol): the client's address is what counts and is told."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import serving

CLIENT = "192.0.2.33"
PROXY = 'proxy_from = ["127.0.0.1"]\n'
V1 = f"PROXY TCP4 {CLIENT} 192.0.2.1 50000 25\r\n".encode()
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21"


def v2(address: str) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    block = packed + packed + struct.pack("!HH", 50000, 25)
    return V2 + struct.pack("!BH", 0x21 if ":" in address else 0x11, len(block)) + block


class Proxied(NamedTuple):
    site: serving.Site
    server: serving.Server
    smtp: int
    smtps: int
    pop3: int


@pytest.fixture(scope="module")
def proxied() -> Iterator[Proxied]:
    with serving.site() as site:
        smtp, smtps, pop3 = (site.ports.take() for _ in range(3))
        site.configure(
            [
                ("smtp", f"tcp:127.0.0.1:{smtp}", PROXY),
                ("smtp", f"tls:127.0.0.1:{smtps}", PROXY),
                ("pop3", f"tcp:127.0.0.1:{pop3}", PROXY),
            ],
            "[limits]\nconnections_per_address = 2\n",
        )
        with site.serve() as server:
            yield Proxied(site, server, smtp, smtps, pop3)


@pytest.fixture(autouse=True)
def empty(proxied: Proxied) -> None:
    proxied.site.empty("ann")


class Client(smtplib.SMTP):
    """A client behind a proxy."""

    def __init__(self, port: int, header: bytes) -> None:
        self._header = header
        super().__init__("127.0.0.1", port, local_hostname="client.test", timeout=serving.LIMIT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock = super()._get_socket(host, port, timeout)
        sock.sendall(self._header)
        return sock


def received(site: serving.Site) -> str:
    """Where the message says that it came from."""
    (content,) = site.messages("ann")
    match = re.search(rb"^Received: from (.*)$", content, re.MULTILINE)
    assert match
    return match[1].decode()


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (V1, f"[{CLIENT}]"),
        (b"PROXY TCP6 2001:db8::33 2001:db8::1 50000 25\r\n", "[IPv6:2001:db8::33]"),
        (v2(CLIENT), f"[{CLIENT}]"),
        (v2("2001:db8::33"), "[IPv6:2001:db8::33]"),
        (b"PROXY UNKNOWN\r\n", "[127.0.0.1]"),
    ],
    ids=["v1", "v1-ipv6", "v2", "v2-ipv6", "unknown"],
)
def test_received_shows_the_client(proxied: Proxied, header: bytes, told: str) -> None:
    with Client(proxied.smtp, header) as client:
        client.sendmail("a@client.test", ["ann@example.test"], "Subject: x\n\ny\n")
    assert received(proxied.site) == f"client.test ({told})"
    assert proxied.server.event("received")["peer"] == told.strip("[]").removeprefix("IPv6:")


@pytest.mark.parametrize("header", [V1, v2(CLIENT)], ids=["v1", "v2"])
def test_tls_begins_behind_the_header(proxied: Proxied, header: bytes) -> None:
    context = ssl.create_default_context(cafile=str(proxied.site.certificate))
    with socket.create_connection(("127.0.0.1", proxied.smtps), serving.LIMIT) as sock:
        sock.sendall(header)
        with context.wrap_socket(sock, server_hostname=serving.HOST) as secure, secure.makefile("rb") as said:
            secure.sendall(b"EHLO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n")
            while not said.readline().startswith(b"354 "):
                pass
            secure.sendall(b"x\r\n.\r\n")
            assert said.readline().startswith(b"250 ")
    assert received(proxied.site) == f"client.test ([{CLIENT}])"


@pytest.mark.parametrize("version", [1, 2])
def test_swaks(run, proxied: Proxied, version: int) -> None:
    run(
        *("swaks", "--server", f"127.0.0.1:{proxied.smtp}", "--helo", "client.test", "--tls"),
        *("--from", "a@client.test", "--to", "ann@example.test", "--proxy-version", version),
        *("--proxy-family", "TCP4" if version == 1 else "AF_INET"),
        *(["--proxy-command", "PROXY", "--proxy-protocol", "STREAM"] if version == 2 else []),
        *("--proxy-source", CLIENT, "--proxy-source-port", 50000),
        *("--proxy-dest", "192.0.2.1", "--proxy-dest-port", 25),
    )
    assert received(proxied.site) == f"client.test ([{CLIENT}])"


def test_a_client_who_says_nothing_of_the_kind_is_refused(proxied: Proxied) -> None:
    with socket.create_connection(("127.0.0.1", proxied.smtp), serving.LIMIT) as sock:
        sock.sendall(b"EHLO client.test\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""
    proxied.server.event("connection-failed")


def test_a_client_is_not_local_because_its_proxy_is(proxied: Proxied) -> None:
    """A password in clear text would have crossed a network."""
    with socket.create_connection(("127.0.0.1", proxied.pop3), serving.LIMIT) as sock:
        sock.sendall(V1 + b"USER ann\r\n")
        with sock.makefile("rb") as said:
            assert said.readline().startswith(b"+OK")
            assert said.readline() == b"-ERR [AUTH] No login without TLS\r\n"


def test_clients_are_counted_and_not_their_proxy(proxied: Proxied) -> None:
    sockets = [socket.create_connection(("127.0.0.1", proxied.smtp), serving.LIMIT) for _ in range(4)]
    try:
        for number, sock in enumerate(sockets[:3]):
            sock.sendall(f"PROXY TCP4 192.0.2.{10 + number} 192.0.2.1 50000 25\r\n".encode())
            assert sock.recv(4) == b"220 "
        sockets[3].sendall(b"PROXY TCP4 192.0.2.10 192.0.2.1 50001 25\r\n")
        assert sockets[3].recv(4) == b"220 "
        with socket.create_connection(("127.0.0.1", proxied.smtp), serving.LIMIT) as third:
            third.sendall(b"PROXY TCP4 192.0.2.10 192.0.2.1 50002 25\r\n")
            assert third.recv(4) == b"421 "
    finally:
        for sock in sockets:
            sock.close()

"""Writing past the transport: all octets, in order, and never to somebody else."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from mailserver.server.loop import new_loop
from mailserver.transport import outlet

LIMIT = 10.0


class Pair:
    """A transport on one end of a pair of sockets, and the other end."""

    async def __aenter__(self) -> Pair:
        near, self.far = socket.socketpair()
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.far.setblocking(False)
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
        self.write = outlet.of(self.transport, near.fileno())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.transport.abort()
        self.far.close()
        await asyncio.sleep(0)

    async def read(self, size: int) -> bytes:
        found = b""
        async with asyncio.timeout(LIMIT):
            while len(found) < size:
                found += await asyncio.get_running_loop().sock_recv(self.far, 65536)
        return found


def run(main: object) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)  # type: ignore[arg-type]


def test_what_the_socket_does_not_take_follows_in_order() -> None:
    async def main() -> None:
        async with Pair() as pair:
            blocks = [bytes([number]) * 30_000 for number in range(40)]
            for block in blocks:
                pair.write(block)
            assert pair.transport.get_write_buffer_size(), "the socket took all: nothing is tested"
            assert await pair.read(40 * 30_000) == b"".join(blocks)

    run(main())


def test_a_transport_that_closes_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor may be another connection's by then."""

    async def main() -> None:
        async with Pair() as pair:
            pair.transport.abort()
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", lambda fd, data: pytest.fail("written past the transport"))
                pair.write(b"x")

    run(main())


def test_a_reader_that_has_gone_is_the_transports_trouble() -> None:
    async def main() -> None:
        async with Pair() as pair:
            pair.far.close()
            pair.write(b"x")
            async with asyncio.timeout(LIMIT):
                while not pair.transport.is_closing():
                    await asyncio.sleep(0)

    run(main())

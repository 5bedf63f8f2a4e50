"""Listeners: who gets in, who is believed to be whom, and that every place is given back."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import resource
import socket
import ssl

import pytest

from mailserver import maillog
from mailserver.transport.endpoint import parse
from mailserver.transport.gate import Gate, Limits, source_of
from mailserver.transport.listener import Listener, Peer

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a 21 21 0024".replace(" ", "")) + (
    ipaddress.ip_address("2001:db8::7").packed + bytes(16) + b"\x9c\x40\x00\x19"
)
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a20000000")
UNKNOWN = b"PROXY UNKNOWN\r\n"


class Telling(asyncio.Protocol):
    """Tells the client who it is, then echoes; closes at `bye`."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer

    def connection_made(self, transport):
        self.transport = transport
        peer = self.peer
        transport.write(f"{peer.address} {peer.port} {peer.uid} {peer.secure} {peer.is_local}\n".encode())

    def data_received(self, data):
        self.transport.write(data)
        if data == b"bye":
            self.transport.close()


def limits(connections=100, per_address=100, handshake_timeout=5.0):
    return Limits(connections, per_address, handshake_timeout)


async def told(reader):
    return (await reader.readline()).decode().split()


async def closed(writer):
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


def test_peer_and_count(run, listening, until):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            port = writer.get_extra_info("sockname")[1]
            assert await told(reader) == ["127.0.0.1", str(port), "None", "False", "True"]
            assert listener.connections == listener.gate.connections == 1
            writer.write(b"bye")
            assert await reader.read() == b"bye"
            await until(lambda: listener.connections == listener.gate.connections == 0)
            await closed(writer)

    run(main())


class Direct(Telling):
    """Echoes past its transport."""

    def data_received(self, data):
        os.write(self.peer.descriptor, data)


@pytest.mark.parametrize("header", [b"", V1, V2])
def test_a_session_knows_its_descriptor(run, listening, header):
    async def main():
        with listening("tcp:127.0.0.1:0", Direct, proxy_from=LOOPBACK if header else ()) as listener:
            connections = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(3)]
            for number, (reader, writer) in enumerate(connections):
                writer.write(header)
                await told(reader)
                writer.write(b"%d" % number)
            for number, (reader, writer) in enumerate(connections):
                assert await reader.readexactly(1) == b"%d" % number
                await closed(writer)

    run(main())


@pytest.mark.parametrize("end", ["close", "reset", "abort"])
def test_places_are_given_back(run, listening, until, end):
    made = []

    def factory(peer):
        made.append(Telling(peer))
        return made[-1]

    async def main():
        with listening("tcp:127.0.0.1:0", factory) as listener:
            clients = [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(20)]
            for reader, _ in clients:
                await reader.readline()
            assert listener.connections == listener.gate.connections == 20
            for (_, writer), protocol in zip(clients, made, strict=True):
                if end == "reset":
                    writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                    )
                if end == "abort":
                    protocol.transport.abort()
                await closed(writer)
            await until(lambda: listener.connections == listener.gate.connections == 0)
            assert not any(listener.gate._counts)

    run(main())


def test_limit_in_all_is_shared_and_told(run, listening, until, events):
    async def main():
        gate = Gate(limits(connections=2))
        settings = {"gate": gate, "refusal": b"421 4.3.2 Too many connections\r\n"}
        with (
            listening("tcp:127.0.0.1:0", Telling, **settings) as one,
            listening("tcp:127.0.0.1:0", Telling, **settings) as two,
        ):
            reader_1, writer_1 = await asyncio.open_connection("127.0.0.1", one.port)
            reader_2, writer_2 = await asyncio.open_connection("127.0.0.1", two.port)
            await told(reader_1)
            await told(reader_2)
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            assert await reader.read() == b"421 4.3.2 Too many connections\r\n"
            await closed(writer)
            assert ("connection-refused", "connections") in [(n, f.get("limit")) for n, f in events]
            await closed(writer_1)
            await until(lambda: gate.connections == 1)
            reader, writer = await asyncio.open_connection("127.0.0.1", two.port)
            assert (await told(reader))[0] == "127.0.0.1"
            await closed(writer)
            await closed(writer_2)

    run(main())


def test_limit_per_address(run, listening):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling, limits=limits(per_address=1), refusal=b"no") as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            await told(reader)
            refused, refused_writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await refused.read() == b"no"
            other, other_writer = await asyncio.open_connection(
                "127.0.0.1", listener.port, local_addr=("127.0.0.2", 0)
            )
            assert (await told(other))[0] == "127.0.0.2"
            for each in (writer, refused_writer, other_writer):
                await closed(each)

    run(main())


def test_ipv6_counts_by_network():
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:1:2:3")
    assert source_of("2001:db8::1") != source_of("2001:db8:0:1::1")
    gate = Gate(limits(per_address=2))
    assert [gate.enter(source_of(f"2001:db8::{n}")) for n in range(3)] == [None, None, "per-address"]
    gate.leave(source_of("2001:db8::9"))
    assert gate.enter(source_of("2001:db8::4")) is None
    gate.limits = limits(per_address=0)
    assert gate.enter(source_of("2001:db8::5")) is None


def test_unix_peer(run, listening, tmp_path):
    async def main():
        path = str(tmp_path / "sock")
        with listening(f"unix:{path}", Telling, limits=limits(per_address=1)):
            clients = [await asyncio.open_unix_connection(path) for _ in range(3)]  # counted in all only
            for reader, _ in clients:
                assert await told(reader) == ["unix", "0", str(os.getuid()), "False", "True"]
            for _, writer in clients:
                await closed(writer)
        assert not (tmp_path / "sock").exists()

    run(main())


def test_close_leaves_a_successors_socket_file(run, tmp_path):
    path = tmp_path / "sock"

    async def main():
        listener = Listener(parse(f"unix:{path}"), Telling, gate=Gate(limits()))
        listener.open()
        path.unlink()
        successor = Listener(parse(f"unix:{path}"), Telling, gate=Gate(limits()))
        successor.open()
        listener.close()
        assert path.exists()
        successor.close()
        assert not path.exists()

    run(main())


def test_inherited_dual_stack_socket_shows_ipv4_clients(run, listening):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no dual-stack sockets on this machine")

    async def main():
        with (
            socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as inherited,
            listening(f"fd:{inherited.fileno()}", Telling) as listener,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert (await told(reader))[0] == "127.0.0.1"
            await closed(writer)

    run(main())


def test_pause_and_resume(run, listening):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling) as listener:
            listener.pause()
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.05)
            listener.resume()
            assert await told(reader)
            await closed(writer)

    run(main())


def test_who_has_other_work_lets_others_go_first(run, listening):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling) as busy:
            busy.defers = lambda: True
            other = Listener(busy.endpoint, Telling, gate=busy.gate)
            other.take_over(busy)
            other.start()
            writers = []
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", busy.port)
                await told(reader)
                writers.append(writer)
            assert (busy.connections, other.connections) == (0, 3)
            other.leave()
            reader, writer = await asyncio.open_connection("127.0.0.1", busy.port)
            assert await told(reader), "nobody else wanted it"
            assert (busy.connections, other.connections) == (1, 3)
            for each in (writer, *writers):
                await closed(each)

    run(main())


def test_close_ends_listening_but_not_sessions(run, listening):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            await told(reader)
            listener.close()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
            await closed(writer)

    run(main())


def test_a_factory_that_fails(run, listening, until, events):
    def factory(peer):
        raise RuntimeError("secret")

    async def main():
        with listening("tcp:127.0.0.1:0", factory) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await reader.read() == b""
            await closed(writer)
            await until(lambda: listener.gate.connections == 0)
        assert [fields["reason"] for name, fields in events if name == "connection-failed"] == [
            "RuntimeError"
        ]
        assert "secret" not in str(events)

    run(main())


def test_a_listener_closed_before_the_session_begins(run, listening, until, events):
    async def main():
        def factory(peer):
            asyncio.get_running_loop().call_soon(listener.close)
            return Telling(peer)

        with listening("tcp:127.0.0.1:0", factory) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            await closed(writer)
            await until(lambda: listener.connections == listener.gate.connections == 0)
            await listener.settle()
        assert not events

    run(main())


# ---- TLS


def test_tls(run, listening, certificates, client_tls):
    async def main():
        with listening("tls:127.0.0.1:0", Telling, certificates=certificates) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=client_tls)
            assert (await told(reader))[3] == "True"
            await closed(writer)

    run(main())


@pytest.mark.parametrize("opening", [b"EHLO clear.example\r\n", b"\x16\x03\x01\x00\x05hello", b""])
def test_failed_handshakes_give_their_place_back(run, listening, until, certificates, events, opening):
    async def main():
        brief = limits(handshake_timeout=0.2)
        settings = {"limits": brief, "certificates": certificates, "refusal": b"421 in clear\r\n"}
        with listening("tls:127.0.0.1:0", Telling, **settings) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(opening)
            answer = await reader.read()
            assert b"421" not in answer and b"127.0.0.1" not in answer
            await until(lambda: listener.gate.connections == 0)
            await closed(writer)
        assert [name for name, _ in events] == ["connection-failed"]

    run(main())


def test_tls_over_the_limit_is_closed_without_a_word(run, listening, certificates):
    async def main():
        settings = {"limits": limits(connections=0), "certificates": certificates, "refusal": b"421 no\r\n"}
        with listening("tls:127.0.0.1:0", Telling, **settings) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await reader.read() == b""
            await closed(writer)

    run(main())


def test_tls_needs_certificates():
    with pytest.raises(ValueError, match="certificates"):
        Listener(parse("tls:127.0.0.1:0"), Telling, gate=Gate(limits()))


# ---- PROXY


@pytest.mark.parametrize(
    ("header", "address"),
    [(V1, "192.0.2.7"), (V2, "2001:db8::7"), (LOCAL, "127.0.0.1"), (UNKNOWN, "127.0.0.1")],
)
@pytest.mark.parametrize("joined", [True, False])
def test_proxy_header_from_a_proxy(run, listening, header, address, joined):
    async def main():
        with listening("tcp:127.0.0.1:0", Telling, proxy_from=LOOPBACK) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            if joined:
                writer.write(header + b"bye")
            else:
                for octet in header:
                    writer.write(bytes([octet]))
                    await asyncio.sleep(0)
                writer.write(b"bye")
            assert (await told(reader))[0] == address
            assert await reader.read() == b"bye"
            await closed(writer)

    run(main())


@pytest.mark.parametrize("header", [V1, V2])
def test_client_hello_stays_behind_the_header(run, listening, certificates, client_tls, header):
    """Header octet by octet, and its last one in one segment with the ClientHello."""

    async def main():
        settings = {"certificates": certificates, "proxy_from": LOOPBACK}
        with listening("tls:127.0.0.1:0", Telling, **settings) as listener:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = client_tls.wrap_bio(incoming, outgoing, server_hostname="mx.example.test")
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            for octet in header[:-1]:
                writer.write(bytes([octet]))
                await asyncio.sleep(0)
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            writer.write(header[-1:] + outgoing.read())
            text = b""
            while not text.endswith(b"\n"):
                incoming.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.do_handshake()
                    text += client.read(1000)
                writer.write(outgoing.read())
            assert text.split()[0] in (b"192.0.2.7", b"2001:db8::7")
            assert text.split()[3:] == [b"True", b"False"]
            await closed(writer)

    run(main())


def test_nobody_else_is_believed(run, listening):
    async def main():
        elsewhere = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))
        with listening("tcp:127.0.0.1:0", Telling, proxy_from=elsewhere) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(V1)
            assert (await told(reader))[0] == "127.0.0.1"
            assert await reader.readexactly(len(V1)) == V1  # it is what the client said, no more
            await closed(writer)

    run(main())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"EHLO x\r\n", "ProxyError"),
        (b"", "TimeoutError"),
        (V1[:-1], "TimeoutError"),
        (None, "ConnectionResetError"),
    ],
)
def test_a_proxy_must_say_it_in_time(run, listening, until, events, said, reason):
    async def main():
        settings = {"limits": limits(handshake_timeout=0.1), "proxy_from": LOOPBACK}
        with listening("tcp:127.0.0.1:0", Telling, **settings) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            if said is None:
                writer.write_eof()
            else:
                writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            await until(lambda: listener.gate.connections == 0)
            await closed(writer)
        assert [(name, fields["reason"]) for name, fields in events] == [("connection-failed", reason)]

    run(main())


def test_limits_count_the_client_and_not_its_proxy(run, listening, until):
    def header(host):
        return f"PROXY TCP4 {host} 198.51.100.1 40000 25\r\n".encode()

    async def main():
        settings = {"limits": limits(per_address=1), "proxy_from": LOOPBACK, "refusal": b"no"}
        with listening("tcp:127.0.0.1:0", Telling, **settings) as listener:
            answers, writers = [], []
            for host in ("192.0.2.1", "192.0.2.2", "192.0.2.1"):
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(header(host))
                answers.append(await reader.read(2))
                writers.append(writer)
            assert answers == [b"19", b"19", b"no"]
            assert listener.connections == 2
            for writer in writers:
                await closed(writer)
            await until(lambda: listener.gate.connections == listener.connections == 0)

    run(main())


# ---- running out


@contextlib.contextmanager
def no_descriptors():
    """No descriptor can be opened inside; the ones that are open go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors(run, listening, until, events, monkeypatch):
    tries = []
    monkeypatch.setattr(maillog, "count", lambda name, n=1: tries.append(name))

    async def main():
        loop = asyncio.get_running_loop()
        with listening("tcp:127.0.0.1:0", Telling) as listener, socket.socket() as client:
            client.setblocking(False)
            with no_descriptors():
                await loop.sock_connect(client, ("127.0.0.1", listener.port))  # the kernel answers for us
                await until(lambda: len(tries) == 2)
            assert tries == ["connection.accept-failed"] * 2  # and not thousands
            assert (await asyncio.wait_for(loop.sock_recv(client, 100), 1.0)).startswith(b"127.0.0.1")
        assert [(name, fields["reason"]) for name, fields in events] == [("accept-failed", "EMFILE")]

    run(main())

"""The driver: order, bounds and time-outs, TLS in the middle, and one end for every session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading

import pytest

from mailserver.pool import Busy, Pool
from mailserver.transport.driver import TURN, Answer, Connections, Driver, Then, Timeouts
from mailserver.transport.listener import Peer

PATIENT = Timeouts(idle=10, total=20, write=10, handshake=5)
BLOCK = bytes(64 * 1024)


class Session:
    """Answers what the line says; `log` is what became of it."""

    def __init__(self, log, hold):
        self.log, self.hold = log, hold
        self.streams = []

    def greeting(self):
        return b"+OK hello\r\n"

    async def receive(self, line):
        self.log.append(line)
        verb, _, rest = line.partition(b" ")
        if verb == b"QUIT":
            return Answer(b"+OK bye\r\n", Then.CLOSE)
        if verb == b"STLS":
            return Answer(b"+OK begin\r\n", Then.START_TLS)
        if verb == b"HOLD":
            await self.hold.wait()
        if verb == b"BOOM":
            raise RuntimeError("secret")
        if verb == b"BUSY":
            raise Busy("secret")
        if verb == b"BIG":
            return Answer(b"+OK\r\n" + bytes(int(rest)))
        if verb in STREAMS:
            self.streams.append(Stream(STREAMS[verb]()))
            return Answer(b"+OK stream\r\n", stream=self.streams[-1])
        return Answer(b"+OK " + line + b"\r\n")

    def too_long(self):
        return Answer(b"-ERR too long\r\n")

    def busy(self):
        return Answer(b"-ERR busy\r\n")

    def failure(self):
        return Answer(b"-ERR failure\r\n")

    def timed_out(self):
        return b"-ERR closing\r\n"

    def tls_started(self):
        self.log.append("TLS")

    def lost(self):
        assert all(stream.closed == 1 for stream in self.streams)
        self.log.append("lost")


class Stream:
    def __init__(self, blocks):
        self.blocks, self.closed = blocks, 0
        self.threads = set()

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.current_thread().name)
        return next(self.blocks)

    def close(self):
        self.closed += 1


def failing(after):
    for _ in range(after):
        yield BLOCK
    raise OSError("secret")


STREAMS = {
    b"SMALL": lambda: iter([b"a\r\n", b".\r\n"]),
    b"LARGE": lambda: iter([BLOCK] * 64),
    b"ENDLESS": lambda: iter(lambda: BLOCK, b""),
    b"EMPTY": lambda: iter([]),
    b"BAD": lambda: failing(0),
    b"TORN": lambda: failing(3),
}


def reset(writer):
    """Leave with an RST: a FIN might be the half-close of a client that waits for its answers."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Server:
    """A listener whose connections are driven; what happened to each in `logs`."""

    def __init__(self, listening, timeouts, certificates, endpoint, pool):
        self.logs, self.drivers, self.sessions = [], [], []
        self.hold, self.connections = asyncio.Event(), Connections()
        self.pool = pool
        self.context = certificates and (lambda: certificates.context)

        def factory(peer):
            self.logs.append([])
            self.sessions.append(Session(self.logs[-1], self.hold))
            self.drivers.append(
                Driver(
                    self.sessions[-1],
                    peer,
                    pool=pool,
                    timeouts=timeouts,
                    line_limit=100,
                    tls=self.context,
                    connections=self.connections,
                )
            )
            return self.drivers[-1]

        self.listening = listening(endpoint, factory, certificates=certificates)


class Memory(asyncio.Transport):
    """A transport whose client takes an octet each time somebody looks, and never closes."""

    def __init__(self, buffered):
        super().__init__()
        self.buffered, self.closing, self.aborted = buffered, False, False
        self.written = []

    def write(self, data):
        self.written.append(data)

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        self.buffered = max(0, self.buffered - 1)
        return self.buffered

    def close(self):
        self.closing = True

    def is_closing(self):
        return self.closing

    def abort(self):
        self.closing = self.aborted = True


class AtOnce(Session):
    """Answers at once all lines but WAIT."""

    def receive(self, line):
        if line.startswith(b"WAIT"):
            return super().receive(line)
        if line == b"BOOM":
            raise RuntimeError("secret")
        self.log.append(line)
        return Answer(b"+OK " + line + b"\r\n")


def driven(transport, log, timeouts, session=Session):
    pool = Pool("test", 1, 1)
    driver = Driver(
        session(log, asyncio.Event()),
        Peer("192.0.2.1", 40000, None, False),
        pool=pool,
        timeouts=timeouts,
        line_limit=100,
        tls=None,
        connections=Connections(),
    )
    driver.connection_made(transport)
    return driver, pool


@pytest.fixture
def serve(run, listening, until):
    """Run `conversation(server, reader, writer)`; then the session must have ended once, with all of it."""

    def serve(conversation, *, timeouts=PATIENT, certificates=None, endpoint="tcp:127.0.0.1:0", **client):
        async def main():
            pool = Pool("test", 1, 1)
            server = Server(listening, timeouts, certificates, endpoint, pool)
            with server.listening as listener:
                server.gate = listener.gate
                sock = socket.socket()
                if "buffer" in client:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, client["buffer"])
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", listener.port))
                reader, writer = await asyncio.open_connection(
                    sock=sock, limit=2**26 if "buffer" not in client else 1024, ssl=client.get("ssl"),
                    server_hostname="mx.example.test" if client.get("ssl") else None,
                )  # fmt: skip
                try:
                    assert await reader.readline() == b"+OK hello\r\n"
                    result = await conversation(server, reader, writer)
                finally:
                    writer.close()
                    with contextlib.suppress(OSError, ssl.SSLError):
                        await writer.wait_closed()
                server.hold.set()
                await until(lambda: len(server.connections) == 0 and server.gate.connections == 0)
                for log in server.logs:
                    assert log.count("lost") == 1 and log[-1] == "lost"
            pool.close()
            return result

        return run(main())

    return serve


def test_lines_in_order_however_they_are_cut(serve):
    text = b"A 1\r\nB\r\n\r\nC 3\nSMALL\r\nD\r\n"
    answers = b"+OK A 1\r\n+OK B\r\n+OK \r\n+OK C 3\r\n+OK stream\r\na\r\n.\r\n+OK D\r\n"

    async def conversation(server, reader, writer):
        writer.write(text)
        assert await reader.readexactly(len(answers)) == answers
        for octet in text:
            writer.write(bytes([octet]))
            await asyncio.sleep(0)
        assert await reader.readexactly(len(answers)) == answers
        assert server.logs[0][:4] == [b"A 1", b"B", b"", b"C 3"]

    serve(conversation)


def test_pipelined_answers_leave_together(serve):
    async def conversation(server, reader, writer):
        writer.write(b"A\r\n" * 50)
        await reader.readexactly(7 * 50)

    writes = []
    original = Driver._use

    def use(self, transport):
        original(self, transport)

        class Counting:
            def __getattr__(self, name):
                return getattr(transport, name)

            def write(self, data):
                writes.append(len(data))
                transport.write(data)

        self._transport = Counting()
        straight = self._write

        def counted(data):
            writes.append(len(data))
            straight(data)

        self._write = counted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "_use", use)
        serve(conversation)
    assert sum(writes) == 11 + 350 and len(writes) <= 4


def test_a_line_waits_for_the_one_before(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"HOLD\r\nNEXT\r\n")
        await until(lambda: server.logs[0] == [b"HOLD"])
        writer.write(b"LAST\r\n")
        await asyncio.sleep(0.02)
        assert server.logs[0] == [b"HOLD"]
        server.hold.set()
        assert await reader.readexactly(30) == b"+OK HOLD\r\n+OK NEXT\r\n+OK LAST\r\n"

    serve(conversation)


def test_quit_ends_the_session_and_the_input(serve):
    async def conversation(server, reader, writer):
        writer.write(b"QUIT\r\nA\r\nB\r\n")
        assert await reader.read() == b"+OK bye\r\n"
        assert server.logs[0][0] == b"QUIT" and b"A" not in server.logs[0]

    serve(conversation)


def test_half_closed_client_hears_its_answers(serve):
    async def conversation(server, reader, writer):
        writer.write(b"A\r\nHOLD\r\nSMALL\r\nincomplete")
        writer.write_eof()
        await asyncio.sleep(0.02)
        server.hold.set()
        assert await reader.read() == b"+OK A\r\n+OK HOLD\r\n+OK stream\r\na\r\n.\r\n"

    serve(conversation)


def test_long_lines(serve):
    async def conversation(server, reader, writer):
        writer.write(b"x" * 98 + b"\r\n" + b"y" * 99 + b"\r\nA\r\n" + b"z" * 500_000)
        assert await reader.readline() == b"+OK " + b"x" * 98 + b"\r\n"
        assert await reader.readline() == b"-ERR too long\r\n"
        assert await reader.readline() == b"+OK A\r\n"
        assert await reader.readline() == b"-ERR too long\r\n"  # once, at its 100th octet
        writer.write(b"z" * 500_000 + b"\r\nB\r\n")
        assert await reader.readline() == b"+OK B\r\n"
        assert server.drivers[0]._lines.left == 0

    serve(conversation)


def test_input_is_bounded_while_a_line_is_worked_on(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"HOLD\r\n")
        line, sent = b"A" * 98 + b"\r\n", 0
        with contextlib.suppress(TimeoutError):
            while sent < 500_000:
                writer.write(line * 1000)
                sent += 1000
                await asyncio.wait_for(writer.drain(), 0.1)
        assert server.drivers[0]._lines.left <= 16 * 1024 + 256 * 1024
        assert sent < 500_000
        server.hold.set()
        await reader.readexactly(10)
        answers = await reader.readexactly(104 * sent)
        assert answers.count(b"+OK " + line) == sent

    serve(conversation)


# ---- trouble


def test_unforeseen_exception(serve, events):
    async def conversation(server, reader, writer):
        writer.write(b"A\r\nBOOM\r\nB\r\n")
        assert await reader.read() == b"+OK A\r\n-ERR failure\r\n"

    serve(conversation)
    ((name, fields),) = events
    assert name == "session-failed" and fields["error"] == "RuntimeError"
    assert "secret" not in str(events)


def test_full_pool(serve):
    async def conversation(server, reader, writer):
        writer.write(b"BUSY\r\n")
        assert await reader.readline() == b"-ERR busy\r\n"
        done = threading.Event()
        jobs = [asyncio.ensure_future(server.pool.run(done.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        writer.write(b"SMALL\r\nA\r\n")
        assert await reader.readline() == b"-ERR busy\r\n"
        assert await reader.readline() == b"+OK A\r\n"
        done.set()
        await asyncio.gather(*jobs)

    serve(conversation)


# ---- streams


def test_streams_come_from_threads(serve):
    async def conversation(server, reader, writer):
        writer.write(b"LARGE\r\nEMPTY\r\nA\r\n")
        expected = b"+OK stream\r\n" + BLOCK * 64 + b"+OK stream\r\n+OK A\r\n"
        assert await reader.readexactly(len(expected)) == expected
        assert all("test" in name for stream in server.sessions[0].streams for name in stream.threads)

    serve(conversation)


def test_a_stream_that_fails_at_once_is_answered(serve, events):
    async def conversation(server, reader, writer):
        writer.write(b"BAD\r\n")
        assert await reader.read() == b"-ERR failure\r\n"

    serve(conversation)
    assert [name for name, _ in events] == ["session-failed"]


def test_a_stream_that_fails_later_is_cut(serve, events):
    async def conversation(server, reader, writer):
        writer.write(b"TORN\r\nA\r\n")
        with contextlib.suppress(ConnectionResetError):
            answer = await reader.read()
            assert b"ERR" not in answer and b"+OK A" not in answer
        assert b"A" not in server.logs[0]

    serve(conversation)
    assert [name for name, _ in events] == ["session-failed"]


def test_a_full_pool_holds_a_stream_up_and_no_more(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"LARGE\r\n")
        first = await reader.readexactly(12 + len(BLOCK))
        run, tries = server.pool.run, []

        async def busy(*args):
            tries.append(args)
            if len(tries) < 3:
                raise Busy("full")
            return await run(*args)

        server.pool.run = busy
        rest = await reader.readexactly(len(BLOCK) * 63)
        assert len(tries) > 3 and not (first[12:] + rest).strip(b"\0")

    serve(conversation, buffer=4096)


def test_a_reader_that_stalls_is_cut(serve, until, events):
    async def conversation(server, reader, writer):
        writer.write(b"ENDLESS\r\n")
        await until(lambda: "lost" in server.logs[0])

    serve(conversation, timeouts=Timeouts(idle=10, total=20, write=0.2), buffer=4096)
    assert [name for name, _ in events] == ["client-stalled"]


def test_a_reader_that_stalls_in_tls_is_cut(serve, until, certificates, client_tls, events):
    async def conversation(server, reader, writer):
        writer.write(b"ENDLESS\r\n")
        await until(lambda: "lost" in server.logs[0])

    serve(
        conversation,
        timeouts=Timeouts(idle=10, total=20, write=0.2),
        certificates=certificates,
        endpoint="tls:127.0.0.1:0",
        ssl=client_tls,
        buffer=4096,
    )
    assert [name for name, _ in events] == ["client-stalled"]


def test_answers_nobody_reads_are_not_piled_up(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"BIG 1000000\r\n" * 100)
        await until(lambda: "lost" in server.logs[0])
        assert len(server.logs[0]) < 20  # lines are not worked on ahead of the reader

    serve(conversation, timeouts=Timeouts(idle=10, total=20, write=0.2), buffer=4096)


def test_what_is_known_at_once_is_sent_at_once_and_in_order(run, until):
    async def main():
        transport, log = Memory(buffered=0), []
        driver, pool = driven(transport, log, PATIENT, AtOnce)
        driver.data_received(b"A\r\nB\r\nincom")
        assert transport.written[1:] == [b"+OK A\r\n+OK B\r\n"]
        driver.data_received(b"plete\r\nWAIT\r\nC\r\n")
        driver.data_received(b"D\r\n")
        assert log == [b"A", b"B", b"incomplete"]
        await until(lambda: len(log) == 6)
        assert transport.written[2:] == [b"+OK incomplete\r\n+OK WAIT\r\n+OK C\r\n+OK D\r\n"]
        driver.data_received(b"BOOM\r\nE\r\n")
        await until(lambda: transport.closing)
        assert transport.written[3:] == [b"-ERR failure\r\n"]
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())


@pytest.mark.parametrize("line", [b"A", b"WAIT", b"A" * 90])
def test_a_flood_leaves_others_their_turn(run, until, line):
    async def main():
        transport, log = Memory(buffered=0), []
        driver, pool = driven(transport, log, PATIENT, AtOnce)
        driver.data_received((line + b"\r\n") * 1000)
        most = len(log)
        while len(log) < 1000:
            before = len(log)
            await asyncio.sleep(0)
            most = max(most, len(log) - before)
        assert most <= TURN
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())


def test_a_slow_reader_is_not_cut_while_it_reads(run, until, events):
    async def main():
        transport, log = Memory(buffered=10), []
        driver, pool = driven(transport, log, Timeouts(idle=10, total=20, write=0.02))
        driver.pause_writing()
        driver.data_received(b"A\r\nB\r\n")
        await until(lambda: transport.aborted)
        assert transport.buffered == 0  # it was asked again and again, and cut when nothing moved
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())
    assert [name for name, _ in events] == ["client-stalled"]


def test_a_reader_that_stalls_at_the_end_is_cut(run, until):
    async def main():
        transport, log = Memory(buffered=2), []
        driver, pool = driven(transport, log, Timeouts(idle=10, total=20, write=0.02))
        driver.data_received(b"QUIT\r\n")
        await until(lambda: transport.closing)
        assert not transport.aborted
        await until(lambda: transport.aborted)
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())


class Leaving(AtOnce):
    """Closes after each answer."""

    def receive(self, line):
        return super().receive(line)._replace(then=Then.CLOSE)


def test_a_last_answer_and_the_end_wait_for_nothing(run):
    async def main():
        transport, log = Memory(buffered=0), []
        driver, pool = driven(transport, log, Timeouts(idle=10, total=20), Leaving)
        driver.data_received(b"QUIT\r\nNOOP\r\n")
        assert transport.written[-1] == b"+OK QUIT\r\n" and transport.closing
        driver.connection_lost(None)
        assert log == [b"QUIT", "lost"]
        pool.close()

    run(main())


def test_the_last_answer_waits_for_a_reader_that_is_behind(run, until):
    async def main():
        transport, log = Memory(buffered=100), []
        driver, pool = driven(transport, log, Timeouts(idle=10, total=20), Leaving)
        driver.pause_writing()
        driver.data_received(b"QUIT\r\n")
        await asyncio.sleep(0)
        assert transport.written[-1] == b"+OK QUIT\r\n" and not transport.closing
        driver.resume_writing()
        await until(lambda: transport.closing)
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())


def test_a_stream_is_one_piece_ahead_of_its_reader_and_no_more(run, until):
    async def main():
        transport, log = Memory(buffered=0), []
        driver, pool = driven(transport, log, Timeouts(idle=10, total=20, write=0.02))
        driver.pause_writing()
        driver.data_received(b"LARGE\r\n")
        await until(lambda: transport.aborted)
        sent = len(b"".join(transport.written[1:])) // len(BLOCK)
        left = len(list(driver._session.streams[0].blocks))
        assert sent < 64 - left == 2 * sent
        driver.connection_lost(None)
        await until(lambda: log[-1] == "lost")
        pool.close()

    run(main())


def test_a_client_that_leaves_a_stream(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"ENDLESS\r\n")
        await reader.readexactly(100)
        writer.transport.abort()
        await until(lambda: "lost" in server.logs[0])
        assert server.sessions[0].streams[0].closed == 1

    serve(conversation)


def test_lost_waits_for_the_line_under_way(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"HOLD\r\nA\r\n")
        await until(lambda: server.logs[0] == [b"HOLD"])
        reset(writer)
        await until(lambda: server.gate.connections == 0)
        assert server.logs[0] == [b"HOLD"] and len(server.connections) == 1
        server.hold.set()
        await until(lambda: server.logs[0] == [b"HOLD", "lost"])

    serve(conversation)


# ---- time


def test_idle(serve, events):
    async def conversation(server, reader, writer):
        writer.write(b"A\r\n")
        assert await reader.read() == b"+OK A\r\n-ERR closing\r\n"

    serve(conversation, timeouts=Timeouts(idle=0.1, total=10))
    assert [name for name, _ in events] == ["session-timed-out"]


def test_single_octets_are_no_sign_of_life(serve, events):
    async def conversation(server, reader, writer):
        async def drip():
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.01)

        dripping = asyncio.ensure_future(drip())
        with contextlib.suppress(ConnectionResetError):  # what dripped after the end may come back as RST
            assert await reader.read() == b"-ERR closing\r\n"
        dripping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await dripping

    serve(conversation, timeouts=Timeouts(idle=0.15, total=10))
    assert [name for name, _ in events] == ["session-timed-out"]


def test_lines_are_signs_of_life_until_the_total_time(serve):
    """A busy machine may keep the loop for longer than the idle time: then the session may end earlier."""
    timeouts = Timeouts(idle=0.3, total=1.5)

    async def conversation(server, reader, writer):
        clock = asyncio.get_running_loop().time
        answers, silence = b"", 0.0
        begun = said = clock()
        with contextlib.suppress(ConnectionResetError):
            while not answers.endswith(b"-ERR closing\r\n"):
                before, said = said, clock()
                writer.write(b"A\r\n")
                answers += await reader.readline()
                silence = max(silence, clock() - before)
                await asyncio.sleep(0.02)
        assert clock() - begun > timeouts.total - timeouts.idle or silence >= timeouts.idle

    serve(conversation, timeouts=timeouts)


def test_working_is_not_idle_but_ends_with_the_total_time(serve, until):
    async def conversation(server, reader, writer):
        writer.write(b"HOLD\r\n")
        start = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - start > 0.25

    serve(conversation, timeouts=Timeouts(idle=0.05, total=0.3))


# ---- TLS


@pytest.mark.parametrize("flood", [b"", b"A\r\n" * 30_000])
def test_what_came_before_the_handshake_is_dropped(serve, certificates, client_tls, flood, until):
    async def conversation(server, reader, writer):
        writer.write(flood + b"STLS\r\nINJECTED\r\nINCOMPL")
        assert await reader.readuntil(b"begin\r\n") == b"+OK A\r\n" * (len(flood) // 3) + b"+OK begin\r\n"
        await writer.start_tls(client_tls, server_hostname="mx.example.test")
        writer.write(b"A\r\nQUIT\r\n")
        assert await reader.readline() == b"+OK A\r\n"
        assert await reader.readline() == b"+OK bye\r\n"
        log = server.logs[0][len(flood) // 3 :]
        assert log[:4] == [b"STLS", "TLS", b"A", b"QUIT"]

    serve(conversation, certificates=certificates)


def test_what_comes_with_the_end_of_the_handshake_is_taken(serve, certificates, client_tls):
    """More than the driver holds, in one segment with the client's Finished."""
    lines = 10_000

    async def conversation(server, reader, writer):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_tls.wrap_bio(incoming, outgoing, server_hostname="mx.example.test")
        writer.write(b"STLS\r\n")
        assert await reader.readline() == b"+OK begin\r\n"
        answers, done = b"", False
        while not answers.endswith(b"+OK bye\r\n"):
            with contextlib.suppress(ssl.SSLWantReadError):
                if not done:
                    client.do_handshake()
                    client.write(b"A\r\n" * lines)
                    done = True
                while not answers.endswith(b"+OK bye\r\n"):
                    answers += client.read(65536)
                    if len(answers) == 7 * lines:
                        client.write(b"QUIT\r\n")
            writer.write(outgoing.read())
            if not answers.endswith(b"+OK bye\r\n"):
                incoming.write(await reader.read(65536))
        assert answers.count(b"+OK A\r\n") == lines

    serve(conversation, certificates=certificates)


@pytest.mark.parametrize("then", ["garbage", "leave", "silence"])
def test_failed_upgrade(serve, certificates, until, events, then):
    async def conversation(server, reader, writer):
        writer.write(b"STLS\r\n")
        assert await reader.readline() == b"+OK begin\r\n"
        if then == "garbage":
            writer.write(b"A\r\n" * 100)
        if then == "leave":
            writer.close()
        await until(lambda: server.logs[0] == [b"STLS", "lost"])

    serve(conversation, certificates=certificates, timeouts=Timeouts(10, 20, handshake=0.2))
    assert [name for name, _ in events] == ["tls-failed"]


def test_implicit_tls(serve, certificates, client_tls):
    async def conversation(server, reader, writer):
        writer.write(b"LARGE\r\nA\r\nQUIT\r\n")
        expected = b"+OK stream\r\n" + BLOCK * 64 + b"+OK A\r\n+OK bye\r\n"
        assert await reader.readexactly(len(expected)) == expected

    serve(conversation, certificates=certificates, endpoint="tls:127.0.0.1:0", ssl=client_tls)


# ---- stopping


def test_drain_tells_the_idle_and_lets_the_busy_finish(serve, until, listening):
    async def conversation(server, reader, writer):
        writer.write(b"HOLD\r\nA\r\n")
        await until(lambda: server.logs[0] == [b"HOLD"])
        idle_reader, idle_writer = await asyncio.open_connection(*writer.get_extra_info("peername"))
        assert await idle_reader.readline() == b"+OK hello\r\n"
        draining = asyncio.ensure_future(server.connections.drain(5))
        assert await idle_reader.read() == b"-ERR closing\r\n"
        late_reader, late_writer = await asyncio.open_connection(*writer.get_extra_info("peername"))
        assert await late_reader.read() == b"+OK hello\r\n-ERR closing\r\n"
        assert not draining.done()
        server.hold.set()
        assert await reader.read() == b"+OK HOLD\r\n+OK A\r\n-ERR closing\r\n"
        assert await draining == 0
        for each in (idle_writer, late_writer):
            each.close()
            await each.wait_closed()

    serve(conversation)


def test_drain_cuts_those_that_do_not_come_to_an_end(serve):
    async def conversation(server, reader, writer):
        writer.write(b"ENDLESS\r\n")
        await reader.readexactly(100)
        assert await server.connections.drain(0.1) == 1
        assert server.logs[0] == [b"ENDLESS", "lost"]
        assert await server.connections.drain(0.1) == 0

    serve(conversation, buffer=4096)

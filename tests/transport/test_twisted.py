"""Twisted protocols on our transports: data, loss, back-pressure, bounds, faults."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from mailserver.transport.backlog import Backlog
from mailserver.transport.connections import Connections
from mailserver.transport.twisted import Bounds, Hosted, deferred

PATIENT = Bounds(idle=10, login=10, write=10)
MUCH = bytes(range(256)) * 1024  # 256 KiB


class Echo(Protocol):
    """Says back what it hears; `told` is what became of it."""

    def __init__(self, told):
        self.told = told

    def connectionMade(self):
        self.told.append(("made", self.transport.getPeer(), self.transport.getHost()))

    def dataReceived(self, data):
        if data == b"boom":
            raise RuntimeError("secret")
        if data == b"admit":
            self.transport.admit("ann")
        self.transport.writeSequence([b"<", data, b">"])
        if data == b"bye":
            self.transport.write(MUCH)
            self.transport.loseConnection()
            self.transport.write(b"too late")

    def connectionLost(self, reason):
        self.told.append(("lost", reason.type.__name__))


class Made(Factory):
    def __init__(self, make):
        self.make = make

    def buildProtocol(self, addr):
        return self.make()


@pytest.fixture
def hosting(listening):
    """A context manager: Twisted protocols that `make` builds, at an endpoint."""

    @contextlib.contextmanager
    def hosting(make, endpoint="tcp:127.0.0.1:0", bounds=PATIENT, **settings):
        connections = Connections()

        def factory(peer):
            return Hosted("pb", Made(make), peer, bounds=bounds, connections=connections)

        with listening(endpoint, factory, **settings) as listener:
            listener.connections_held = connections
            yield listener

    return hosting


async def _said(reader, what):
    assert await reader.readexactly(len(what)) == what


@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
def test_a_dialogue(run, hosting, kind, tmp_path, certificates, client_tls, until):
    told = []
    path = tmp_path / "socket"
    endpoint = f"unix:{path}" if kind == "unix" else f"{kind}:127.0.0.1:0"

    async def dialogue():
        with hosting(lambda: Echo(told), endpoint, certificates=certificates) as listener:
            if kind == "unix":
                reader, writer = await asyncio.open_unix_connection(path)
            else:
                tls = client_tls if kind == "tls" else None
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port, ssl=tls)
            writer.write(b"hello")
            await _said(reader, b"<hello>")
            (entry,) = listener.connections_held
            assert entry.connection.about() == (
                "pb",
                told[0][1].host if kind != "unix" else "unix",
                "",
                kind == "tls",
            )
            writer.write(b"admit")
            await _said(reader, b"<admit>")
            assert entry.connection.about().user == "ann"
            writer.write(b"bye")
            assert await reader.read() == b"<bye>" + MUCH
            writer.close()
            await until(lambda: len(told) == 2 and not len(listener.connections_held))
        assert [what for what, *_ in told] == ["made", "lost"]

    run(dialogue())


def test_addresses(run, hosting, tmp_path):
    told = []

    async def dialogue():
        with hosting(lambda: Echo(told)) as tcp, hosting(lambda: Echo(told), f"unix:{tmp_path}/s"):
            reader, writer = await asyncio.open_connection("127.0.0.1", tcp.port)
            writer.write(b"x")
            await _said(reader, b"<x>")
            here = writer.get_extra_info("sockname")[1]
            assert (told[0][1].host, told[0][1].port, told[0][2].port) == ("127.0.0.1", here, tcp.port)
            writer.close()
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
            writer.write(b"x")
            await _said(reader, b"<x>")
            assert {type(one[1]).__name__ for one in told if one[0] == "made"} == {
                "IPv4Address",
                "UNIXAddress",
            }
            writer.close()

    run(dialogue())


def _place(events):
    return [
        (name, fields["error"], fields["where"].partition(":")[0])
        for name, fields in events
        if "error" in fields
    ]


def test_a_fault_ends_the_connection_and_is_logged_by_kind_and_place(run, hosting, events, until):
    told = []

    class Unborn(Echo):
        def connectionMade(self):
            raise LookupError("secret")

    class Undying(Echo):
        def connectionLost(self, reason):
            super().connectionLost(reason)
            raise KeyError("secret")

    async def dialogue():
        for make, word, kind in (
            (Echo, b"boom", "RuntimeError"),
            (Unborn, b"", "LookupError"),
            (Undying, b"bye", "KeyError"),
        ):
            with hosting(lambda make=make: make(told)) as listener:
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(word)
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
                await until(lambda: not len(listener.connections_held))
            assert _place(events) == [("session-failed", kind, __name__)]
            assert "secret" not in repr(events)
            events.clear()

    run(dialogue())


def test_what_twisted_says_of_failures_is_logged_by_kind(run, hosting, events, until, capfd):
    class Careless(Protocol):
        def dataReceived(self, data):
            def fails(_):
                raise RuntimeError("secret")

            Deferred().addCallback(fails).callback(None)  # nobody looks what became of it
            self.transport.loseConnection()

    async def dialogue():
        with hosting(Careless) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"x")
            assert await reader.read() == b""
            writer.close()
            gc.collect()
            await until(lambda: events)
        assert _place(events) == [("session-failed", "RuntimeError", __name__)]
        assert "secret" not in repr(events)

    run(dialogue())
    assert capfd.readouterr() == ("", "")


def test_no_protocol_is_no_connection(run, hosting):
    async def dialogue():
        with hosting(lambda: None) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(dialogue())


@pytest.mark.parametrize("admitted", [False, True])
def test_silence_ends(run, hosting, events, admitted):
    bounds = Bounds(idle=0.1 if admitted else 60, login=60 if admitted else 0.1)

    async def dialogue():
        with hosting(lambda: Echo([]), bounds=bounds) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            if admitted:
                writer.write(b"admit")
                await _said(reader, b"<admit>")
            assert await reader.read() == b""
            writer.close()
        assert [name for name, _ in events] == ["session-timed-out"]

    run(dialogue())


def test_time_to_log_in_is_not_prolonged_by_chatter(run, hosting, events):
    async def dialogue():
        with hosting(lambda: Echo([]), bounds=Bounds(idle=60, login=0.2)) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            with contextlib.suppress(ConnectionError):
                while True:
                    writer.write(b"x")
                    if not await reader.read(100):
                        break
                    await asyncio.sleep(0.01)
            writer.close()
        assert [name for name, _ in events] == ["session-timed-out"]

    run(dialogue())


def test_a_client_that_does_not_read_is_cut(run, hosting, events, until):
    """By the octets it leaves lying about, fewer before it is admitted, or all do; or by time."""

    class Loud(Echo):
        def dataReceived(self, data):
            if data == b"admit":
                self.transport.admit("ann")
            self.transport.write(MUCH * 32)

    async def stalls(bounds, word):
        with hosting(lambda: Loud([]), bounds=bounds) as listener:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1)
            writer.transport.pause_reading()
            writer.write(word)
            await until(lambda: any(name == "client-stalled" for name, _ in events))
            await until(lambda: not len(listener.connections_held))
            writer.transport.abort()
        events.clear()

    run(stalls(Bounds(idle=60, write=60, output=100 * len(MUCH), early_output=1024), b"early"))
    run(stalls(Bounds(idle=60, write=60, output=1024), b"admit"))
    run(stalls(Bounds(idle=60, write=0.1, output=100 * len(MUCH)), b"admit"))
    run(stalls(Bounds(idle=60, write=60, output=100 * len(MUCH), backlog=Backlog(1024)), b"admit"))


class Source:
    """Produces `total` octets; `paused` counts how often it was told to wait."""

    def __init__(self, transport, total):
        self.transport, self.left = transport, total
        self.paused, self.running, self.stopped = 0, True, False

    def pauseProducing(self):
        self.paused, self.running = self.paused + 1, False

    def resumeProducing(self):
        self.running = True
        self.produce()

    def stopProducing(self):
        self.stopped = True

    def produce(self):
        while self.running and self.left:
            self.left -= len(MUCH)
            self.transport.write(MUCH)
        self.end()

    def end(self):
        if not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()


class Asked(Source):
    """Waits to be asked for each piece."""

    def resumeProducing(self):
        self.left -= len(MUCH)
        self.transport.write(MUCH)
        self.end()


@pytest.mark.parametrize("kind", [Source, Asked])
def test_producers_wait_for_their_client(run, hosting, kind, until):
    total = 200 * len(MUCH)
    sources = []

    class Producing(Protocol):
        def connectionMade(self):
            self.transport.admit("ann")
            sources.append(kind(self.transport, total))
            self.transport.registerProducer(sources[0], kind is Source)
            if kind is Source:
                sources[0].produce()

    async def dialogue():
        with hosting(Producing) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            read = 0
            while data := await reader.read(1 << 20):
                read += len(data)
            assert read == total
            assert kind is Asked or sources[0].paused > 0
            writer.close()

    run(dialogue())


def test_a_producer_hears_that_its_client_is_gone(run, hosting, until):
    sources = []

    class Producing(Protocol):
        def connectionMade(self):
            sources.append(Source(self.transport, len(MUCH)))
            self.transport.registerProducer(sources[0], True)

    async def dialogue():
        with hosting(Producing) as listener:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            await until(lambda: sources)
            writer.close()
            await until(lambda: sources[0].stopped)

    run(dialogue())


def test_input_waits_while_the_protocol_wants_none(run, hosting, until):
    heard = []

    class Slow(Protocol):
        def dataReceived(self, data):
            heard.append((self.transport, data))
            self.transport.pauseProducing()

    async def dialogue():
        with hosting(Slow) as listener:
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(b"one")
            await until(lambda: len(heard) == 1)
            writer.write(b"two")
            await writer.drain()
            await asyncio.sleep(0)
            heard[0][0].resumeProducing()
            await until(lambda: b"".join(data for _, data in heard) == b"onetwo")
            heard[0][0].stopProducing()
            writer.close()

    run(dialogue())


def test_who_knows_of_half_closed_connections_still_answers(run, hosting):
    @implementer(IHalfCloseableProtocol)
    class Patient(Protocol):
        def readConnectionLost(self):
            self.transport.write(b"all heard")
            self.transport.loseConnection()

        def writeConnectionLost(self):
            raise AssertionError

    async def dialogue():
        for make, answer in ((Patient, b"all heard"), (Protocol, b"")):
            with hosting(make) as listener:
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.write(b"last words")
                writer.write_eof()
                assert await reader.read() == answer
                writer.close()

    run(dialogue())


def test_waiting_for_a_client_to_take_its_output(run, hosting, until):
    waited = []

    class Polite(Protocol):
        def connectionMade(self):
            self.transport.admit("ann")
            self.task = asyncio.ensure_future(self.talk())

        async def talk(self):
            for _ in range(200):
                self.transport.write(MUCH)
                await self.transport.taken()
            waited.append(True)
            self.transport.loseConnection()

    async def dialogue():
        with hosting(Polite) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            left = 200 * len(MUCH)
            while block := await reader.read(len(MUCH)):  # to join all of it would take long in one callback
                left -= len(block)
            assert left == 0
            writer.close()
            await until(lambda: waited)

    run(dialogue())


def test_coroutines_as_deferreds(run):
    async def answers(what):
        await asyncio.sleep(0)
        if isinstance(what, Exception):
            raise what
        return what

    async def outcome(one):
        done = asyncio.get_running_loop().create_future()
        one.addBoth(done.set_result)
        return await done

    async def dialogue():
        assert await outcome(deferred(answers(1))) == 1
        failure = await outcome(deferred(answers(KeyError("x"))))
        assert failure.check(KeyError)
        waiting = asyncio.Event()
        endless = deferred(waiting.wait())
        endless.cancel()
        assert isinstance(endless, Deferred)
        assert (await outcome(endless)).check(asyncio.CancelledError)

    run(dialogue())

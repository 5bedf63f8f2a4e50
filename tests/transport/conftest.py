"""What the transport's tests share: both event loops, the log as a list, certificates, a started listener."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import pytest
import uvloop

from mailserver import maillog
from mailserver.transport.endpoint import parse
from mailserver.transport.listener import Gate, Limits, Listener
from mailserver.transport.tls import Certificates, make_self_signed


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on each of the loops, and fail if a callback raised or a task was left alone."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(coroutine):
        unhandled = []

        async def watched():
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
            async with asyncio.timeout(20):
                return await coroutine

        with asyncio.Runner(loop_factory=factory) as runner:
            result = runner.run(watched())
        assert unhandled == []
        return result

    return run


@pytest.fixture
def events(monkeypatch):
    """Events logged, as (name, fields)."""
    seen = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
    return seen


@pytest.fixture(scope="session")
def tls_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tls")
    make_self_signed(str(directory), ["mx.example.test", "127.0.0.1"])
    return directory


@pytest.fixture
def certificates(tls_directory):
    loaded = Certificates(str(tls_directory))
    assert loaded.reload() == []
    return loaded


@pytest.fixture
def client_tls(tls_directory):
    return ssl.create_default_context(cafile=str(tls_directory / "mx.example.test" / "fullchain.pem"))


@pytest.fixture
def listening():
    """A started listener as a context manager; `.port` is where it listens."""

    @contextlib.contextmanager
    def listening(endpoint, factory, *, limits=None, gate=None, **settings):
        gate = gate or Gate(limits or Limits(connections=100, per_address=100, handshake_timeout=5))
        listener = Listener(parse(endpoint), factory, gate=gate, **settings)
        listener.open()
        listener.start()
        listener.port = listener.endpoint.kind != "unix" and listener.sockets[0].getsockname()[1]
        try:
            yield listener
        finally:
            listener.close()

    return listening


@pytest.fixture
def until():
    """Wait until a condition holds: for what another side of a connection will see soon."""

    async def until(condition):
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.005)

    return until

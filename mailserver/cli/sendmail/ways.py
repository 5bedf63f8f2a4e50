"""A way in: the socket of the running server, or of a private one in this process, with the same code.

The private server takes what the running one would, durably, into mailboxes and queue; what leaves is on its
way when the server starts. Not here: what is said on the socket (`client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator

from mailserver import maillog
from mailserver.cli.idle import Occupied, idle_state, logging_to
from mailserver.cli.sendmail.failed import Code, Failed
from mailserver.config.model import Config, Listener
from mailserver.config.values import EndpointText
from mailserver.server.state import State, StateError
from mailserver.transport.endpoint import parse

PATIENCE = 15.0  # seconds for a server that is starting or stopping, and for other commands
_AGAIN = 0.1


@contextlib.contextmanager
def way_in(config: Config) -> Iterator[socket.socket]:
    """A connection to a server. Raises Failed."""
    end = time.monotonic() + PATIENCE
    while (sock := _running(config)) is None:
        try:
            with idle_state(config) as state, logging_to(config), _private(config, state) as own:
                yield own
            return
        except Occupied:
            if time.monotonic() >= end:
                raise Failed(Code.TEMPORARY, "the server is starting or stopping, try again") from None
            time.sleep(_AGAIN)
        except (PermissionError, StateError):
            text = "no server is running that takes mail from this account, and its queue is closed to it"
            raise Failed(Code.TEMPORARY, text) from None
    with sock:
        yield sock


def _running(config: Config) -> socket.socket | None:
    """A connection to the server that runs; None if there is none for us."""
    ours = [parse(at.endpoint) for at in config.listeners if at.protocol == "submission"]
    paths = [endpoint.target for endpoint in ours if endpoint.kind == "unix"]
    for path in (State(config.maildirs).submission_socket, *paths):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
        else:
            return sock
    return None


@contextlib.contextmanager
def _private(config: Config, state: State) -> Iterator[socket.socket]:
    """A server of our own, for one connection; it ends with it."""
    ours, its = socket.socketpair()
    server = threading.Thread(target=_serve, args=(config, state, its), name="server")
    server.start()
    try:
        with ours:
            yield ours
    finally:
        server.join()


def _serve(config: Config, state: State, sock: socket.socket) -> None:
    try:
        _serve_one(config, state, sock)
    except Exception as error:  # whatever it is, the client must not wait for an answer
        maillog.event("unforeseen", error=type(error).__name__)
    finally:
        sock.close()


def _serve_one(config: Config, state: State, sock: socket.socket) -> None:
    from mailserver.server.services import Services  # the event loop and all protocols, for this case alone
    from mailserver.transport.listener import Peer
    from mailserver.transport.tls import Certificates

    services = Services(config, state.staging, Certificates(config.tls, config.hostname))
    make = services.factory(Listener(protocol="submission", endpoint=EndpointText("unix:/sendmail")))
    peer = Peer("unix", 0, os.getuid(), secure=False)

    async def serve() -> None:
        sock.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: make(peer), sock)
        await services.connections.wait_empty()

    try:
        asyncio.run(serve())
    finally:
        services.close()

"""The driver: hosts a line session, a state machine without sockets, on a transport.

Lines in, answers out, one at a time and in order, however the client cuts or joins its segments. Everything
a client can stretch is bounded: input and output held, line length, and the time it is idle, does not read,
or stays. A task exists only while an answer, or the client, is waited for. Not here: what a line means
(`pop3.session`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, cast

from mailserver import maillog
from mailserver.pool import Busy, Pool
from mailserver.transport import outlet
from mailserver.transport import tls as transport_tls
from mailserver.transport.connections import About, Connections
from mailserver.transport.lines import Lines, LineTooLong
from mailserver.transport.listener import Peer, reason_of
from mailserver.transport.session import Answer, LineSession, Then

__all__ = ["Answer", "Connections", "Driver", "LineSession", "Then", "Timeouts"]

INPUT = 16 * 1024  # octets of unanswered lines held before reading pauses (and one read more)
OUTPUT = 64 * 1024  # octets of answers held, and the aim of one trip to a thread for a stream
TURN = 32  # lines answered that came together, before other connections have their turn
BUSY_DELAY = 0.05  # seconds between tries to go on with a stream while the pool is full


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: between complete lines, for the whole session, without progress of output, for STARTTLS."""

    idle: float
    total: float
    write: float = 120.0
    handshake: float = 30.0


class _Stalled(Exception):
    """The client does not read."""


class Driver(asyncio.Protocol):
    """One connection. `tls` gives the context for Then.START_TLS; `line_limit` is in octets, with CRLF."""

    __slots__ = (
        "_active", "_closing", "_connections", "_draining", "_end", "_ended", "_eof", "_held", "_lines",
        "_loop", "_lost", "_out", "_over_tls", "_peer", "_pool", "_reading", "_resumed", "_session",
        "_task", "_timeouts", "_timer", "_tls", "_transport", "_turn", "_write", "_write_paused",
    )  # fmt: skip
    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport
    _write: outlet.Write
    _timer: asyncio.TimerHandle
    _active: float  # when the last complete line was answered
    _end: float  # of the session's total time

    def __init__(
        self,
        session: LineSession,
        peer: Peer,
        *,
        pool: Pool,
        timeouts: Timeouts,
        line_limit: int,
        tls: Callable[[], ssl.SSLContext] | None,
        connections: Connections,
    ) -> None:
        self._session = session
        self._peer = peer
        self._pool = pool
        self._timeouts = timeouts
        self._tls = tls
        self._connections = connections
        self._lines = Lines(line_limit)
        self._out: list[bytes] = []  # answers not yet sent
        self._held = 0  # octets of them
        self._turn = 0  # lines answered since other connections had their turn
        self._task: asyncio.Task[None] | None = None  # at work on lines, or on the session's end
        self._resumed: asyncio.Future[None] | None = None  # waiting until the client reads
        self._reading = True
        self._write_paused = self._eof = self._draining = False
        self._closing = False  # no further line is answered
        self._lost = False  # the connection is gone
        self._ended = False  # and the session knows

    # ---- called by the transport and by Connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._loop = asyncio.get_running_loop()
        self._use(cast(asyncio.Transport, transport))
        self._active = self._loop.time()
        self._end = self._active + self._timeouts.total
        self._timer = self._loop.call_later(min(self._timeouts.idle, self._timeouts.total), self._tick)
        try:
            self._transport.write(self._session.greeting())
        except Exception as error:
            self._report(error)
            self._transport.abort()
        self._connections.add(self)

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport, self._write = transport, outlet.of(transport, self._peer.descriptor)
        transport.set_write_buffer_limits(high=OUTPUT)
        self._over_tls = transport.get_extra_info("ssl_object") is not None

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._lines.feed(data)
        if self._task is None:
            self._begin()
        elif self._lines.left > INPUT:
            self._pause_reading()

    def eof_received(self) -> bool:
        """A client may say its last lines and half-close (`nc -N`): it still hears the answers."""
        self._eof = True
        if self._task is None:
            self._finish()
        return not self._over_tls  # TLS has no half-close

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = self._closing = True
        self._timer.cancel()
        self._wake()
        if self._task is None and not self._ended:
            self._bury()

    def about(self) -> About:
        return About(self._session.protocol, self._peer.address, self._session.user, self._over_tls)

    def drain(self) -> None:
        """Answer what has been received, then say goodbye."""
        self._draining = True
        if self._task is None:
            self._say_goodbye()
        else:
            self._pause_reading()

    def abort(self) -> None:
        """End now."""
        self._transport.abort()

    # ---- time

    def _tick(self) -> None:
        """One timer, set anew only when it fires: a line costs no more than a glance at the clock."""
        now = self._loop.time()
        idle_end = self._active + self._timeouts.idle if self._task is None else now + self._timeouts.idle
        if now < min(self._end, idle_end):
            self._timer = self._loop.call_at(min(self._end, idle_end), self._tick)
            return
        maillog.event("session-timed-out", peer=self._peer.address)
        if self._task is None:
            self._say_goodbye()
        else:
            self._transport.abort()

    def _say_goodbye(self) -> None:
        if not self._closing:
            self._transport.write(self._session.timed_out())
            self._finish()

    def _finish(self) -> None:
        """Close when all is sent, or when the client has not taken it in time."""
        self._closing = True
        self._timer.cancel()
        self._transport.close()
        if self._over_tls or self._transport.get_write_buffer_size():  # what is encrypted is not in that size
            self._timer = self._loop.call_later(self._timeouts.write, self._transport.abort)

    # ---- work

    def _begin(self) -> None:
        """Answer what can be answered at once; what must be waited for becomes a task."""
        self._turn = 0
        try:
            waiting = self._go_on()
        except Exception as error:
            self._report(error)
            self._cut()
            return
        if waiting is not None:
            self._task = self._loop.create_task(self._work(waiting))
        elif self._turn > 1:  # a part of a line is no sign of life
            self._active = self._loop.time()

    async def _work(self, waiting: Awaitable[None] | None) -> None:
        try:
            while waiting is not None:
                await waiting
                waiting = self._go_on()
        except asyncio.CancelledError:
            self._cut()
            raise
        except _Stalled:
            maillog.event("client-stalled", peer=self._peer.address)
            self._cut()
        except Exception as error:
            self._report(error)
            self._cut()
        finally:
            self._task = None
            if self._lost:
                self._bury()
            else:
                self._rest()

    def _rest(self) -> None:
        self._active = self._loop.time()
        if self._draining:
            self._say_goodbye()
        elif self._eof:
            self._finish()
        elif not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    def _bury(self) -> None:
        self._ended = True
        try:
            self._session.lost()
        except Exception as error:
            self._report(error)
        finally:
            self._connections.discard(self)

    def _go_on(self) -> Coroutine[Any, Any, None] | None:
        """Answer lines: None when there are no more, else what must be waited for before going on.

        Answers that come together leave together.
        """
        while self._turn < TURN:
            self._turn += 1
            if self._closing:
                return None
            try:
                line = self._lines.next()
                answer = None if line is None else self._session.receive(line)
            except LineTooLong:
                answer = self._session.too_long()
            except Exception as error:
                answer = self._excuse(error)
            if answer is None:
                self._send()
                return self._until_taken() if self._write_paused else None
            if not isinstance(answer, Answer) or answer.stream or answer.then is Then.START_TLS:
                return self._complete(answer)
            self._hold(answer.data)
            if answer.then is Then.CLOSE:
                self._send()
                if self._write_paused:
                    return self._complete(Answer(then=Then.CLOSE))
                self._finish()
                return None
            if self._held >= OUTPUT:
                return self._flush()
        self._turn = 0
        return asyncio.sleep(0)

    async def _complete(self, answer: Answer | Awaitable[Answer]) -> None:
        """Wait for the rest of an answer, then do what comes after it."""
        if not isinstance(answer, Answer):
            try:
                answer = await answer
            except Exception as error:
                answer = self._excuse(error)
        if answer.stream is None:
            self._hold(answer.data)
        else:
            answer = await self._send_stream(answer, answer.stream)
        if answer.then is not Then.CONTINUE or self._held >= OUTPUT:
            await self._flush()
        if answer.then is Then.CLOSE and not self._lost:
            self._finish()
        elif answer.then is Then.START_TLS and not self._lost:
            await self._start_tls()

    def _excuse(self, error: Exception) -> Answer:
        if isinstance(error, Busy):
            return self._session.busy()
        self._report(error)
        return self._session.failure()._replace(then=Then.CLOSE)

    async def _send_stream(self, answer: Answer, blocks: Iterator[bytes]) -> Answer:
        try:
            try:
                data, more = await self._pool.run(_take, blocks)
            except Exception as error:
                answer = self._excuse(error)
                data, more = b"", False
            self._hold(answer.data)
            self._hold(data)
            while more and not self._lost:
                self._send()
                data, more = await self._take_more(blocks)  # while the client takes what was sent
                await self._until_taken()
                self._hold(data)
            return answer
        finally:
            close = getattr(blocks, "close", None)
            if close is not None:
                close()

    async def _take_more(self, blocks: Iterator[bytes]) -> tuple[bytes, bool]:
        """Half an answer is sent: a full pool means waiting now, for as long as a client may stall."""
        until = self._loop.time() + self._timeouts.write
        while True:
            try:
                return await self._pool.run(_take, blocks)
            except Busy:
                if self._lost or self._loop.time() > until:
                    raise
                await asyncio.sleep(BUSY_DELAY)

    def _hold(self, data: bytes) -> None:
        self._out.append(data)
        self._held += len(data)

    def _send(self) -> None:
        """Pass what is held to the transport."""
        if self._held and not self._lost:
            self._write(b"".join(self._out))  # the very object where there is but one
        self._out.clear()
        self._held = 0

    async def _flush(self) -> None:
        """Send what is held, and wait until the client has taken enough of it. Raises _Stalled."""
        self._send()
        await self._until_taken()

    async def _until_taken(self) -> None:
        while self._write_paused and not self._lost:
            size = self._transport.get_write_buffer_size()
            self._resumed = self._loop.create_future()
            try:
                async with asyncio.timeout(self._timeouts.write):
                    await self._resumed
            except TimeoutError:
                if self._transport.get_write_buffer_size() >= size:
                    raise _Stalled from None

    async def _start_tls(self) -> None:
        assert self._tls is not None, "the session starts TLS only where it was offered"
        context = self._tls()
        self._reading = False  # no pausing meanwhile: the old transport is not ours any more
        self._lines.clear()  # RFC 2595 §4: what came in clear after STLS was not said by the client we know
        try:
            self._use(await transport_tls.upgrade(self._transport, self, context, self._timeouts.handshake))
        except OSError as error:
            maillog.event("tls-failed", peer=self._peer.address, reason=reason_of(error))
            self._cut()
            return
        self._reading = True
        self._session.tls_started()

    # ---- ends

    def _pause_reading(self) -> None:
        if self._reading and not self._transport.is_closing():
            self._reading = False
            self._transport.pause_reading()

    def _wake(self) -> None:
        if self._resumed is not None and not self._resumed.done():
            self._resumed.set_result(None)

    def _cut(self) -> None:
        self._lost = self._closing = True
        self._timer.cancel()
        self._transport.abort()

    def _report(self, error: Exception) -> None:
        maillog.count("session.failed")
        maillog.fault("session-failed", error, peer=self._peer.address)


def _take(blocks: Iterator[bytes]) -> tuple[bytes, bool]:
    """About OUTPUT octets of a stream, and whether there may be more. Runs in a thread."""
    taken, size = [], 0
    for block in blocks:
        taken.append(block)
        size += len(block)
        if size >= OUTPUT:
            return b"".join(taken), True
    return b"".join(taken), False

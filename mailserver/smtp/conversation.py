"""A client's conversation: its input is answered in order, whatever has to wait, and within bounds.

A command is answered where its octets arrive. Only what has to wait (a login, a full disk, TLS, a client that
guesses) is a task; a commit calls back. What comes meanwhile is held, and so is what comes faster than the
client reads the answers. Waking a task for each line was 40 of the 65 microseconds that a command took.
Not here: what input means, TLS (`server`).
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from mailserver import maillog
from mailserver.mail.reply import Reply
from mailserver.mta.route import TROUBLE
from mailserver.smtp import replies
from mailserver.smtp.site import Site
from mailserver.smtp.transaction import Transaction
from mailserver.transport import outlet
from mailserver.transport.lines import Lines
from mailserver.transport.listener import Peer

READ_AHEAD = 64 * 1024  # octets of a client's input held before its connection is paused
UNREAD = 64 * 1024  # octets of replies that a client has not read, before no more is answered
SOFT_ERRORS, HARD_ERRORS = 10, 100  # refused commands: after so many slowed down, after so many cut
ERROR_DELAY = 1.0  # seconds, for each refused command over the soft limit
TURN = 32  # replies to commands that came together, before other sessions have their turn

Answer = Reply | list[Reply] | Coroutine[Any, Any, Reply | list[Reply]] | None
"""What input leads to: a reply, replies to a message, what has to be waited for; or nothing, until more comes
or a commit ends."""


class Conversation(asyncio.Protocol):
    """One connection's. `_read` takes what it understands from `_input`, and answers it."""

    site: Site
    peer: Peer
    dialogue: Transaction
    loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport
    _write: outlet.Write
    _timeout_handle: asyncio.TimerHandle | None
    _paused: bool  # the client does not read
    _task: asyncio.Task[None] | None = None  # what is waited for
    _committing = False  # a commit is waited for
    _errors = 0
    _silence_end = _session_end = 0.0
    _draining = _closing = _smuggling = _eof = False
    _hearing = True
    _output = b""  # of this turn

    def _begin(self, read: Callable[[Any], Answer]) -> None:
        """At the start; `read` is a function, no bound method: a session is no cycle for the collector."""
        self._read = self._read_first = read
        self._input = Lines(READ_AHEAD)

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport, self._write = transport, outlet.of(transport, self.peer.descriptor)
        transport.set_write_buffer_limits(high=UNREAD)

    # -- what happens ----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._input.feed(data)
            self._converse()

    def eof_received(self) -> bool:
        """The client has said all it will say: answer what is still to be answered, then close."""
        self._eof = True
        self._converse()
        return not self.dialogue.secure

    def resume_writing(self) -> None:
        super().resume_writing()
        self._converse()

    def drain(self) -> None:
        """Stop soon: at once between messages, else after the message under way."""
        self._draining = True
        if self.dialogue.idle:
            self._say_goodbye(replies.CLOSING)

    def abort(self) -> None:
        self._transport.abort()

    def _put_off_silence(self) -> None:
        """Put the end of silence off. The timer is left alone (it looks when it rings): 3 % of a message."""
        self._silence_end = self.loop.time() + self.site.timeouts.idle

    def _ring_at(self, when: float) -> None:
        """Set the one timer, for whatever ends first."""
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        self._timeout_handle = self.loop.call_at(when, self._timeout_cb)

    def _timeout_cb(self) -> None:
        now = self.loop.time()
        if self._closing:
            self.abort()
        elif now >= self._session_end:
            self._expire(now)
        elif now < self._silence_end or self._waits:
            if self._waits:  # it is us whom the client waits for
                self._silence_end = now + self.site.timeouts.idle
            self._ring_at(min(self._silence_end, self._session_end))
        elif self._smuggling:
            self._say_goodbye(replies.NO_END_OF_DATA)
        else:
            self._say_goodbye(replies.IDLE)

    def _expire(self, now: float) -> None:
        """The session's time is over; a message under way has its own time to be finished."""
        if self.dialogue.idle or self._draining:
            self._say_goodbye(replies.EXPIRED)
        else:
            self._draining = True
            self._session_end = now + self.site.timeouts.content
            self._ring_at(min(self._silence_end, self._session_end))

    def _say_goodbye(self, reply: Reply) -> None:
        """Close from outside the conversation; RFC 5321 §3.8 lets a server do so with 421."""
        if not self._closing:
            maillog.event("session-ended", peer=self.peer.address, reply=reply)
            self._output += reply.encode()
            self._hang_up()

    def _hang_up(self) -> None:
        """Close; nothing more is read, and what was read ahead is no longer answered."""
        if not self._closing:
            self._closing = True
            self._input.clear()
            self._flush()
            self._transport.close()
            if self.dialogue.secure or self._transport.get_write_buffer_size():
                # a client that reads nothing must not keep the closing connection for ever; what is encrypted
                # already is not in that size
                self._ring_at(self.loop.time() + self.site.timeouts.handshake)

    # -- answers ---------------------------------------------------------------------------------

    def _converse(self) -> None:
        """Answer what has come, in its order, until something has to be waited for."""
        answered = 0
        while not (self._task or self._committing or self._closing):
            if self._draining and self.dialogue.idle:
                self._say_goodbye(replies.CLOSING)
            if self._paused or self._closing:
                break
            try:
                answer = self._read(self)
            except Exception as error:
                answer = self._excuse(error)
            if answer is None:
                break
            answered += 1
            if isinstance(answer, Reply) and answered < TURN and self._errors < SOFT_ERRORS:
                self._send(answer)
                if not (self._input.left or self._draining):
                    break  # as most often: one command came, and no more
            else:
                self._task = self.loop.create_task(self._wait(answer))
        if not self._closing:
            self._flush()
            if self._eof or self._hearing != (self._input.left <= READ_AHEAD):
                self._rest()

    @property
    def _waits(self) -> bool:
        return self._committing or self._task is not None

    async def _wait(self, answer: Reply | list[Reply] | Coroutine[Any, Any, Reply | list[Reply]]) -> None:
        """Answer in a task; what comes meanwhile is held."""
        try:
            outcome = answer if isinstance(answer, (Reply, list)) else await answer
            # RFC 2033 §4.2: a message has a reply for each recipient, and is one error at most
            for number, reply in enumerate(outcome if isinstance(outcome, list) else [outcome]):
                if number == 0 and reply.permanent and SOFT_ERRORS <= self._errors < HARD_ERRORS:
                    self._flush()  # a client that only guesses waits, before it is cut off
                    await asyncio.sleep(ERROR_DELAY)
                self._send(reply, counted=number == 0)
        except asyncio.CancelledError:
            self._hang_up()
            raise
        except Exception as error:
            self._send(self._excuse(error))
        self._task = None
        self._converse()

    def _rest(self) -> None:
        """Nothing is answered now: close after the client's last word, hold a bounded part of what comes."""
        if self._eof:
            if not self._waits and not self._paused:
                self._hang_up()
        else:
            self._hearing = not self._hearing
            if self._hearing:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _send(self, reply: Reply, *, counted: bool = True) -> None:
        if self._closing:
            return
        if reply.code >= 500 and counted:
            self._errors += 1
            if self._errors > HARD_ERRORS:
                reply = replies.TOO_MANY_ERRORS
        self._output += reply.encode()
        if reply.code == 421:
            self._hang_up()

    def _flush(self) -> None:
        """Replies to commands that came together leave together (RFC 2920 §3.2)."""
        if self._output:
            output, self._output = self._output, b""
            self._write(output)

    @property
    @abstractmethod
    def _in_content(self) -> bool:
        """What comes next are octets of content, and no commands."""

    def _excuse(self, error: Exception) -> Reply:
        """The unforeseen: a 451 for the client, place and kind for the log, never its text.

        Within content it is the end: the rest of that would be read as commands. So it is in LMTP, whose
        client may wait for a reply for each recipient (RFC 2033 §4.2).
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "?"
        maillog.count("smtp.unforeseen")
        maillog.event("unforeseen", error=type(error).__name__, place=place, peer=self.peer.address)
        self.dialogue.reset()
        if self._in_content or self.site.policy.lmtp:
            return replies.OUT_OF_STEP
        self._read = self._read_first
        return TROUBLE

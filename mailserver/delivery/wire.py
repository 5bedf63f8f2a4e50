"""The SMTP client library (aiosmtplib) and what is changed of it; no other module knows it.

Taken from it: command and reply framing with their bounds, STARTTLS, flow control. Changed: a reply that
comes unasked is kept and seen instead of dropped (it may be a refusal in the middle of the content, or a
host that is out of step), several replies to one command are read (LMTP), and content is streamed.
Addresses are refused here if they hold a line end, before the library sees them (GHSA-v3q9-hj7j-63hq).
Not here: which command comes when (`delivery.session`, `delivery.transaction`).
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, cast

from aiosmtplib import (
    SMTPException,
    SMTPReadTimeoutError,
    SMTPResponseException,
    SMTPServerDisconnected,
)
from aiosmtplib.esmtp import parse_esmtp_extensions
from aiosmtplib.protocol import MAX_RESPONSE_LENGTH, SMTPProtocol
from aiosmtplib.response import SMTPResponse

from mailserver.delivery.replies import deferred, read
from mailserver.mail.reply import Reply

_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and what UTF-8 cannot say


def is_command(line: str) -> bool:
    """Whether a line can be sent as one command."""
    return not _UNFIT.search(line)


class Trouble(Exception):
    """This host, or this connection, is of no use now. `reply` says why, in the host's words or in ours.

    `advice`, where it is not empty, tells the operator what to do: waiting alone will not help.
    """

    def __init__(self, reply: Reply, advice: str = "") -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.advice = advice


class TlsTrouble(Trouble):
    """No TLS with this host, or none that its policy accepts."""


class Place(NamedTuple):
    """Where to connect: a numeric address and port, or the path of a UNIX socket with port 0."""

    address: str
    port: int


class _Protocol(SMTPProtocol):
    """The library's protocol, which keeps what comes unasked."""

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        """As the library's, but without the futures and callbacks of `asyncio.wait_for`."""
        waiter = self._response_waiter
        if waiter is None:
            raise SMTPServerDisconnected("Connection lost")
        self._response_pending = True
        timer = self._loop.call_later(timeout, _expire, waiter) if timeout is not None else None
        try:
            return await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._response_pending = False
            self._response_waiter = self._loop.create_future() if self.transport is not None else None

    def data_received(self, data: bytes) -> None:
        waiter = self._response_waiter
        if self._response_pending and waiter is not None and not waiter.done():
            super().data_received(data)
        elif len(self._buffer) + len(data) > MAX_RESPONSE_LENGTH:
            self.abort()
        else:
            self._buffer += data

    @property
    def unread(self) -> bool:
        return bool(self._buffer)

    def early_reply(self) -> SMTPResponse | None:
        """A whole reply that came before it was waited for."""
        return self._read_response_from_buffer() if self._buffer else None

    @property
    def paused(self) -> bool:
        """Whether the host is slower than we are."""
        return self._paused

    async def drain(self) -> None:
        await self._drain_helper()

    def abort(self) -> None:
        if self.transport is not None:
            cast(asyncio.Transport, self.transport).abort()


def _expire(waiter: asyncio.Future[SMTPResponse]) -> None:
    if not waiter.done():
        waiter.set_exception(SMTPReadTimeoutError("Timed out waiting for server response"))


class Connection:
    """One connection to a host that speaks SMTP or LMTP. All times are in seconds.

    Every method raises Trouble when the connection fails, stays silent too long, or says what is no reply;
    the connection is then closed.
    """

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol

    @property
    def usable(self) -> bool:
        """Whether it is open, and nothing came that was not asked for."""
        return self._protocol.is_connected and not self._protocol.unread

    @property
    def tls(self) -> ssl.SSLObject | None:
        transport = self._protocol.transport
        return transport.get_extra_info("ssl_object") if transport else None

    def send(self, lines: Sequence[str]) -> None:
        """Send command lines in one piece; to each one `reply` comes. Raises ValueError for an unfit one."""
        if not all(map(is_command, lines)):
            raise ValueError("no command")
        self._must_be_in_step()
        try:
            self._protocol.write("".join(f"{line}\r\n" for line in lines).encode())
        except (SMTPException, OSError) as error:
            raise self._broken(error) from None

    async def command(self, line: str, timeout: float) -> Reply:
        """Send one command line and await its reply. Raises ValueError for an unfit one."""
        self.send([line])
        return await self.reply(timeout)

    async def hello(self, line: str, timeout: float) -> tuple[Reply, dict[str, str]]:
        """EHLO or LHLO: its reply, and the extensions offered, by upper-case keyword."""
        self.send([line])
        response = await self._response(timeout)
        extensions, methods = parse_esmtp_extensions(response.message)
        found = {keyword.upper(): parameters for keyword, parameters in extensions.items()}
        if methods:
            found["AUTH"] = " ".join(methods).upper()
        return self._reply(response), found

    async def reply(self, timeout: float) -> Reply:
        """The next reply: the greeting, to a command that was sent, or one more after content."""
        return self._reply(await self._response(timeout))

    async def content(self, blocks: AsyncIterator[bytes], timeout: float) -> None:
        """Send content with its end of data; each block has `timeout` seconds to go out.

        A reply in the midst of it (RFC 5321 §4.2.5 knows none) ends the connection and is the reason given.
        """
        async for block in blocks:
            self._must_be_in_step()  # the last look is before the block that has the end of data
            try:
                self._protocol.write(block)
                if self._protocol.paused:
                    async with asyncio.timeout(timeout):
                        await self._protocol.drain()
            except (SMTPException, OSError) as error:
                raise self._broken(error) from None

    async def start_tls(self, context: ssl.SSLContext, name: str, timeout: float) -> Reply:
        """STARTTLS and the handshake; `name` is checked as `context` says. Raises TlsTrouble too."""
        self._must_be_in_step()
        try:
            return self._reply(await self._protocol.start_tls(context, name, timeout))
        except SMTPResponseException as error:
            return self._reply(SMTPResponse(error.code, error.message))
        except (ssl.SSLError, ValueError, SMTPException, OSError) as error:
            self.abort()
            raise _tls_trouble(error) from None

    async def quit(self, timeout: float) -> None:
        """Leave politely; never raises Trouble."""
        try:
            if self.usable:
                await self._protocol.execute_command(b"QUIT", timeout=timeout)
        except (SMTPException, OSError):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Close without a word."""
        self._protocol.abort()

    def _must_be_in_step(self) -> None:
        """What comes unasked is never taken for the answer to what is asked next."""
        if self._protocol.unread:
            self.abort()
            raise Trouble(self._last_words() or deferred("5.0", "the host answers what was not asked"))
        if not self._protocol.is_connected:
            raise Trouble(deferred("4.2", "the host closed the connection"))

    async def _response(self, timeout: float) -> SMTPResponse:
        try:
            return self._protocol.early_reply() or await self._protocol.read_response(timeout)
        except (SMTPException, OSError) as error:
            raise self._broken(error) from None

    def _reply(self, response: SMTPResponse) -> Reply:
        if not 200 <= response.code <= 599:
            self.abort()
            raise Trouble(deferred("5.0", "the host's answer is no SMTP reply"))
        return read(response.code, response.message)

    def _broken(self, error: Exception) -> Trouble:
        self.abort()
        if isinstance(error, SMTPResponseException):
            return Trouble(deferred("5.0", "the host's answer is no SMTP reply"))
        if isinstance(error, TimeoutError):
            return Trouble(deferred("4.2", "the host did not answer in time"))
        return Trouble(self._last_words() or deferred("4.2", "the host closed the connection"))

    def _last_words(self) -> Reply | None:
        """A refusal that nobody asked for: why the host hung up."""
        try:
            early = self._protocol.early_reply()
        except SMTPException:
            return None
        return read(early.code, early.message) if early and 400 <= early.code <= 599 else None


async def connect(place: Place, tls: ssl.SSLContext | None, name: str, timeout: float) -> Connection:
    """Connect within `timeout` seconds, with TLS from the first octet if a context is given.

    Raises Trouble, and TlsTrouble for a handshake that fails.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            if not place.port:
                _, protocol = await loop.create_unix_connection(_Protocol, place.address)
            elif tls is None:
                _, protocol = await loop.create_connection(_Protocol, place.address, place.port)
            else:
                _, protocol = await loop.create_connection(
                    _Protocol, place.address, place.port, ssl=tls, server_hostname=name
                )
    except TimeoutError:
        raise Trouble(deferred("4.1", "the host does not answer")) from None
    except ssl.SSLError as error:
        raise _tls_trouble(error) from None
    except (OSError, ValueError) as error:
        raise Trouble(deferred("4.1", _why(error))) from None
    return Connection(protocol)


def _why(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "the connection failed"


def _tls_trouble(error: Exception) -> TlsTrouble:
    """In plain words; certificates are the operator's business or the other's, time heals neither."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"the certificate is not accepted: {error.verify_message.rstrip('.')}"
        return TlsTrouble(deferred("7.5", why), "check the host's certificate and the name it is called by")
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "unknown").replace("_", " ").lower()
        return TlsTrouble(deferred("7.5", f"the TLS handshake failed: {reason}"))
    if isinstance(error, TimeoutError):
        return TlsTrouble(deferred("4.2", "the TLS handshake took too long"))
    return TlsTrouble(deferred("7.5", "the TLS handshake failed: the host closed the connection"))

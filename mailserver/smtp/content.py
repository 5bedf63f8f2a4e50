"""One message's content while it comes in: decoded, measured, staged, and refused where it must be.

A refused message is read to its end and dropped, so that client and server stay in step; the refusal is
given as the one reply after the end of data. Long lines are stored as they came: RFC 5321 §4.5.3.1.6
lets a server take more than 1,000 octets, and cutting or refusing them would lose mail.
Not here: reading from the network (`smtp.server`), making it durable (`mta.reception`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from mailserver.mail.address import Address
from mailserver.mail.lines import Decoder
from mailserver.mail.reply import Reply
from mailserver.mail.trace import count_received, was_delivered_to
from mailserver.mta.reception import SPILL, Message
from mailserver.smtp.header import MalformedHeader
from mailserver.smtp.replies import (
    FORWARDED_BEFORE,
    HEADER_TOO_BIG,
    MALFORMED_HEADER,
    TOO_BIG,
    TOO_MANY_HOPS,
)


class Content:
    """The content of `message`, beginning with the trace header this server writes on top.

    `hops`: Received fields it may have at most; `forwarders`: aliases it must not have passed before, with
    any tag, which begins with `delimiter`.
    `complete`, where it is given, makes the header that is stored from the one that came, or raises
    MalformedHeader.
    """

    def __init__(
        self,
        message: Message,
        trace: bytes,
        *,
        dots: bool,
        size_limit: int,
        header_limit: int,
        hops: int,
        forwarders: Collection[Address] = (),
        delimiter: str = "",
        complete: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.message = message
        self.refusal: Reply | None = None
        self.ended = False
        self.smuggling = False
        """Line ends were seen that no conforming client sends: its end of data may never come."""
        self._decoder = Decoder(dots=dots)
        self._size_limit = size_limit
        self._header_limit = header_limit
        self._hops = hops
        self._forwarders = forwarders
        self._delimiter = delimiter
        self._complete = complete
        self._header: bytearray | None = bytearray()
        self._added_wire = _wire_size(trace)
        message.staged.append(trace)

    @property
    def wire_size(self) -> int:
        """Octets of the whole message, trace header included, with CRLF line ends."""
        return self._added_wire + self._decoder.wire_size

    @property
    def wants_spill(self) -> bool:
        return self.refusal is None and self.message.staged.pending > SPILL

    def refuse(self, reply: Reply) -> None:
        """Drop what came and what will come; `reply` is for the end."""
        self.refusal = reply

    def feed(self, block: bytes) -> bytes:
        """Take octets in; returns what follows the end of data (pipelined commands)."""
        content, rest = self._decoder.feed(block)
        self.ended = self._decoder.ended
        self._take(content)
        return rest

    def finish(self) -> None:
        """The last BDAT chunk is in."""
        content = self._decoder.finish()
        self.ended = True
        self._take(content)

    def _take(self, content: bytes) -> None:
        fault = self._decoder.fault
        if fault is not None:
            self.smuggling = True
        if self.refusal is None and self._header is not None:
            content = self._scan_header(self._header, content)
        if self.refusal is not None:
            return
        if fault is not None:
            self.refusal = Reply(554, "5.6.0", f"Message refused: {fault} in its content")
        elif self._decoder.wire_size > self._size_limit:
            self.refusal = TOO_BIG  # RFC 1870 §6.3
        else:
            self.message.staged.append(content)

    def _scan_header(self, gathered: bytearray, content: bytes) -> bytes:
        """Gather the header to its empty line, then look at it; returns what can be staged now.

        Fields are counted and told apart by name, never parsed.
        """
        seen = len(gathered)
        gathered += content
        if gathered.startswith(b"\n"):
            end = 0
        else:
            end = gathered.find(b"\n\n", max(0, seen - 1)) + 1
            if end == 0 and not self.ended:
                if len(gathered) > self._header_limit:
                    self.refusal = HEADER_TOO_BIG
                return b"" if self._complete else content
            end = end or len(gathered)
        self._header = None
        header = gathered[:end]
        self.refusal = self._header_refusal(header)
        if self._complete is None or self.refusal is not None:
            return content
        try:
            completed = self._complete(bytes(header))
        except MalformedHeader:
            self.refusal = MALFORMED_HEADER  # RFC 6409 §8
            return b""
        self._added_wire += _wire_size(completed) - _wire_size(header)
        return completed + gathered[end:]

    def _header_refusal(self, header: bytearray) -> Reply | None:
        if len(header) > self._header_limit:
            return HEADER_TOO_BIG
        if count_received(header) > self._hops:
            return TOO_MANY_HOPS  # RFC 5321 §6.3
        if self._forwarders and was_delivered_to(header, self._forwarders, self._delimiter):
            return FORWARDED_BEFORE
        return None


def _wire_size(text: bytes | bytearray) -> int:
    return len(text) + text.count(b"\n")

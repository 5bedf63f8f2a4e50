"""One message's content while it comes in: decoded, measured, staged, and refused where it must be.

A refused message is read to its end and dropped, so that client and server stay in step; the refusal is
given as the one reply after the end of data. Long lines are stored as they came: RFC 5321 §4.5.3.1.6
lets a server take more than 1,000 octets, and cutting or refusing them would lose mail.
Not here: reading from the network (`smtp.server`), making it durable (`mta.reception`).
"""

from __future__ import annotations

from mailserver.mail.lines import Decoder
from mailserver.mail.reply import Reply
from mailserver.mail.trace import count_received
from mailserver.mta.reception import SPILL, Message

TOO_BIG = Reply(552, "5.3.4", "Message exceeds the fixed maximum size")
HEADER_TOO_BIG = Reply(552, "5.3.4", "Message header is too large")
LOOP = Reply(554, "5.4.6", "Too many hops, this message is going in circles")


class Content:
    """The content of `message`, beginning with the trace header this server writes on top."""

    def __init__(
        self, message: Message, trace: bytes, *, dots: bool, size_limit: int, header_limit: int, hops: int
    ) -> None:
        self.message = message
        self.refusal: Reply | None = None
        self._decoder = Decoder(dots=dots)
        self._size_limit = size_limit
        self._header_limit = header_limit
        self._hops = hops
        self._header: bytearray | None = bytearray()
        self._trace_wire = len(trace) + trace.count(b"\n")
        message.staged.append(trace)

    @property
    def ended(self) -> bool:
        return self._decoder.ended

    @property
    def smuggling(self) -> bool:
        """Whether line ends were seen that no conforming client sends: its end of data may never come."""
        return self._decoder.fault is not None

    @property
    def wire_size(self) -> int:
        """Octets of the whole message, trace header included, with CRLF line ends."""
        return self._trace_wire + self._decoder.wire_size

    @property
    def wants_spill(self) -> bool:
        return self.message.staged.pending > SPILL

    def feed(self, block: bytes) -> bytes:
        """Take octets in; returns what follows the end of data (pipelined commands)."""
        content, rest = self._decoder.feed(block)
        self._take(content)
        return rest

    def finish(self) -> None:
        """The last BDAT chunk is in."""
        self._take(self._decoder.finish())

    def _take(self, content: bytes) -> None:
        if self._header is not None and self.refusal is None:
            self._scan_header(content)
        if self.refusal is None:
            self._judge()
        if self.refusal is None:
            self.message.staged.append(content)

    def _scan_header(self, content: bytes) -> None:
        """Gather the header to its empty line, then count what must be counted; never parse fields."""
        assert self._header is not None
        seen = len(self._header)
        self._header += content
        if self._header.startswith(b"\n"):
            end = 0
        else:
            end = self._header.find(b"\n\n", max(0, seen - 1)) + 1
            if end == 0 and not self.ended:
                if len(self._header) > self._header_limit:
                    self.refusal = HEADER_TOO_BIG
                return
            end = end or len(self._header)
        header, self._header = self._header[:end], None
        if end > self._header_limit:
            self.refusal = HEADER_TOO_BIG
        elif count_received(header) > self._hops:
            self.refusal = LOOP  # RFC 5321 §6.3

    def _judge(self) -> None:
        if self._decoder.fault is not None:
            self.refusal = Reply(554, "5.6.0", f"Message refused: {self._decoder.fault} in its content")
        elif self._decoder.wire_size > self._size_limit:
            self.refusal = TOO_BIG  # RFC 1870 §6.3

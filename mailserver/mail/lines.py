"""Message content on the wire and at rest: CRLF lines and dots outside, LF lines inside.

Content is accepted only if every line ends in CRLF and it holds no NUL, so the LF form at rest turns back
into the very octets that came in, and nothing on the wire is ever taken for an end of data that another
server would not take for one (SMTP smuggling, CVE-2023-51764). Works on blocks, not on lines.
Not here: headers (`mail.trace`), size limits (`smtp.content`), POP3's dot-stuffing (`mailbox.wire`).
"""

from __future__ import annotations

_END = b"\r\n.\r\n"  # RFC 5321 §4.1.1.4: the only end of data
_DOT = _END[:3]  # what it begins with, and a stuffed line
_HELD = tuple(_END[:n] for n in range(len(_END) - 1, 0, -1))  # what may be all there is of it, longest first


class Decoder:
    """From the octets of DATA or BDAT to content at rest, block by block.

    `fault` names the first thing that makes the content unacceptable; decoding goes on, so that the
    session stays in step with its client, and gives what is to be thrown away. `wire_size` counts the octets
    of the content as RFC 1870 §3 does: with CRLF, without stuffed dots and the final dot.
    """

    def __init__(self, *, dots: bool) -> None:
        self.ended = False
        self.fault: str | None = None
        self.wire_size = 0
        self._dots = dots
        self._held = b"\r\n" if dots else b""  # a virtual line end before the first line
        self._virtual = len(self._held)
        self._open_line = False

    def feed(self, block: bytes) -> tuple[bytes, bytes]:
        """Decode a block: the content at rest it completes, and what follows the end of data."""
        data = self._held + block if self._held else block
        dot = data.find(_DOT) if self._dots else -1
        end = data.find(_END, dot) if dot >= 0 else -1
        if end < 0:
            return self._decode(self._hold_back(data), stuffed=dot >= 0), b""
        self.ended = True
        self._held = b""
        return self._decode(data[: end + 2], stuffed=dot < end), data[end + len(_END) :]

    def finish(self) -> bytes:
        """End content that has no dot (BDAT LAST); a last line without CRLF gets its end."""
        data, self._held = self._held, b""
        content = self._decode(data, stuffed=self._dots)
        self.ended = True
        if self._open_line:
            self.wire_size += 2
            content += b"\n"
        return content

    def _hold_back(self, data: bytes) -> bytes:
        """Keep the tail that may be the beginning of an end of data, or of a CRLF, for the next block."""
        held = _HELD if self._dots else _HELD[-1:]
        if not data.endswith(held):
            self._held = b""
            return data
        self._held = next(filter(data.endswith, held))
        return data[: -len(self._held)]

    def _decode(self, data: bytes, *, stuffed: bool) -> bytes:
        if stuffed:
            data = data.replace(_DOT, b"\r\n")  # RFC 5321 §4.5.2
        if self._virtual and data:
            data = data[self._virtual :]
            self._virtual = 0
        if not data:
            return b""
        self.wire_size += len(data)
        self._open_line = data[-1] != 0x0A
        content = data.replace(b"\r", b"")  # that of CRLF takes eight times as long
        if self.fault is None:
            self.fault = _fault(data, content)
        return content


def _fault(data: bytes, content: bytes) -> str | None:
    """What is wrong with `data`, which without any CR is `content`."""
    if content.replace(b"\n", b"\r\n") != data:  # to write it anew is quicker than to count
        return "bare CR" if len(data) - len(content) != data.count(b"\r\n") else "bare LF"
    return "NUL" if b"\0" in content else None

"""A queued message's content on its way out: from LF lines at rest to CRLF lines with dots stuffed.

No bare CR and no bare LF ever leaves, whoever wrote the file, because another server may take one for an
end of data (SMTP smuggling). Works on blocks; the memory taken does not depend on the message's size.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Callable

from mailserver.mail.trace import without_return_path
from mailserver.pool import Pool

BLOCK = 128 * 1024  # octets read at once

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)  # preadv2(2), Linux: what is not in memory is not waited for
_WOULD_WAIT = {errno.EAGAIN, errno.EOPNOTSUPP}


class Encoder:
    """Blocks at rest to blocks on the wire; `finish` ends the last line and gives the end of data."""

    def __init__(self) -> None:
        self._line_start = True
        self._held_cr = False

    def feed(self, block: bytes) -> bytes:
        """What `block` is on the wire (RFC 5321 §2.3.8, §4.5.2)."""
        if self._held_cr or b"\r" in block:
            block = self._without_cr(block)
        if not block:
            return b""
        wire = block.replace(b"\n", b"\r\n").replace(b"\n.", b"\n..")
        if self._line_start and wire[0] == 0x2E:
            wire = b"." + wire
        self._line_start = block[-1] == 0x0A
        return wire

    def finish(self) -> bytes:
        """The end of an open line, and the end of data."""
        rest = self.feed(b"\n") if self._held_cr or not self._line_start else b""
        return rest + b".\r\n"

    def _without_cr(self, block: bytes) -> bytes:
        """CRLF is a line end here too; any other CR becomes a space."""
        block = (b"\r" if self._held_cr else b"") + block
        self._held_cr = block.endswith(b"\r")
        if self._held_cr:
            block = block[:-1]
        return block.replace(b"\r\n", b"\n").replace(b"\r", b" ")


class Content:
    """One message's content; `source` opens it for reading and gives a descriptor (`Delivery.content`).

    It has `size` octets at rest; a file with fewer never gets an end of data.
    `sent` is called just before the end of data is given out.
    """

    def __init__(
        self, source: Callable[[int], int], size: int, pool: Pool, sent: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._size = size
        self._sent = sent
        self._pool = pool
        self.ended = False  # whether `blocks` has given out the end of data

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """The content on the wire with the end of data in its last block. Raises OSError and Busy.

        No descriptor lives from one block to the next: there is none to lose when the attempt is cancelled.
        """
        self.ended = False
        encoder = Encoder()
        offset = 0
        while len(block := await self._block(offset)) == BLOCK:
            yield encoder.feed(self._outgoing(block, offset))
            offset += BLOCK
        self.ended = True
        self._sent()
        yield encoder.feed(self._outgoing(block, offset)) + encoder.finish()

    async def has_8bit(self) -> bool:
        """Whether any octet is above 127. Raises OSError and Busy."""
        return await self._pool.run(self._scan, False)

    async def has_8bit_header(self) -> bool:
        """Whether the header has an octet above 127. Raises OSError and Busy."""
        return await self._pool.run(self._scan, True)

    async def _block(self, offset: int) -> bytes:
        """BLOCK octets from `offset` on, fewer at the end of the content.

        What the system has in memory, as it has new mail, is read at once: a thread for it cost a tenth of
        all the queue does for a message. What it would have to wait for is a thread's work.
        """
        if _NOWAIT:
            try:
                return self._read(offset, _NOWAIT)
            except OSError as error:
                if error.errno not in _WOULD_WAIT:
                    raise
        return await self._pool.run(self._read, offset)

    def _read(self, offset: int, flags: int = 0) -> bytes:
        fd = self._source(flags)
        try:
            block = bytearray(min(BLOCK, self._size - offset))
            got = 0
            while got < len(block) and (
                more := os.preadv(fd, [memoryview(block)[got:]], offset + got, flags)
            ):
                got += more
        finally:
            os.close(fd)
        if got < len(block):
            raise OSError(errno.EIO, "The content is cut")
        return bytes(block)

    def _outgoing(self, block: bytes, offset: int) -> bytes:
        return without_return_path(block) if offset == 0 else block

    def _scan(self, header_only: bool) -> bool:
        tail = b"\n"
        left = self._size  # what follows is not of the content
        with open(self._source(0), "rb", buffering=0) as file:
            while block := file.read(min(BLOCK, left)):
                left -= len(block)
                end = (tail + block).find(b"\n\n") if header_only else -1
                if end >= 0:
                    return not block[:end].isascii()
                if not block.isascii():
                    return True
                tail = block[-1:]
        return False

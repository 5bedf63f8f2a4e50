"""The wire form of a message (RFC 5322 §2.1): every line ends in CRLF, the last one too.

Messages rest with LF line ends, or as another program wrote them: CRLF and mixtures. CR LF and LF both
become CR LF; a CR that is not before LF is content. A codec: no files, no sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

BLOCK = 256 * 1024


def blocks(read: Callable[[int], bytes], *, dot_stuffed: bool = False, size: int = BLOCK) -> Iterator[bytes]:
    """The wire form of what `read(octets)` returns until it is empty, in one pass and bounded memory.

    `dot_stuffed`: a further dot before each line that begins with one (RFC 1939 §3); the end mark is the
    caller's. CR LF never stands across two blocks.
    """
    held = b""  # a CR at the end of a block: the next one tells whether it belongs to a line end
    line_start = True
    while chunk := read(size):
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if b"\r" in data:  # looking for one octet costs a hundredth of looking for two
            data = data.replace(b"\r\n", b"\n")
        if not data:
            continue
        yield (_stuff(data, line_start) if dot_stuffed else data).replace(b"\n", b"\r\n")
        line_start = data.endswith(b"\n")
    if held or not line_start:
        yield held + b"\r\n"


def whole(content: bytes, size: int) -> bytes | None:
    """The wire form, dot-stuffed, of a message held as a whole: what `blocks` makes of it, in fewer steps.

    None where it has not `size` octets before stuffing, with or without the end of a last line that lacks it:
    then `content` is not all of the message, or the message is not what it was.
    """
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n")
    form = content.replace(b"\n", b"\r\n")
    stored = len(form)
    if form and not form.endswith(b"\n"):
        form += b"\r\n"
    return _stuff(form, True) if size in (stored, len(form)) else None


def length(read: Callable[[int], bytes]) -> int:
    """Octets of the wire form, without dot-stuffing."""
    return sum(map(len, blocks(read)))


def _stuff(data: bytes, line_start: bool) -> bytes:
    if b"." in data:  # attachments in base64 have none
        data = data.replace(b"\n.", b"\n..")
    return b"." + data if line_start and data.startswith(b".") else data

"""A message as programs write it, made fit for SMTP: line ends, NUL, the empty line below the header, and
the one field that may be missing.

It rests in a temporary file meanwhile, so its writer may be slow and it may be large. Not here: what the
server makes of its header (`smtp.header`).
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from email.utils import getaddresses
from typing import BinaryIO, Self

from mailserver.cli.sendmail.failed import Code, Failed

BLOCK = 64 * 1024
IN_MEMORY = 1 << 20  # octets
MOST = 1 << 30  # octets that are read; the server's own limit is lower
HEADER = 1 << 20  # octets of a header that is looked at

_RECIPIENTS = ("to", "cc", "bcc")
_BCC = re.compile(rb"^\W*(?:resent-)?bcc\s*:", re.IGNORECASE | re.MULTILINE)


class Letter:
    """The content, once it was read. Use as a context, or its file stays open."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed with this
        self._header = b""
        self._lacks_empty_line = False
        self.is_ascii = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, stream: BinaryIO, *, dots: bool) -> None:
        """Read `stream` to its end, or to a lone dot where `dots` end it. Raises Failed, OSError."""
        size = 0
        for block in _clean(_lines(stream, dots=dots)):
            size += len(block)
            if size > MOST:
                raise Failed(Code.DATA, "the message is too large")
            self.is_ascii = self.is_ascii and block.isascii()
            self._file.write(block)
        self._file.seek(0)
        beginning = self._file.read(HEADER)
        self._header = _header(beginning)
        text = beginning[len(self._header) :].partition(b"\n\n")[0]
        self._lacks_empty_line = text[:1] not in (b"", b"\n") and not _BCC.search(text)

    def recipients(self) -> list[str]:
        """The addresses in To, Cc and Bcc; those of a resent message if it is one. Raises Failed."""
        fields = self._fields()
        resent = [value for name, value in fields if name in {f"resent-{kind}" for kind in _RECIPIENTS}]
        values = resent or [value for name, value in fields if name in _RECIPIENTS]
        return [address for value in values for address in _addresses(value)]

    def has(self, name: str) -> bool:
        return any(found == name for found, _ in self._fields())

    def encoded(self, first: bytes = b"") -> Iterator[bytes]:
        """The octets of SMTP's DATA after `first`, a field: CRLF, dots stuffed, the end marked.

        Text that follows the header at once is parted from it, as scripts expect; but where Bcc is in it,
        it was meant for the header, and the server refuses it.
        """
        self._file.seek(0)
        start, position = True, 0
        yield first
        while block := self._file.readline(BLOCK):
            if self._lacks_empty_line and position == len(self._header):
                yield b"\r\n"
            position += len(block)
            dot = b"." if start and block.startswith(b".") else b""
            start = block.endswith(b"\n")
            yield dot + (block[:-1] + b"\r\n" if start else block)
        yield b".\r\n" if start else b"\r\n.\r\n"

    def _fields(self) -> list[tuple[str, str]]:
        """Names in lower case and unfolded values."""
        found: list[tuple[str, str]] = []
        for line in self._header.decode(errors="replace").split("\n"):
            if line[:1] in (" ", "\t") and found:
                found[-1] = found[-1][0], f"{found[-1][1]} {line.strip()}"
            else:
                name, _, value = line.partition(":")
                found.append((name.strip().lower(), value.strip()))
        return found


def _addresses(value: str) -> list[str]:
    found = [address for _, address in getaddresses([value]) if address]
    if not found and value and not value.endswith(";"):  # a group may be empty
        raise Failed(Code.DATA, "the recipients in the header cannot be read")
    return found


def _header(beginning: bytes) -> bytes:
    """The lines up to the first that is no field."""
    end = 0
    for line in beginning.splitlines(keepends=True):
        name = line.partition(b":")[0].rstrip(b" \t")
        is_field = b":" in line and name.isascii() and name and all(33 <= octet <= 126 for octet in name)
        if not (is_field or (end and line[:1] in (b" ", b"\t"))):
            break
        end += len(line)
    return beginning[:end]


def _lines(stream: BinaryIO, *, dots: bool) -> Iterator[bytes]:
    """Lines and parts of long ones, without the first line of a message from a mailbox file."""
    start = True
    block = stream.readline(BLOCK)
    if block.startswith(b"From "):
        block = stream.readline(BLOCK)
    while block:
        if dots and start and block.rstrip(b"\r\n") == b".":
            return
        start = block.endswith(b"\n")
        yield block
        block = stream.readline(BLOCK)


def _clean(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """LF alone ends lines, as a lone CR does on a terminal; NUL is left out: no server takes it."""
    held = b""
    for block in blocks:
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""
        block = block[: len(block) - len(held)]
        yield block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\0", b"")
    if held:
        yield b"\n"

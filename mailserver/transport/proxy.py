"""The PROXY protocol, versions 1 and 2 (HAProxy, "The PROXY protocol", 2020): a codec, no sockets.

A proxy sends one header before the client's own octets, which says who the client is. `parse` looks at
what has come so far. Not here: whom to believe, and how the octets are read (`listener`).
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

MAX_V1 = 107  # octets with CRLF, §2.1
MAX_V2 = 4096  # octets after the fixed part; the specification allows 65,535, nobody needs them
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16
_TCP4, _TCP6 = 0x11, 0x21


class ProxyError(ValueError):
    """The octets can never become a header."""


class Header(NamedTuple):
    """A whole header: its length in octets, and the client, or None to keep the peer of the socket."""

    length: int
    source: tuple[str, int] | None


def parse(data: bytes) -> Header | None:
    """The header at the start of `data`; None while it is incomplete, and then all of `data` belongs to it.

    Raises ProxyError, at the first octet that makes a header impossible.
    """
    if data.startswith(_V1):
        return _version_1(data)
    if data.startswith(_V2):
        return _version_2(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise ProxyError("neither version's signature")


def _version_1(data: bytes) -> Header | None:
    end = data.find(b"\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ProxyError("line too long")
        return None
    line = data[:end]
    if not line.endswith(b"\r") or not line.isascii():
        raise ProxyError("no ASCII line that ends with CRLF")
    words = line[:-1].decode("ascii").split(" ")
    if words[1] == "UNKNOWN":  # §2.1: the rest of the line is to be ignored
        return Header(end + 1, None)
    if words[1] not in ("TCP4", "TCP6") or len(words) != 6:
        raise ProxyError("not six words of TCP4 or TCP6")
    version = 4 if words[1] == "TCP4" else 6
    source, _ = _address(words[2], version), _address(words[3], version)
    port, _ = _port(words[4]), _port(words[5])
    return Header(end + 1, (source, port))


def _address(text: str, version: int) -> str:
    try:
        if version == 4:
            return str(ipaddress.IPv4Address(text))
        if "%" in text:
            raise ProxyError("an address with a zone")
        return str(ipaddress.IPv6Address(text))
    except ipaddress.AddressValueError:
        raise ProxyError("no address of the family it names") from None


def _port(text: str) -> int:
    if not text.isdigit() or len(text) > 5 or int(text) > 65535 or (text[0] == "0" and text != "0"):
        raise ProxyError("no port")
    return int(text)


def _version_2(data: bytes) -> Header | None:
    if len(data) > 12 and data[12] not in (0x20, 0x21):  # §2.2: version 2, LOCAL or PROXY
        raise ProxyError("unknown version or command")
    if len(data) < _V2_FIXED:
        return None
    length = int.from_bytes(data[14:16], "big")
    if length > MAX_V2:
        raise ProxyError("header too long")
    if len(data) < _V2_FIXED + length:
        return None
    total = _V2_FIXED + length
    return Header(total, _source(data[13], data[_V2_FIXED:total]) if data[12] == 0x21 else None)


def _source(family: int, block: bytes) -> tuple[str, int] | None:
    """The client of a PROXY command; unspecified, UNIX and datagram ones keep the peer of the socket."""
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if size is None:
        return None
    if len(block) < 2 * size + 4:
        raise ProxyError("address block too short")
    port = int.from_bytes(block[2 * size : 2 * size + 2], "big")
    return str(ipaddress.ip_address(block[:size])), port

"""The PROXY codec: every form, every cut, and bounds on everything else."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.transport.proxy import MAX_V1, MAX_V2, Header, ProxyError, parse

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 1]) + (40000).to_bytes(2, "big") + (25).to_bytes(2, "big")
V6 = (
    ipaddress.ip_address("2001:db8::1").packed
    + ipaddress.ip_address("2001:db8::2").packed
    + (40000).to_bytes(2, "big")
    + (25).to_bytes(2, "big")
)


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + len(block).to_bytes(2, "big") + block


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 25\r\n", ("192.0.2.1", 40000)),
        (b"PROXY TCP6 2001:db8:0::1 2001:db8::2 0 25\r\n", ("2001:db8::1", 0)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff:f::1 anything at all\r\n", None),
        (v2(1, 0x11, V4), ("192.0.2.1", 40000)),
        (v2(1, 0x21, V6), ("2001:db8::1", 40000)),
        (v2(1, 0x11, V4 + b"\x04\x00\x01x" * 100), ("192.0.2.1", 40000)),  # with TLVs
        (v2(0, 0x11, V4), None),  # LOCAL
        (v2(0, 0x00, b""), None),
        (v2(1, 0x00, b""), None),  # unspecified
        (v2(1, 0x31, bytes(216)), None),  # UNIX
        (v2(1, 0x12, V4), None),  # datagrams
    ],
)
def test_every_form_and_every_cut(data, source):
    for end in range(len(data)):
        assert parse(data[:end]) is None, end
    assert parse(data) == Header(len(data), source)
    assert parse(data + b"\x16\x03\x01") == Header(len(data), source)


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO x\r\n",
        b"\x16\x03\x01\x02",
        b"PROXY\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 25\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 25 \r\n",
        b"PROXY  TCP4 192.0.2.1 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.1 40000 25\r\n",
        b"PROXY TCP4 ::1 ::1 40000 25\r\n",
        b"PROXY TCP6 fe80::1%lo ::1 40000 25\r\n",
        b"PROXY TCP6 192.0.2.1 ::1 40000 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 025 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 -1 25\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.1 1 25\r\n",
        b"PROXY UNKNOWN \xff\r\n",
        b"PROXY UNKNOWN" + b" " * MAX_V1,
        v2(2, 0x11, V4),
        SIGNATURE + b"\x11\x11\x00\x00",
        v2(1, 0x11, V4[:-1]),
        v2(1, 0x21, V4),
        v2(1, 0x00, bytes(MAX_V2 + 1)),
    ],
)
def test_refused(data):
    with pytest.raises(ProxyError):
        parse(data)


def test_longest_line():
    line = b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n"
    assert len(line) == MAX_V1
    assert parse(line) == Header(MAX_V1, None)


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=50))
def test_round_trip(address, source_port, port, rest):
    family = f"TCP{address.version}"
    line = f"PROXY {family} {address} {address} {source_port} {port}\r\n".encode()
    assert parse(line + rest) == Header(len(line), (str(address), source_port))
    block = address.packed * 2 + source_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    header = v2(1, 0x11 if address.version == 4 else 0x21, block + rest)
    assert parse(header + rest) == Header(len(header), (str(address), source_port))


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11", b"PROXY TCP4 "]), st.binary())
def test_anything_is_decided_within_bounds(start, tail):
    try:
        header = parse(start + tail + bytes(16 + MAX_V2))
    except ProxyError:
        return
    assert header is not None
    assert header.length <= 16 + MAX_V2

"""Whether an address is this machine's own: mail sent there would come back to us."""

from __future__ import annotations

import ipaddress
import socket


def is_ours(address: str) -> bool:
    """Whether the numeric `address` is one of this machine. Sends nothing, does not block."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(ip), 9))  # no packet: it only chooses the address we would speak from
        except OSError:
            return False
        return str(probe.getsockname()[0]) == str(ip)  # one speaks with oneself from the same address

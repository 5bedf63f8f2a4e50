"""DNS for mail that leaves: a small port, and its implementation on dnspython's asynchronous stub resolver.

The port tells apart what mail must tell apart: no such domain (never), trouble (later), nothing of that kind.
`secure` is said only of answers that a validating resolver on this very machine vouches for (the AD bit):
from anywhere else the bit proves nothing. Not here: what the answers mean for mail (`delivery.mx`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.resolver

T = TypeVar("T")

LIFETIME = 20.0  # seconds for one question, all nameservers and repetitions together
RECORDS = 100  # of one answer that are looked at
PAYLOAD = 1232  # octets; more may be fragmented on its way (RFC 9715)

_RESOLV_CONF = "/etc/resolv.conf"
_IMPOSSIBLE = (dns.name.NameTooLong, dns.name.LabelTooLong, dns.name.EmptyLabel)


class NoSuchDomain(Exception):
    """The name does not exist, for sure."""


class ResolverTrouble(Exception):
    """No answer that could be relied on: a failing or silent nameserver. Another time it may be known."""


class Found(NamedTuple, Generic[T]):
    """The records of one kind, perhaps none; `name` is the one they stand at, after aliases (CNAME)."""

    values: tuple[T, ...]
    name: str
    secure: bool = False


class Mx(NamedTuple):
    """A mail exchanger: lower `preference` first; `host` empty: this domain takes no mail (RFC 7505).

    What stands in the DNS need not be a host name: look before use.
    """

    preference: int
    host: str


class Tlsa(NamedTuple):
    """What a certificate must match (RFC 6698 §2.1)."""

    usage: int
    selector: int
    matching: int
    data: bytes


class Resolver(Protocol):
    """Each call raises NoSuchDomain or ResolverTrouble. Names are A-labels without a final dot."""

    async def mx(self, domain: str) -> Found[Mx]:
        """The mail exchangers of a domain, in no order."""

    async def addresses(self, host: str) -> Found[str]:
        """IPv6 and IPv4 addresses of a host, in turn; `secure` if all of them are."""

    async def tlsa(self, name: str) -> Found[Tlsa]:
        """The TLSA records at a name such as `_25._tcp.mx.example.org`."""

    async def txt(self, name: str) -> Found[str]:
        """The texts at a name, their pieces joined."""


class DnsResolver:
    """Asks `nameservers` (numeric address and port), or those of /etc/resolv.conf, which may change."""

    def __init__(
        self, nameservers: Sequence[tuple[str, int]] | None = None, lifetime: float = LIFETIME
    ) -> None:
        self._fixed = nameservers
        self._lifetime = lifetime
        self._version: tuple[int, int] | None = None
        self._stub: dns.asyncresolver.Resolver | None = None
        self._trusted = False

    async def mx(self, domain: str) -> Found[Mx]:
        found = await self._ask(domain, "MX")
        records = (Mx(int(record.preference), _text(record.exchange)) for record in found.values)
        return found._replace(values=tuple(records))

    async def addresses(self, host: str) -> Found[str]:
        kinds = (self._ask(host, "AAAA"), self._ask(host, "A"))
        answers = await asyncio.gather(*kinds, return_exceptions=True)
        good = [found for found in answers if isinstance(found, Found) and found.values]
        if not good:
            for error in sorted(answers, key=lambda answer: isinstance(answer, NoSuchDomain)):
                if isinstance(error, BaseException):
                    raise error  # trouble before "no such domain": it may hide an address
            return Found((), host)
        in_turn = [
            str(record.address)
            for pair in zip_longest(*(found.values for found in good))
            for record in pair
            if record
        ]
        return Found(tuple(in_turn), good[0].name, all(found.secure for found in good))

    async def tlsa(self, name: str) -> Found[Tlsa]:
        found = await self._ask(name, "TLSA")
        records = (Tlsa(record.usage, record.selector, record.mtype, record.cert) for record in found.values)
        return found._replace(values=tuple(records))

    async def txt(self, name: str) -> Found[str]:
        found = await self._ask(name, "TXT")
        texts = (b"".join(record.strings).decode("ascii", "replace") for record in found.values)
        return found._replace(values=tuple(texts))

    async def _ask(self, name: str, kind: str) -> Found[Any]:
        """The first RECORDS records of one kind, as dnspython has them."""
        try:
            asked = dns.name.from_text(f"{name}.")
            answer = await self._current().resolve(asked, kind, search=False, raise_on_no_answer=False)
        except (dns.resolver.NXDOMAIN, *_IMPOSSIBLE):
            raise NoSuchDomain(name) from None
        except (dns.exception.DNSException, OSError) as error:
            raise ResolverTrouble(f"{name}: {type(error).__name__}") from None
        secure = self._trusted and bool(answer.response.flags & dns.flags.AD)
        records = tuple(answer.rrset)[:RECORDS] if answer.rrset is not None else ()
        return Found(records, _text(answer.canonical_name), secure)

    def _current(self) -> dns.asyncresolver.Resolver:
        """The stub resolver for the configuration as it is now. Raises OSError and DNSException."""
        version = self._file_version()
        if self._stub is None or version != self._version:
            stub = dns.asyncresolver.Resolver(_RESOLV_CONF, configure=self._fixed is None)
            if self._fixed is not None:
                stub.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in self._fixed]
            stub.lifetime = self._lifetime
            stub.use_edns(0, 0, PAYLOAD)
            stub.set_flags(dns.flags.RD | dns.flags.AD)  # RFC 6840 §5.7: asks for the AD bit
            self._trusted = all(_is_loopback(server) for server in stub.nameservers)
            self._stub, self._version = stub, version
        return self._stub

    def _file_version(self) -> tuple[int, int] | None:
        """What changes with resolv.conf: a laptop moves, a machine at home gets its address late."""
        if self._fixed is not None:
            return None
        status = os.stat(_RESOLV_CONF)
        return status.st_ino, status.st_mtime_ns


def _is_loopback(server: str | dns.nameserver.Nameserver) -> bool:
    address = server.address if isinstance(server, dns.nameserver.Do53Nameserver) else server
    try:
        return ipaddress.ip_address(str(address)).is_loopback
    except ValueError:
        return False


def _text(name: dns.name.Name) -> str:
    """A name in lower case without its final dot; the root is empty."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""

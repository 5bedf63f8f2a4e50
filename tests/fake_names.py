"""DNS answers from tables, for what asks `transport.resolver.Resolver`."""

from __future__ import annotations

from typing import Any

from mailserver.transport.resolver import Found, Mx, NoSuchDomain, ResolverTrouble, Tlsa

TROUBLE = ResolverTrouble("fake")


class FakeNames:
    """What is not in the tables does not exist. A value may be an exception; `secure` names are signed."""

    def __init__(self) -> None:
        self.mxs: dict[str, Any] = {}
        self.hosts: dict[str, Any] = {}
        self.tlsas: dict[str, Any] = {}
        self.txts: dict[str, Any] = {}
        self.secure: set[str] = set()
        self.asked: list[str] = []

    def _find(self, table: dict[str, Any], name: str) -> Found[Any]:
        self.asked.append(name)
        if name not in table:
            raise NoSuchDomain(name)
        values = table[name]
        if isinstance(values, Exception):
            raise values
        return Found(tuple(values), name, name in self.secure)

    async def mx(self, domain: str) -> Found[Mx]:
        found = self._find({**dict.fromkeys(self.hosts, ()), **self.mxs}, domain)
        return found._replace(values=tuple(Mx(*value) for value in found.values))

    async def addresses(self, host: str) -> Found[str]:
        return self._find({**dict.fromkeys(self.mxs, ()), **self.hosts}, host)

    async def tlsa(self, name: str) -> Found[Tlsa]:
        return self._find(self.tlsas, name)

    async def txt(self, name: str) -> Found[str]:
        return self._find(self.txts, name)

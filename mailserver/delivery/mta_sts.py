"""MTA-STS (RFC 8461): a domain's promise, fetched over HTTPS, that its hosts can prove who they are.

Policies are remembered in memory for as long as they say, at most `POLICIES` of them. What cannot be
fetched leaves what is known in force. Not here: what a policy means for a host (`delivery.mx`).
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import NamedTuple

from mailserver import maillog
from mailserver.transport.resolver import NoSuchDomain, Resolver, ResolverTrouble

POLICIES = 1000
HOSTS = 50  # `mx` lines of one policy
AGE = 31_557_600  # seconds, §3.2
RETRY = 300.0  # seconds before a policy that could not be fetched is asked for again
SIZE = 64 * 1024  # octets of a policy, §3.3

_RECORD = re.compile(r"v=STSv1\s*;(.*)", re.DOTALL)
_ID = re.compile(r"(?:^|;)\s*id\s*=\s*([A-Za-z0-9]{1,32})\s*(?:;|$)")
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_.-]{1,255}")


class PolicyError(Exception):
    """No policy can be had; the text says why, for the log."""


class Mode(Enum):
    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class Policy(NamedTuple):
    """`hosts` are names and `*.` patterns in lower case; `max_age` is in seconds."""

    mode: Mode
    hosts: tuple[str, ...]
    max_age: int

    def allows(self, host: str) -> bool:
        """Whether `host` is one of the domain's (§4.1): a wildcard stands for one whole label."""
        return host in self.hosts or f"*.{host.partition('.')[2]}" in self.hosts


Fetch = Callable[[str], Awaitable[bytes]]
"""The policy text of a domain. Raises PolicyError."""


class _Known(NamedTuple):
    id: str
    policy: Policy | None  # None: it could not be fetched
    until: float
    retry: float = 0.0  # when a newer one that could not be fetched may be asked for again


class Policies:
    """The policies of the domains mail goes to. `clock` is monotonic."""

    def __init__(self, resolver: Resolver, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def policy(self, domain: str) -> Policy | None:
        """The policy in force, None if there is none. Never raises."""
        known = self._recall(domain)
        current = await self._current_id(domain)
        is_new = current is not None and (known is None or known.id != current)
        if is_new and (known is None or known.retry <= self._clock()):
            known = await self._renew(domain, current or "", known)
        return known.policy if known else None

    def _recall(self, domain: str) -> _Known | None:
        known = self._known.get(domain)
        if known is None or known.until <= self._clock():
            self._known.pop(domain, None)
            return None
        self._known.move_to_end(domain)
        return known

    async def _current_id(self, domain: str) -> str | None:
        try:
            found = await self._resolver.txt(f"_mta-sts.{domain}")
        except (NoSuchDomain, ResolverTrouble):
            return None
        return parse_record(found.values)

    async def _renew(self, domain: str, current: str, known: _Known | None) -> _Known:
        """Fetch the policy; where that fails, a known one stays in force to its end (§5.1)."""
        try:
            policy = parse_policy(await self._fetch(domain))
            fresh = _Known(current, policy, self._clock() + policy.max_age)
        except PolicyError as error:
            maillog.event("mta-sts-trouble", domain=domain, error=error)
            retry = self._clock() + RETRY
            fresh = known._replace(retry=retry) if known else _Known(current, None, retry)
        self._known[domain] = fresh
        self._known.move_to_end(domain)
        while len(self._known) > POLICIES:
            self._known.popitem(last=False)
        return fresh


def parse_record(texts: tuple[str, ...]) -> str | None:
    """The policy's id in the TXT records at `_mta-sts.<domain>`; None without exactly one (§3.1)."""
    records = [match[1] for text in texts if (match := _RECORD.match(text))]
    found = _ID.search(records[0]) if len(records) == 1 else None
    return found[1] if found else None


def parse_policy(data: bytes) -> Policy:
    """The policy in a text of `key: value` lines (§3.2); a repeated key counts once. Raises PolicyError."""
    values: dict[str, str] = {}
    hosts: list[str] = []
    for line in data.decode("utf-8", "replace").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "mx" and len(hosts) < HOSTS and _HOST.fullmatch(value):
            hosts.append(value.lower().rstrip("."))
        values.setdefault(key, value)
    try:
        mode = Mode(values.get("mode"))
        age = int(values["max_age"])
    except (ValueError, KeyError):
        raise PolicyError("the policy has no mode or max_age") from None
    if values.get("version") != "STSv1" or age < 0 or (not hosts and mode is not Mode.NONE):
        raise PolicyError("the policy is incomplete")
    return Policy(mode, tuple(hosts), min(age, AGE))

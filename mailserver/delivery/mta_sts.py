"""MTA-STS (RFC 8461): a domain's promise, fetched over HTTPS, that its hosts can prove who they are.

Policies are remembered for as long as they say, over restarts too (§3.3), at most `POLICIES` of them. What
cannot be fetched leaves what is known in force. Not here: the file (`delivery.policy_file`), what a policy
means for a host (`delivery.mx`).
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

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


class KeepError(Exception):
    """Policies cannot be stored, or read; the text is a word for the log."""


class Kept(NamedTuple):
    """A policy as it outlives the process: of whom, with which id, until when in UNIX time."""

    domain: str
    id: str
    policy: Policy
    expires: float


class Keeper(Protocol):
    """Where policies are between two lives of the server."""

    def load(self) -> Awaitable[list[Kept]]:
        """Raises KeepError."""

    def store(self, policies: Sequence[Kept]) -> Awaitable[None]:
        """Raises KeepError."""


class _Known(NamedTuple):
    id: str
    policy: Policy | None  # None: it could not be fetched
    until: float
    retry: float = 0.0  # when a newer one that could not be fetched may be asked for again


class Policies:
    """The policies of the domains mail goes to. `clock` is monotonic, `wall` gives UNIX time."""

    def __init__(
        self,
        resolver: Resolver,
        fetch: Fetch,
        clock: Callable[[], float] = time.monotonic,
        keeper: Keeper | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._fetch = fetch
        self._clock = clock
        self._wall = wall
        self._keeper = keeper
        self._loading = asyncio.Lock()
        self._is_loaded = keeper is None
        self._is_stored = True
        self._storing: asyncio.Task[None] | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def policy(self, domain: str) -> Policy | None:
        """The policy in force, None if there is none. Never raises."""
        if not self._is_loaded:
            await self._load()
        known = self._recall(domain)
        current = await self._current_id(domain)
        is_new = current is not None and (known is None or known.id != current)
        if is_new and (known is None or known.retry <= self._clock()):
            known = await self._renew(domain, current or "", known)
        return known.policy if known else None

    async def close(self) -> None:
        """Wait until what is known is stored."""
        if self._storing is not None:
            await self._storing

    async def _load(self) -> None:
        async with self._loading:
            if self._is_loaded or self._keeper is None:
                return
            try:
                found = await self._keeper.load()
            except KeepError as error:  # once more with the next message
                maillog.event("mta-sts-not-kept", error=error)
                return
            self._is_loaded = True
        now, wall = self._clock(), self._wall()
        for domain, id_, policy, expires in found:
            left = min(expires - wall, policy.max_age)  # a clock that was set back makes none last longer
            if left > 0:
                self._known[domain] = _Known(id_, policy, now + left)

    def _store(self) -> None:
        """Store what is known, off the loop; changes that come meanwhile are stored together."""
        self._is_stored = False
        if self._keeper is not None and self._is_loaded and (self._storing is None or self._storing.done()):
            self._storing = asyncio.get_running_loop().create_task(self._write(self._keeper))

    async def _write(self, keeper: Keeper) -> None:
        while not self._is_stored:
            self._is_stored = True
            now, wall = self._clock(), self._wall()
            try:
                await keeper.store(
                    [
                        Kept(domain, known.id, known.policy, wall + known.until - now)
                        for domain, known in self._known.items()
                        if known.policy is not None and known.until > now
                    ]
                )
            except KeepError as error:  # with the next change
                maillog.event("mta-sts-not-kept", error=error)

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
        self._remember(domain, fresh)
        if fresh.policy is not None and not fresh.retry:
            self._store()
        return fresh

    def _remember(self, domain: str, fresh: _Known) -> None:
        self._known[domain] = fresh
        self._known.move_to_end(domain)
        while len(self._known) > POLICIES:
            self._known.popitem(last=False)


def is_policy_id(text: str) -> bool:
    """Whether `text` can be a policy's id (§3.1)."""
    return re.fullmatch(r"[A-Za-z0-9]{1,32}", text) is not None


def is_host(text: str) -> bool:
    """Whether `text` can be a host of a policy, in the form that is kept."""
    return _HOST.fullmatch(text) is not None and text == text.lower().rstrip(".")


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

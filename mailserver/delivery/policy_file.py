"""The MTA-STS policies that are known, in a file: a restart is no way to make this server forget them.

One line of JSON, replaced as a whole, read once. Not here: which policies are in force (`delivery.mta_sts`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from mailserver import maillog
from mailserver.delivery.mta_sts import AGE, POLICIES, KeepError, Kept, Mode, Policy, is_host, is_policy_id
from mailserver.durable.files import replace
from mailserver.mail.address import AddressError, canonical_domain
from mailserver.pool import Busy, Pool

SIZE = 16 << 20  # octets that are read: as many policies as are remembered, of the longest there are


class _Line(msgspec.Struct, frozen=True):
    domain: str
    id: str
    mode: Mode
    hosts: tuple[str, ...]
    max_age: int
    expires: float


class PolicyFile:
    """The file at `path` (`mta_sts.Keeper`); it is read and written in a thread of `pool`."""

    def __init__(self, path: str, pool: Pool) -> None:
        self._path = path
        self._pool = pool

    async def load(self) -> list[Kept]:
        """What was stored last; what are no policies is left out. Raises KeepError."""
        try:
            lines = _decoder.decode(await self._pool.run(self._read))
        except FileNotFoundError:
            return []
        except (OSError, Busy) as error:
            raise KeepError(type(error).__name__) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            maillog.event("mta-sts-not-kept", error="malformed")
            return []
        return [_kept(line) for line in lines[-POLICIES:] if _is_sound(line)]

    async def store(self, policies: Sequence[Kept]) -> None:
        """Replace what is stored. Raises KeepError."""
        lines = [
            _Line(domain, id_, policy.mode, policy.hosts, policy.max_age, expires)
            for domain, id_, policy, expires in policies
        ]
        try:
            await self._pool.run(replace, self._path, msgspec.json.encode(lines) + b"\n")
        except (OSError, Busy) as error:
            raise KeepError(type(error).__name__) from None

    def _read(self) -> bytes:
        with os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read(SIZE)


def _kept(line: _Line) -> Kept:
    return Kept(line.domain, line.id, Policy(line.mode, line.hosts, line.max_age), line.expires)


def _is_sound(line: _Line) -> bool:
    try:
        name = canonical_domain(line.domain)
    except AddressError:
        return False
    return (
        name == line.domain
        and is_policy_id(line.id)
        and 0 <= line.max_age <= AGE
        and all(map(is_host, line.hosts))
        and (bool(line.hosts) or line.mode is Mode.NONE)
    )


_decoder = msgspec.json.Decoder(list[_Line])

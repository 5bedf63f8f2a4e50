"""Finds what brings mail nowhere: aliases and catch-alls with unknown targets, circles, names of users.

Not here: the form of an alias's file (`directory.aliases`), following one for a message (`mta.routing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from mailserver.config.load import Problem
from mailserver.directory.database import ALIASES, Directory
from mailserver.directory.entries import Domain
from mailserver.directory.names import encode
from mailserver.mail.address import Address, fold_local, parse_mailbox

_MAX_STEPS = 1000  # aliases one after the other, as many as are followed for a message


def astray(
    directory: Directory, domain: str, delimiter: str, progress: Callable[[int, int], None]
) -> Iterator[Problem]:
    """The aliases and the catch-all of a domain that lead nowhere. Raises Missing, Unavailable, OSError."""
    ours = directory.domain(domain)
    if ours is not None and ours.catch_all is not None:
        target = parse_mailbox(ours.catch_all)
        exists = is_somebody if target.domain == ours.name else is_taken
        if not exists(directory, target, delimiter):
            file = os.path.join(ours.directory, "domain.toml")
            yield Problem(file, "catch_all", f"no user or alias {target}")
    keys = sorted(directory.aliases(domain)) if ours is not None else []
    for done, key in enumerate(keys):
        progress(done, len(keys))
        if ours is not None:
            yield from _of(directory, ours, key, delimiter)


def _of(directory: Directory, ours: Domain, key: str, delimiter: str) -> Iterator[Problem]:
    file = os.path.join(ours.directory, ALIASES, encode(key))
    if directory.user(ours.name, key) is not None:
        yield Problem(file, "", "not used: a user has this name")
        return
    targets = directory.alias(ours.name, key) or ()
    unknown = [target for target in targets if not is_taken(directory, target, delimiter)]
    for target in unknown:
        yield Problem(file, str(target), "no such user or alias")
    if not unknown and not _arrives(directory, Address(key, ours.name)):
        yield Problem(file, "", "leads back to itself and to nobody")


def _arrives(directory: Directory, start: Address) -> bool:
    """Whether any way from an alias ends at something else than an alias."""
    seen: set[Address] = set()
    left = [start]
    while left and len(seen) < _MAX_STEPS:
        address = left.pop()
        if address in seen:
            continue
        seen.add(address)
        targets = directory.alias(address.domain, address.local)
        if targets is None or directory.user(address.domain, address.local) is not None:
            return True
        left += [Address(fold_local(target.local), target.domain) for target in targets]
    return False


def is_taken(directory: Directory, target: Address, delimiter: str) -> bool:
    """Whether mail for a target is taken: by somebody, by a catch-all, or by another host."""
    domain = directory.domain(target.domain)
    if domain is None or domain.catch_all or domain.postmaster_gets_undeliverable:
        return True
    return is_somebody(directory, target, delimiter)


def is_somebody(directory: Directory, target: Address, delimiter: str) -> bool:
    """Whether an address of ours is a user's or an alias. Raises Unavailable."""
    names = {target.local, target.local.partition(delimiter)[0]} if delimiter else {target.local}
    return any(directory.user(target.domain, one) or directory.alias(target.domain, one) for one in names)

"""What is wrong with the files of a directory database, all of it, for an operator's `check`.

Reads every file, so never while mail flows. Not here: the rules, which are those of the look-ups.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailserver.directory import passwords
from mailserver.directory.cache import reason
from mailserver.directory.database import ALIASES, USERS, Directory, domain_named, listed
from mailserver.directory.entries import Domain, Unavailable


def problems(directory: Directory) -> Iterator[Unavailable]:
    """Every file that is malformed, unreadable or named by no key. Raises OSError for the root alone."""
    for name in sorted(os.listdir(directory.root)):
        path = f"{directory.root}/{name}"
        if name.startswith("."):
            continue
        if not os.path.isdir(path) or (domain := domain_named(name)) is None:
            yield Unavailable(path, "expected a directory named by a domain in lower case")
            continue
        try:
            ours = directory.domain(domain)
        except Unavailable as fault:
            yield fault
            continue
        if ours is not None and ours.directory != path:
            yield Unavailable(path, f"not used: {ours.directory} is the same domain")
        elif ours is not None:
            yield from _problems_of(directory, ours)


def _problems_of(directory: Directory, ours: Domain) -> Iterator[Unavailable]:
    for kind in (USERS, ALIASES):
        try:
            for path, key in sorted(listed(f"{ours.directory}/{kind}")):
                if fault := _fault(directory, ours, kind, path, key):
                    yield fault
        except OSError as error:
            yield Unavailable(f"{ours.directory}/{kind}", reason(error))


def _fault(directory: Directory, ours: Domain, kind: str, path: str, key: str | None) -> Unavailable | None:
    if key is None:
        return Unavailable(path, "the file's name is no local part in lower case; it is not used")
    try:
        if kind == ALIASES:
            directory.alias(ours.name, key)
        elif user := directory.user(ours.name, key):
            passwords.examine(user.password)
    except passwords.MalformedHash as error:
        return Unavailable(path, f"line 1: {error}")
    except Unavailable as fault:
        return fault
    return None

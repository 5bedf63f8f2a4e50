"""Whether a domain's own directory for mailboxes is free: nothing of the server's, or of another domain's.

Not here: the rule for two paths (`directory.places`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mailserver.directory.database import Directory
from mailserver.directory.entries import Unavailable
from mailserver.directory.places import holds, is_configuration, is_within, overlaps


def trouble(name: str, maildirs: str, directory: Directory, root: str) -> str:
    """Why the domain `name` cannot have its mailboxes in `maildirs`, or nothing; `root` is the usual place.

    Raises OSError.
    """
    configuration = os.path.dirname(directory.root)
    is_usual = os.path.realpath(maildirs) == os.path.realpath(os.path.join(root, name))
    if is_configuration(maildirs, configuration) or (not is_usual and is_within(maildirs, configuration)):
        return "expected a directory that is not of the configuration"
    if not is_usual and overlaps(maildirs, root):
        return "expected a directory that is not of the server's own maildirs"
    for other, theirs in _others(name, directory):
        if holds(maildirs, theirs) or holds(theirs, maildirs):
            return f"expected a directory that is not {other}'s"
    return ""


def _others(name: str, directory: Directory) -> Iterator[tuple[str, str]]:
    """Other domains with directories of their own."""
    if not os.path.isdir(directory.root):  # the first one will make it
        return
    for other in directory.domains():
        try:
            domain = directory.domain(other)
        except Unavailable:
            continue
        if domain is not None and domain.maildirs is not None and domain.name != name:
            yield domain.name, domain.maildirs

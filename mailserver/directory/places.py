"""Directories that a domain may not have its mailboxes in: removing a user would move other things away.

Names are compared with links followed. Not here: where mailboxes are (`mta.routing`).
"""

from __future__ import annotations

import os

OWN = ("mailserver.toml", "domains", "operators", "tls", "secrets", ".history")
"""What is the server's own in a configuration directory."""


def is_within(path: str, place: str) -> bool:
    """Whether `path` is `place` or lies in it."""
    path, place = os.path.realpath(path), os.path.realpath(place)
    return path == place or path.startswith(place.rstrip("/") + "/")


def holds(maildirs: str, place: str) -> bool:
    """Whether a mailbox in `maildirs` could be, or hold, `place`; or `place` is `maildirs`.

    A name that begins with a dot is no mailbox's (`names.encode`): the directory may hold `.config`.
    """
    if not is_within(place, maildirs):
        return False
    below = os.path.relpath(os.path.realpath(place), os.path.realpath(maildirs))
    return below == "." or not below.startswith(".")


def overlaps(maildirs: str, place: str) -> bool:
    """Whether mailboxes in `maildirs` lie in `place`, or one of them could be, or hold, `place`."""
    return is_within(maildirs, place) or holds(maildirs, place)


def is_configuration(maildirs: str, configuration: str) -> bool:
    """Whether mailboxes in `maildirs` would get in the way of the configuration."""
    return any(overlaps(maildirs, os.path.join(configuration, name)) for name in OWN)

"""Paths that settings may not name: files of the server's own, which a log or a process number would destroy.

Not here: which paths exist, or may be written (`access`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from mailserver.config.model import Config
from mailserver.directory.places import OWN, is_within

_SECRET = ("mailserver.toml", "domains", "operators", ".history")


def misplaced(config: Config) -> Iterator[tuple[str, str]]:
    """Settings whose paths are the server's own files: (key, problem)."""
    own = [os.path.join(config.directory, name) for name in OWN]
    read = [path for relay in config.relays for path in (relay.secret_file, relay.authorities) if path]
    written = [("log_file", config.log_file), ("pid_file", config.pid_file)]
    yield from _within(written, [*own, config.maildirs, *read])
    secret = [os.path.join(config.directory, name) for name in _SECRET]
    for relay in config.relays:
        named = [("secret_file", relay.secret_file), ("authorities", relay.authorities)]
        yield from _within([(f"relay[{relay.name}].{key}", path) for key, path in named], secret)


def _within(named: Sequence[tuple[str, str | None]], places: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key, path in named:
        if path is not None and any(is_within(path, place) for place in places):
            yield key, "expected a file that is not the server's own"

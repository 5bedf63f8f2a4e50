"""What a running server cannot change about itself: it would be another server. Not here: reading files."""

from __future__ import annotations

from msgspec.structs import replace

from mailserver.config.model import FIXED, Config


def needing_restart(fresh: Config, old: Config) -> list[str]:
    """The settings that differ and stay as they were until the next start."""
    return [name for name in FIXED if getattr(fresh, name) != getattr(old, name)]


def settled(fresh: Config, old: Config) -> Config:
    """`fresh` as far as a server that began with `old` can take it over."""
    return replace(fresh, **{name: getattr(old, name) for name in FIXED})

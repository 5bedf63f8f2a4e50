"""Proves an edit of `mailserver.toml`: the new text says what was meant and nothing else, no comment is gone.

Independent of how the text was made: it is parsed again by another parser (`tomllib`) and compared with
values that were computed without it. Not here: making the text (`layout`).
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mailserver.config.statements import comments


class NotProven(Exception):
    """The new text is not what was meant; one line."""


def prove(before: str, after: str, intended: Mapping[str, Any]) -> None:
    """Raises NotProven."""
    try:
        document = tomllib.loads(after.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise NotProven("the edited file would be no TOML") from None
    if _canonical(document) != _canonical(intended):
        raise NotProven("the edited file would say something else")
    if Counter(comments(before)) - Counter(comments(after)):
        raise NotProven("a comment would be lost")


def _canonical(value: Mapping[str, Any]) -> str:
    """Equal for equal values of equal types (Python's own True is equal to 1); an empty table is none."""
    present = {name: one for name, one in value.items() if one not in ({}, [])}
    return json.dumps(present, sort_keys=True, default=repr)

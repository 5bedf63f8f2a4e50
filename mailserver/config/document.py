"""What the text of `mailserver.toml` says, as plain values that can be changed apart from the text.

Not here: changing the text (`layout`), what the values mean (`load`).
"""

from __future__ import annotations

import tomllib
from typing import Any

from mailserver.config import keys
from mailserver.config.load import FILE
from mailserver.config.statements import LayoutError, Path


def decoded(data: bytes) -> str:
    """The text of a file. Raises LayoutError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise LayoutError(f"{FILE} is no UTF-8 text") from None


def parsed(text: str) -> dict[str, Any]:
    """What a text says, tables where there are tables. Raises LayoutError."""
    try:
        values = tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise LayoutError(f"{FILE} is no valid TOML: {error}") from None
    except RecursionError:
        raise LayoutError(f"{FILE} is nested too deeply") from None
    except ValueError:  # Python's own limit on the digits of a number
        raise LayoutError(f"{FILE} has a number that is too long") from None
    for name, value in values.items():
        if not keys.is_shaped(name, value):
            raise LayoutError(f"{FILE}: {name} is written as something else than it is")
    return values


def put(values: dict[str, Any], path: Path, value: Any) -> None:
    """Set what is at `path`; tables that are missing are made. Raises LayoutError."""
    node: Any = values
    for part in path[:-1]:
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[part]
        if not isinstance(node, (dict, list)):
            raise LayoutError(f"{FILE} has no table at {part}")
    node[path[-1]] = value


def remove(values: dict[str, Any], path: Path) -> None:
    """Take out what is at `path`, if it is there."""
    node: Any = values
    for part in path[:-1]:
        node = node.get(part, {}) if isinstance(node, dict) else node[part]
    last = path[-1]
    if isinstance(node, dict):
        node.pop(last, None)
    elif isinstance(last, int):
        del node[last]

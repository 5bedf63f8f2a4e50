"""Turns a conversion error into words for the person who wrote the file: key path and form expected.

Not here: reading (`load`). msgspec says what it found in its own terms; this module puts them in TOML's.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from mailserver.config.model import Settings
from mailserver.config.statements import Path

_AT = re.compile(r"(?P<text>.*?)(?: - at `\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`")
_AT_LEAST = re.compile(r"Expected `int` >= (\d+)")
_AT_MOST = re.compile(r"Expected `int` <= (\d+)")
_WORDS = {
    "Expected `int`": "expected a whole number",
    "Expected `bool`": "expected true or false",
    "Expected `array`": "expected [[a list of tables]]",
    "Expected `object`": "expected a [table]",
}


class Finding(NamedTuple):
    """What is wrong at `path` of the document."""

    path: Path
    problem: str

    @property
    def key(self) -> str:
        """The path as a person writes it: `limits.message_size`, `listener[0].endpoint`."""
        parts = [f"[{part}]" if isinstance(part, int) else f".{_bare(part)}" for part in self.path]
        return "".join(parts).removeprefix(".")


@functools.cache
def kinds(table: type[Struct]) -> Mapping[str, Any]:
    """The kind of each setting of a table, by its name in the file."""
    hints = get_type_hints(table)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(table)}


def unknown(document: dict[str, Any], kind: type[Struct] = Settings, path: Path = ()) -> Iterator[Finding]:
    """The keys that no setting has; msgspec would tell one at a time, in a text that a key could forge."""
    types = kinds(kind)
    for key, value in document.items():
        if key not in types:
            yield Finding((*path, key), _suggestion(key, types))
        elif isinstance(value, dict) and isinstance(types[key], type) and issubclass(types[key], Struct):
            yield from unknown(value, types[key], (*path, key))
        elif isinstance(value, list) and get_origin(types[key]) is tuple:
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield from unknown(item, get_args(types[key])[0], (*path, key, index))


def _suggestion(key: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(key[:60], names, n=1)
    return (
        f'unknown setting; did you mean "{close[0]}"?'
        if close
        else f"unknown setting; known: {', '.join(names)}"
    )


def finding(error: msgspec.ValidationError, document: object) -> Finding:
    """Where in `document`, which has no unknown keys, the error is, and what was expected there."""
    match = _AT.fullmatch(str(error))
    assert match is not None
    text, path = match["text"], _parse_path(match["path"] or "")
    if missing := _MISSING.fullmatch(text):
        return Finding((*path, missing["key"]), "missing")
    expected = _expected(text, path)
    if expected.startswith("expected"):
        expected += f", got {_shown(_value_at(document, path))}"
    return Finding(path, expected)


def _parse_path(path: str) -> Path:
    return tuple(int(index) if index else name for index, name in re.findall(r"\[(\d+)\]|\.([^.\[]+)", path))


def _expected(text: str, path: Path) -> str:
    if least := _AT_LEAST.match(text):
        return f"expected a whole number of at least {least[1]}"
    if most := _AT_MOST.match(text):
        return f"expected a whole number of at most {most[1]}"
    if text.startswith("Invalid enum value"):
        return "expected " + " or ".join(f'"{choice}"' for choice in get_args(_type_at(path)))
    for found, words in _WORDS.items():
        if text.startswith(found):
            return words
    return text


def _type_at(path: Path) -> Any:
    """The kind of value that belongs at `path`, which the conversion has walked already."""
    kind: Any = Settings
    for part in path:
        kind = get_args(kind)[0] if isinstance(part, int) else kinds(kind)[part]
        if get_origin(kind) not in (None, tuple) and type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return kind


def _value_at(document: object, path: Path) -> object:
    value: Any = document
    for part in path:
        value = value[part]
    return value


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else json.dumps(key[:60])

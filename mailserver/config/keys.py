"""How operators name settings: `hostname`, `limits.message_size`, `listener[tcp:*:25].paused`.

A table of an array is named by what tells it from the others: a listener by its endpoint, a relay by its
name. Not here: the text of the file (`layout`), what the values may be (`model`, `load`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Struct

from mailserver.config.explain import Finding, kinds
from mailserver.config.model import Settings
from mailserver.config.statements import LayoutError, Path
from mailserver.config.values import EndpointText

NAMED_BY = {"listener": "endpoint", "relay": "name"}
_FORM = re.compile(r"(?P<table>[a-z0-9_]+)(?:\[(?P<name>.+)\])?(?:\.(?P<key>[a-z0-9_]+))?", re.DOTALL)
_LONGEST = 300


class UnknownKey(ValueError):
    """There is no such setting; the text is one line."""


class Key(NamedTuple):
    """A setting, or with `key` empty a whole table; `name` is of a table of an array."""

    table: str  # empty for the settings before all tables
    name: str
    key: str

    def __str__(self) -> str:
        return ".".join(part for part in (table_text(self.table, self.name), self.key) if part)

    def covers(self, other: Key) -> bool:
        """Whether this is `other`, or a table that `other` is a setting of."""
        mine = self.table, _spelled(self.table, self.name) or other.name, self.key or other.key
        return mine == (other.table, other.name, other.key)


def table_text(table: str, name: str) -> str:
    """How a table is named in a key."""
    return f"{table}[{name}]" if name else table


def parse(text: str) -> Key:
    """Read a key. Raises UnknownKey for what can be no setting."""
    match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise UnknownKey("expected a key such as limits.message_size or listener[tcp:*:25].paused")
    table, name, key = match["table"], match["name"] or "", match["key"] or ""
    known = kinds(Settings)
    if table not in known:
        raise UnknownKey(f"no setting {table}{_hint(table, known)}")
    inner = _struct(known[table])
    if inner is None:
        if name or key:
            raise UnknownKey(f"{table} is one setting")
        return Key("", "", table)
    if name and table not in NAMED_BY:
        raise UnknownKey(
            f"there is one [{table}] alone: name its settings as {table}.{next(iter(kinds(inner)))}"
        )
    if key and key not in kinds(inner):
        raise UnknownKey(f"no setting {table}.{key}{_hint(key, kinds(inner))}")
    if key and not name and table in NAMED_BY:
        raise UnknownKey(f"which {table}? expected {table}[{NAMED_BY[table].upper()}].{key}")
    return Key(table, name, key)


def locate(key: Key, document: Mapping[str, Any]) -> Path:
    """Where a key is in a document. Raises UnknownKey for a table of an array that is not there."""
    start: Path = ()
    if key.name:
        start = (key.table, _index(key.table, key.name, document))
    elif key.table:
        start = (key.table,)
    return (*start, key.key) if key.key else start


def is_shaped(table: str, value: Any) -> bool:
    """Whether a table is a table and an array of tables one; what is no table is anything."""
    if table in NAMED_BY:
        return isinstance(value, list) and all(isinstance(one, dict) for one in value)
    known = kinds(Settings)
    return table not in known or _struct(known[table]) is None or isinstance(value, dict)


def all_keys(document: Mapping[str, Any]) -> Iterator[Key]:
    """Every setting there is, in the order of the model, those of the tables that a document has included."""
    for table, kind in kinds(Settings).items():
        inner = _struct(kind)
        if inner is None:
            yield Key("", "", table)
            continue
        names = _names(table, document) if table in NAMED_BY else [""]
        yield from (
            Key(table, name, key) for name in names if name or table not in NAMED_BY for key in kinds(inner)
        )


def default_of(key: Key) -> Any:
    """The default of a setting as the model has it; `msgspec.NODEFAULT` where there is none."""
    kind: Any = _struct(kinds(Settings)[key.table]) if key.table else Settings
    return next(field.default for field in msgspec.structs.fields(kind) if field.encode_name == key.key)


def _names(table: str, document: Mapping[str, Any]) -> list[str]:
    """The names of the tables of an array; empty where one has none, and cannot be edited before it has."""
    return [_name(table, one) for one in document.get(table, [])]


def _name(table: str, one: Mapping[str, Any]) -> str:
    value = one.get(NAMED_BY[table])
    return _spelled(table, value) if isinstance(value, str) else ""


def candidates(text: str) -> list[Any]:
    """What a value given as text may mean, in the order of preference: TOML, or a bare word.

    What begins with a quote or bracket is TOML, or wrong. Raises LayoutError.
    """
    try:
        document = tomllib.loads(f"value = {text}\n")
    except (ValueError, RecursionError):  # the former also for a number of thousands of digits
        document = {}
    if text[:1] in ('"', "'", "[", "{"):
        if len(document) != 1:
            raise LayoutError("a value that begins with a quote or bracket is TOML, and this is none")
        return [document["value"]]
    return [document["value"], text] if len(document) == 1 else [text]


def text_of(found: Finding, document: Mapping[str, Any]) -> str:
    """The key of what is wrong: a table by its name, or by its place if that is wrong or another's too."""
    table, *rest = found.path
    if table not in NAMED_BY or len(rest) < 2 or rest[1] == NAMED_BY[table]:
        return found.key
    assert isinstance(rest[0], int), "what is named is in an array"
    names = [_name(table, one) if isinstance(one, dict) else "" for one in document[table]]
    name = names[rest[0]]
    if names.count(name) > 1 or not _is_valid(table, name):
        return found.key
    return found.key.replace(f"[{rest[0]}]", f"[{name}]", 1)


def _is_valid(table: str, name: str) -> bool:
    inner = _struct(kinds(Settings)[table])
    assert inner is not None, "what has a name is a table"
    try:
        kinds(inner)[NAMED_BY[table]](name)
    except ValueError:
        return False
    return True


def _index(table: str, name: str, document: Mapping[str, Any]) -> int:
    names = _names(table, document)
    try:
        return names.index(_spelled(table, name))
    except ValueError:
        there = f"; there are {', '.join(filter(None, names))}" if any(names) else ""
        raise UnknownKey(f"no {table} {name}{there}"[:_LONGEST]) from None


def _spelled(table: str, name: str) -> str:
    if table != "listener":
        return name
    try:
        return EndpointText(name)
    except ValueError:
        return name


def _struct(kind: Any) -> type[Struct] | None:
    """The struct that a table's settings are in; None for a kind of value."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, Struct) else None


def _hint(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word[:60], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""

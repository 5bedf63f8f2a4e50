"""Changes single settings in the text of a TOML file and leaves every other character of it as it is.

The text is cut into statements: a comment or blank line, a table's header, a key with its value over however
many lines. An edit touches one statement, which tomlkit rewrites alone: a whole file would lose its order
where arrays of tables are split. No comment is ever lost: those of what goes stay as lines of their own.
Paths are absolute, `("listener", 0, "paused")`. Not here: whether the result is right (`proof`), which keys
there are (`keys`).
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import tomlkit
from tomlkit.items import InlineTable, Item, Table

from mailserver.config.statements import Path, Statement, comments, split

_BLANK_END = re.compile(r"(?:\A|\n)[ \t]*\r?\n\Z")
_BLANK_START = re.compile(r"\A[ \t]*\r?\n")


def put(text: str, path: Path, value: Any) -> str:
    """`text` with `value` at `path`, whose tables of arrays exist. Raises LayoutError."""
    statements = split(text)
    saying = [one for one in statements if one.says(path)]
    spread = _headed(statements, path) or (saying and _is_dotted(text, saying[0], path))
    if isinstance(value, dict) and spread:
        return _put_table(text, path, value)
    if saying:
        return _rewrite(text, saying[0], lambda document: _assign(document, saying[0], path, value))
    return _insert(text, statements, path, value)


def drop(text: str, path: Path) -> str:
    """`text` without what is at `path`, a table of an array included. Raises LayoutError."""
    depth = len(path)
    for one in reversed([one for one in split(text) if one.table[:depth] == path]):
        if one.header or one.content:
            text = _cut(text, one)
    for one in reversed([one for one in split(text) if one.says(path)]):
        text = _drop_from(text, one, path)
    return text


def append(text: str, array: str, table: Mapping[str, Any]) -> str:
    """`text` with one more table in the array of tables `array`. Raises LayoutError."""
    statements = split(text)
    inline = next((one for one in statements if one.says((array,))), None)
    if inline is not None:
        return _rewrite(text, inline, lambda document: document[array].append(_inline(table)))
    mine = [one for one in statements if one.table[:1] == (array,) and (one.header or one.content)]
    place = mine[-1].end if mine else len(text)
    lines = [f"[[{array}]]", *(f"{_key(name)} = {literal(value)}" for name, value in table.items())]
    return _add_lines(text, place, ["", *lines])


def literal(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        inner = ", ".join(f"{_key(name)} = {literal(one)}" for name, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return str(tomlkit.item(value).as_string())


# ---- edits of one statement


def _rewrite(text: str, statement: Statement, edit: Callable[[Any], object]) -> str:
    """`text` with one statement edited through tomlkit; comments that it loses go above it."""
    before = text[statement.start : statement.end]
    document = tomlkit.parse(before)
    edit(document)
    after = document.as_string()
    lost = Counter(comments(before)) - Counter(comments(after))
    return (
        text[: statement.start] + _lines(text, before, list(lost.elements())) + after + text[statement.end :]
    )


def _assign(document: Any, statement: Statement, path: Path, value: Any) -> None:
    *way, last = path[len(statement.table) :]
    for part in way:
        document = document[part]
    document[last] = _item(value)


def _item(value: Any) -> Item:
    return tomlkit.value(literal(value)) if isinstance(value, (dict, list)) else tomlkit.item(value)


def _inline(table: Mapping[str, Any]) -> InlineTable:
    inline = tomlkit.inline_table()
    for name, value in table.items():
        inline.append(name, _item(value))
    return inline


def _drop_from(text: str, statement: Statement, path: Path) -> str:
    way: Path = path[len(statement.table) :]
    if _only(statement.content, way):
        return _cut(text, statement)

    def edit(document: Any) -> None:
        for part in way[:-1]:
            document = document[part]
        del document[way[-1]]

    return _rewrite(text, statement, edit)


def _only(content: Any, way: Path) -> bool:
    """Whether a statement says nothing but what is at `way`: `a.b = 1`, but not `a = {b = 1, c = 2}`."""
    for part in way:
        if not isinstance(content, dict) or len(content) > 1:
            return False
        content = content[part]
    return True


def _cut(text: str, statement: Statement) -> str:
    """Without a statement; its comments stay, and no two blank lines where there was one."""
    whole = text[statement.start : statement.end]
    kept = _lines(text, whole, comments(whole))
    before, after = text[: statement.start], text[statement.end :]
    if statement.header and not kept and _BLANK_END.search(before):
        after = _BLANK_START.sub("", after)
    return before + kept + after


# ---- new statements


def _insert(text: str, statements: list[Statement], path: Path, value: Any) -> str:
    table, name = path[:-1], path[-1]
    assert isinstance(name, str)
    here = [one for one in statements if one.table == table]
    if not table or any(one.header for one in here):
        return _add_lines(text, _place(text, here, table, name), [f"{_key(name)} = {literal(value)}"])
    holder = next((one for one in reversed(statements) if one.says(table)), None)
    if holder is None:
        header = ".".join(_key(str(part)) for part in table)
        return _add_lines(text, len(text), ["", f"[{header}]", f"{_key(name)} = {literal(value)}"])
    if not _is_dotted(text, holder, table):
        return _rewrite(text, holder, lambda document: _assign(document, holder, path, value))
    key = ".".join(_key(str(part)) for part in path[len(holder.table) :])
    return _add_lines(text, holder.end, [f"{key} = {literal(value)}"], like=text[holder.start : holder.end])


def _place(text: str, here: list[Statement], table: Path, name: str) -> int:
    """Below the comment that shows the setting, else below the last key of its table."""
    shown = re.compile(rf"[ \t]*#[ \t]*{re.escape(name)}[ \t]*=")
    hidden = re.compile(r"[ \t]*#[ \t]*\[")  # a table in comments: what follows is of that one
    for one in here if not any(isinstance(part, int) for part in table) else []:
        if not one.content and hidden.match(text, one.start):
            break
        if not one.content and shown.match(text, one.start):
            return one.end
    return max((one.end for one in here if one.header or one.content), default=0)


def _is_dotted(text: str, statement: Statement, table: Path) -> bool:
    """Whether a table is there by the dots of a key, as in `limits.received = 100`."""
    node: Any = tomlkit.parse(text[statement.start : statement.end])
    for part in table[len(statement.table) :]:
        node = node[part]
    return isinstance(node, Table)


def _put_table(text: str, path: Path, value: dict[str, Any]) -> str:
    """A table over several statements, key by key."""
    for name in sorted(_names(text, path) - value.keys()):
        text = drop(text, (*path, name))
    for name, one in value.items():
        text = put(text, (*path, name), one)
    return text if value or _headed(split(text), path) else _insert(text, split(text), path, value)


def _headed(statements: list[Statement], path: Path) -> bool:
    return any(one.header and one.table == path for one in statements)


def _names(text: str, path: Path) -> set[str]:
    node: Any = tomllib.loads(text.removeprefix("\ufeff"))
    for part in path:
        node = node[part]
    return set(node)


def _add_lines(text: str, place: int, lines: list[str], like: str = "") -> str:
    """`text` with lines at `place`, which is a line's end; indented as `like`."""
    newline = _newline(text)
    indent = like[: len(like) - len(like.lstrip(" \t"))]
    before, after = text[:place], text[place:]
    if before and not before.endswith("\n") and before != "\ufeff":
        before += newline
    return before + "".join(f"{indent if line else ''}{line}{newline}" for line in lines) + after


def _lines(text: str, like: str, found: list[str]) -> str:
    """Comments as lines, indented as `like`."""
    indent = like[: len(like) - len(like.lstrip(" \t"))]
    return "".join(f"{indent}{comment}{_newline(text)}" for comment in found)


def _newline(text: str) -> str:
    return "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else literal(name)

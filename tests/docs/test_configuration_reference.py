"""docs/configuration.md: every setting with its default, every key, every command, option and JSON key; no other."""

from __future__ import annotations

import re
import tomllib
from typing import Any, get_args, get_origin, get_type_hints

import click
import msgspec
import pytest
from docs.documents import headings, rows, section

from mailserver.admin import entries
from mailserver.admin.phrases import usage
from mailserver.admin.roles import Role
from mailserver.admin.table import TABLE
from mailserver.cli.program import program
from mailserver.config.load import _read_value
from mailserver.config.model import Settings
from mailserver.directory.domains import DomainFile
from mailserver.directory.users import UserFile

DOCUMENT = "docs/configuration.md"


def settings(kind: type[msgspec.Struct] = Settings, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Each setting as it is written in the file, with its kind and its default."""
    found: dict[str, tuple[Any, Any]] = {}
    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        inner = (
            get_args(hints[field.name])[0] if get_origin(hints[field.name]) is tuple else hints[field.name]
        )
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found |= settings(inner, f"{prefix}{field.encode_name}.")
        else:
            found[prefix + field.encode_name] = hints[field.name], field.default
    return found


def table(text: str) -> dict[str, str]:
    """First cell, without its backquotes, to the second one."""
    return {row[0].strip("`"): row[1] for row in rows(text) if row[0].startswith("`") and len(row) == 3}


def documented() -> dict[str, str]:
    return table(section(DOCUMENT, "mailserver.toml"))


def test_every_setting_is_documented_and_no_other() -> None:
    assert list(documented()) == list(settings())


@pytest.mark.parametrize("name", settings())
def test_defaults(name: str) -> None:
    kind, default = settings()[name]
    told = documented()[name]
    if default is msgspec.NODEFAULT:
        assert told == "required"
    elif default is None:
        assert told == "none"
    else:
        value = tomllib.loads(f"value = {told.strip('`')}")["value"]
        assert msgspec.convert(value, kind, dec_hook=_read_value) == default


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("domains/&lt;domain&gt;/domain.toml", set(DomainFile.__struct_fields__)),
        ("domains/&lt;domain&gt;/users/&lt;name&gt;", set(UserFile._fields) - {"password"}),
    ],
)
def test_keys_of_other_files(heading: str, keys: set[str]) -> None:
    assert set(table(section(DOCUMENT, heading))) == keys


def leaves(group: click.Group = program, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= leaves(command, (*path, name))
        else:
            found[(*path, name)] = command
    return found


def of_its_own(path: tuple[str, ...]) -> bool:
    """Whether a command is more than an operation."""
    return " ".join(path) not in TABLE or path == ("trace",)


@pytest.mark.parametrize("path", [path for path in leaves() if of_its_own(path)], ids=" ".join)
def test_options_of_commands(path: tuple[str, ...]) -> None:
    told = section(DOCUMENT, f"`mailserver {path[0]}`")
    options = {
        name for option in leaves()[path].params if option.param_type_name == "option" for name in option.opts
    }
    assert {name for name in options if not re.search(rf"`[^`]*{name}\b", told)} == set()


def test_every_operation_is_told_with_its_options() -> None:
    _, _, *told_rows = rows(section("docs/administration.md", "Operations"))
    told = [row[0].strip("`").replace("\\|", "|") for row in told_rows]
    assert told == [usage(TABLE[words], Role.OWNER) for words in sorted(TABLE)]


def test_commands_of_their_own_have_a_section_each() -> None:
    told = [
        heading for level, heading in headings(DOCUMENT) if level == 3 and heading.startswith("`mailserver ")
    ]
    assert sorted(told) == sorted(f"`mailserver {path[0]}`" for path in leaves() if of_its_own(path))


def test_json_keys() -> None:
    text = section(DOCUMENT, "Command line") + section("docs/administration.md", "Answers")
    kinds = [
        kind
        for kind in vars(entries).values()
        if isinstance(kind, type) and kind.__module__ == entries.__name__
    ]
    assert len(kinds) > 5
    keys = {name for kind in kinds for name in kind.__struct_fields__}
    assert {key for key in keys if f"`{key}`" not in text} == set()

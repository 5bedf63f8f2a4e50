"""The document of the administration says of every operation who may: as the table of operations does."""

from __future__ import annotations

import re

from docs.documents import rows, section

from mailserver.admin.operation import Scope
from mailserver.admin.operator_files import KEYS
from mailserver.admin.roles import Role
from mailserver.admin.table import TABLE

DOCUMENT = "docs/administration.md"
_COLUMNS = (Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR, Role.USER)


def rights() -> dict[str, dict[Role, str]]:
    """What the document grants, by operation; `explain` has two rows, of which the wider one is taken."""
    found: dict[str, dict[Role, str]] = {}
    for operations, *columns in rows(section(DOCUMENT, "Who may do what")):
        for words in re.findall(r"`([^`]+)`", operations):
            granted = {role: text for role, text in zip(_COLUMNS, columns, strict=True) if text}
            found[words] = granted | found.get(words, {})
    return found


def test_every_operation_and_who_may() -> None:
    told = rights()
    assert {words: set(granted) for words, granted in told.items()} == {
        words: {role for role in _COLUMNS if operation.allows(role)} for words, operation in TABLE.items()
    }


def test_where_they_may() -> None:
    for words, granted in rights().items():
        scope = TABLE[words].scope
        assert (scope is Scope.SERVER) == ("server" in granted.values() or not granted), words
        assert granted.get(Role.DOMAIN_ADMIN, "his") in ("his", "own")
        assert granted.get(Role.USER, "own") == "own"


def test_keys_of_an_operators_file() -> None:
    told = [cells[0] for cells in rows(section(DOCUMENT, "Operators")) if len(cells) == 2]
    assert [key.strip("`") for key in told if key.startswith("`")] == list(KEYS)

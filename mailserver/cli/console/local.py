"""The console's link to the server of this machine, by the control socket; or to its files, where none runs.

Not here: how that is decided (`cli.carry`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from mailserver.admin import completion, phrases
from mailserver.admin.operation import Parameter
from mailserver.admin.refused import EXPECTED
from mailserver.admin.roles import Role
from mailserver.admin.sentences import question
from mailserver.cli import carry
from mailserver.cli.console.link import Asked, Given


class Local:
    """Whoever runs the program is the operator, by his account."""

    def __init__(self) -> None:
        self._self = carry.perform("whoami", {})
        self._role = Role(self._self["role"])

    def who(self) -> str:
        return f"{self._self['name']} {self._role.value}"

    def read(self, text: str) -> Asked:
        phrase = phrases.parse(text, self._role)
        operation = phrase.operation
        asked = question(operation.words, phrase.given) if operation.destroys else ""
        secrets = tuple(one.name for one in phrase.secrets)
        return Asked(text, operation.words, phrase.given, secrets, operation.stream, asked)

    def perform(self, asked: Asked, secrets: Given) -> Any:
        return carry.perform(asked.words, {**asked.given, **secrets})

    def watch(self, asked: Asked, secrets: Given) -> Iterator[Any]:
        return carry.watch(asked.words, {**asked.given, **secrets})

    def complete(self, text: str) -> list[str]:
        return asyncio.run(completion.complete(text, self._role, self._suggest))

    async def _suggest(self, parameter: Parameter, begun: str) -> list[str]:
        return await completion.suggested(parameter, begun, self._listed)

    async def _listed(self, words: str, field: str) -> list[str]:
        try:
            return [str(one[field]) for one in await asyncio.to_thread(carry.perform, words, {})]
        except (*EXPECTED, OSError):
            return []  # what cannot be listed can be typed

    def help(self, words: str) -> str:
        return phrases.help(self._role, words)

"""The administration as it is for one operator over one connection: operations in, plain values out.

Not here: whether he may (`admin.administration`), references (`perspective`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TypeAlias, cast

import msgspec
from twisted.spread import pb

from mailserver.admin.administration import Administration
from mailserver.admin.operation import Operation, Scope
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Operator
from mailserver.admin.table import TABLE
from mailserver.console.pb.streams import State, Streams
from mailserver.console.pb.values import NotAllowed

FRONT = "pb"

Entries: TypeAlias = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class View:
    """The administration as it is for one operator over one connection."""

    administration: Administration
    operator: Operator
    streams: Streams

    def operations(self) -> list[Operation]:
        """All that he may do at all."""
        return [operation for operation in TABLE.values() if _is_for(self.operator, operation)]

    @contextmanager
    def refusing(self, words: str | None) -> Iterator[None]:
        """Leave the line of a call that is refused before the administration hears of it."""
        try:
            yield
        except (Refused, NotAllowed, pb.NoSuchMethod):
            self.administration.refuse(self.operator, FRONT, words)
            raise

    async def perform(self, operation: Operation, said: Mapping[str, object]) -> object:
        """Its values as plain ones. Raises what the administration raises."""
        result = await self.administration.perform(self.operator, FRONT, operation.words, said)
        return msgspec.to_builtins(result)

    async def watch(self, operation: Operation, said: Mapping[str, object]) -> AsyncGenerator[object, None]:
        """The values of a stream, likewise, until it ends or is closed."""
        watched = self.administration.watch(self.operator, FRONT, operation.words, said)
        async with aclosing(cast(AsyncGenerator[object, None], watched)) as values:
            async for value in values:
                yield msgspec.to_builtins(value)

    async def states(self, operation: Operation, said: Mapping[str, object]) -> AsyncGenerator[State, None]:
        """What a stream shows again and again: values by name, or entries by what they are named by."""
        async with aclosing(self.watch(operation, said)) as values:
            async for value in values:
                yield value if isinstance(value, dict) else _by_name(cast(Entries, value))


def _is_for(operator: Operator, operation: Operation) -> bool:
    return operation.allows(operator.role) and (operator.of_server or operation.scope is not Scope.SERVER)


def _by_name(entries: Entries) -> State:
    """The first field of an entry is what it is named by."""
    return {str(next(iter(entry.values()))): entry for entry in entries}

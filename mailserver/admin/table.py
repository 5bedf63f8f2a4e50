"""The table of all operations, by their words. Not here: the operations (`operations`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mailserver.admin.operation import Operation
from mailserver.admin.operations import (
    aliases,
    domains,
    explaining,
    mail,
    operators,
    queue,
    relays,
    running,
    settings,
    users,
)


def _by_words(*topics: Iterable[Operation]) -> Mapping[str, Operation]:
    return {operation.words: operation for topic in topics for operation in topic}


TABLE = _by_words(
    domains.OPERATIONS,
    users.OPERATIONS,
    aliases.OPERATIONS,
    mail.OPERATIONS,
    queue.OPERATIONS,
    relays.OPERATIONS,
    settings.OPERATIONS,
    explaining.OPERATIONS,
    running.OPERATIONS,
    operators.OPERATIONS,
)

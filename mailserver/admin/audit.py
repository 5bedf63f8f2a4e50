"""The line that every call of an operation leaves in the log: who, by which front end, what, how it ended.

One line, whatever happens; never a secret; bounded. Not here: reading these lines (`logs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailserver import maillog
from mailserver.admin.operation import Operation
from mailserver.admin.roles import Operator
from mailserver.mail.address import Address

MOST = 200  # characters of a value


class Record:
    """One call on its way; `operator` as he asks, `operation` and `arguments` once they are known."""

    def __init__(self, operator: Operator, front: str) -> None:
        self.operator = operator
        self.operation: Operation | None = None
        self.arguments: Mapping[str, Any] = {}
        self._front = front

    def leave(self, outcome: str) -> None:
        """Log it. A command that there is not is not repeated: it may be a password in the wrong place."""
        operation = self.operation
        maillog.count(f"operations.{outcome}")
        maillog.event(
            "audit",
            operator=self.operator.name[:MOST],
            role=self.operator.role.value,
            front=self._front[:MOST],
            operation="unknown" if operation is None else operation.words,
            outcome=outcome,
            **({} if operation is None else _said(operation, self.arguments)),
        )


def _said(operation: Operation, arguments: Mapping[str, Any]) -> dict[str, str]:
    return {
        f"with_{parameter.name}": _text(arguments[parameter.name])
        for parameter in operation.parameters
        if parameter.name in arguments and parameter.kind.public
    }


def _text(value: object) -> str:
    if not isinstance(value, tuple) or isinstance(value, Address):
        return str(value)[:MOST]
    return " ".join(str(one)[:MOST] for one in value[:MOST])[:MOST]

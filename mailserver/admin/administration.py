"""The administration: the one gate through which every operation passes, whoever asks by whichever front end.

Here it is decided whether an operator may, the operation is carried out, and a line about it left in the log.
Not here: the operations (`operations`), how they are asked for (`console`, `cli`).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mailserver import maillog
from mailserver.admin.accounts import Accounts
from mailserver.admin.operation import Operation, Scope
from mailserver.admin.refused import Forbidden, Refused
from mailserver.admin.roles import Operator, Role
from mailserver.admin.server import Server
from mailserver.admin.table import TABLE
from mailserver.config.load import ConfigError
from mailserver.config.model import Config
from mailserver.directory.entries import Exists, Malformed, Missing, Unavailable
from mailserver.mail.address import Address, AddressError
from mailserver.pool import Busy, Pool

EXPECTED = (Refused, ConfigError, Exists, Missing, Malformed, Unavailable, AddressError)
"""What an operation raises for reasons that the operator is told: the text of each is one line for him."""


@dataclass(frozen=True)
class Call:
    """What an operation gets to know beside its arguments."""

    administration: Administration
    operator: Operator
    front: str

    @property
    def config(self) -> Config:
        return self.administration.config

    @property
    def server(self) -> Server:
        return self.administration.server

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.config.domains, self.config.maildirs)


class Administration:
    """All operations, on the configuration `config`, which a server replaces when it has a new one."""

    def __init__(self, config: Config, server: Server, pool: Pool) -> None:
        self.config = config
        self.server = server
        self._pool = pool

    async def perform(self, operator: Operator, front: str, words: str, given: Mapping[str, object]) -> Any:
        """Carry out the operation `words` for `operator`, who asks by the front end `front`.

        Returns what it returns. Raises what is in EXPECTED, Busy, OSError.
        """
        operation, arguments = self._admitted(operator, front, words, given)
        call = Call(self, operator, front)
        try:
            if inspect.iscoroutinefunction(operation.run):
                result = await operation.run(call, **arguments)
            else:
                result = await self._pool.run(operation.run, call, **arguments)
        except BaseException as error:
            _audit(operator, front, operation, arguments, _outcome(error))
            raise
        _audit(operator, front, operation, arguments, "done")
        return result

    async def watch(
        self, operator: Operator, front: str, words: str, given: Mapping[str, object]
    ) -> AsyncIterator[Any]:
        """The values of a stream, until it ends or the caller leaves off. Raises like `perform`."""
        operation, arguments = self._admitted(operator, front, words, given)
        if not operation.stream:
            raise Refused(f"{words} has one answer")
        _audit(operator, front, operation, arguments, "begun")
        async with aclosing(operation.run(Call(self, operator, front), **arguments)) as values:
            async for value in values:
                yield value

    def _admitted(
        self, operator: Operator, front: str, words: str, given: Mapping[str, object]
    ) -> tuple[Operation, dict[str, Any]]:
        operation = TABLE.get(words)
        if operation is None:
            raise Refused("no such command")
        arguments: dict[str, Any] = {}
        try:
            if not operation.allows(operator.role):
                raise Forbidden(f"{operator.name} may not {words}")
            arguments = operation.read(given)
            _require_scope(operator, operation, arguments)
        except (Refused, Missing) as error:
            _audit(operator, front, operation, arguments, _outcome(error))
            raise
        return operation, arguments


def _require_scope(operator: Operator, operation: Operation, arguments: Mapping[str, Any]) -> None:
    """Raises Forbidden; or Missing for what an operator does not see, as for what is not there."""
    if operator.role is Role.OWNER or operation.scope is Scope.VIEW:
        return
    if operation.scope is Scope.SERVER:
        if operator.domains is not None:
            raise Forbidden(f"{operator.name} may not {operation.words}")
        return
    address: Address | None = arguments.get("address")
    if operation.scope is Scope.MAILBOX and operator.role is Role.USER:
        if address != operator.address:
            raise Forbidden(f"{operator.name} may do this for himself alone")
        return
    domain = arguments.get("domain") if address is None else address.domain
    if operator.domains is not None and (domain is None or not operator.sees(domain)):
        raise Missing(f"no domain {domain}")


def _audit(
    operator: Operator, front: str, operation: Operation, arguments: Mapping[str, Any], outcome: str
) -> None:
    said = {
        parameter.name: _told(arguments[parameter.name])
        for parameter in operation.parameters
        if parameter.name in arguments and parameter.kind.public
    }
    maillog.event(
        "audit",
        operator=operator.name,
        role=operator.role.value,
        front=front,
        operation=operation.words,
        outcome=outcome,
        **{f"with_{name}": value for name, value in said.items()},
    )


def _told(value: object) -> str:
    text = (
        " ".join(map(str, value))
        if isinstance(value, tuple) and not isinstance(value, Address)
        else str(value)
    )
    return text[:200]


def _outcome(error: BaseException) -> str:
    if isinstance(error, Forbidden):
        return "forbidden"
    if isinstance(error, (*EXPECTED, Busy)):
        return "refused"
    return "failed"

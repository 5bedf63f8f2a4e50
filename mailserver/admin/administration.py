"""The administration: the one gate through which every operation passes, whoever asks by whichever front end.

Here it is decided whether an operator may, the operation is carried out, and a line about it left in the log.
Not here: the operations (`operations`), how they are asked for (`console`, `cli`).
"""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, ParamSpec, TypeVar

from mailserver import maillog
from mailserver.admin.accounts import Accounts
from mailserver.admin.audit import Record
from mailserver.admin.completion import suggested
from mailserver.admin.operation import Operation, Parameter, Scope
from mailserver.admin.operators import Operators
from mailserver.admin.places import without_places
from mailserver.admin.refused import EXPECTED, Forbidden, Refused
from mailserver.admin.roles import Operator, Role
from mailserver.admin.server import Server
from mailserver.admin.table import TABLE
from mailserver.admin.turns import Turns
from mailserver.config.model import Config
from mailserver.directory.entries import Missing, Unavailable
from mailserver.mail.address import Address, fold_local
from mailserver.pool import Busy, Pool

P = ParamSpec("P")
T = TypeVar("T")


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
    def operators(self) -> Operators:
        return self.administration.operators

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.config.domains, self.config.maildirs)

    async def blocking(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args)` off the loop, for operations that are coroutines. Raises Busy, and what it raises."""
        return await self.administration.pool.run(fn, *args, **kwargs)

    def parts(self, domain: str | None) -> list[str | None]:
        """The domains that a list is about: `domain`, or those of the operator, or None, which is all.

        Raises Missing for a domain that is not there for the operator, whether there is one or not.
        """
        operator = self.operator
        if domain is not None and not operator.sees(domain):
            raise Missing(f"no domain {domain}")
        if domain is not None or operator.domains is None:
            return [domain]
        there = self.accounts.directory
        return [name for name in sorted(operator.domains) if there.domain(name) is not None]


class Administration:
    """All operations; `pool` is for those that block."""

    def __init__(self, config: Config, server: Server, pool: Pool, operators: Operators) -> None:
        self._config = config
        self.server = server
        self.pool = pool
        self.operators = operators
        self._turns = Turns()

    @property
    def config(self) -> Config:
        """The configuration in force; a server sets it when it has a new one."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config
        self.operators.follow(config)

    async def perform(self, operator: Operator, front: str, words: str, given: Mapping[str, object]) -> Any:
        """Carry out the operation `words` for `operator`, who asks by the front end `front`.

        Returns what it returns. Raises what is in EXPECTED, Busy, OSError.
        """
        record = Record(operator, front)
        try:
            operation = self._admit(record, words, given, stream=False)
            async with self._turns.turn(record.operator):
                self._require_unchanged(record.operator)
                result = await self._run(operation, Call(self, record.operator, front), record.arguments)
        except BaseException as error:
            record.leave(_outcome(error))
            _log_fault(error, record)
            raise _for(record.operator, error) from None
        record.leave("done")
        return result if record.operator.of_server else await self.pool.run(without_places, result)

    async def watch(
        self, operator: Operator, front: str, words: str, given: Mapping[str, object]
    ) -> AsyncIterator[Any]:
        """The values of a stream, until it ends or the caller leaves off. Raises like `perform`."""
        record = Record(operator, front)
        try:
            operation = self._admit(record, words, given, stream=True)
        except BaseException as error:
            record.leave(_outcome(error))
            raise _for(record.operator, error) from None
        record.leave("begun")
        try:
            async with aclosing(
                operation.run(Call(self, record.operator, front), **record.arguments)
            ) as values:
                async for value in values:
                    self._require_unchanged(record.operator)
                    yield value
        except Exception as error:
            _log_fault(error, record)
            raise _for(record.operator, error) from None

    def refuse(self, operator: Operator, front: str, words: str | None) -> None:
        """Leave the line of a call that a front end has refused by itself.

        `words` are those of the operation that was meant, if there is such a one.
        """
        record = Record(operator, front)
        operation = record.operation = None if words is None else TABLE.get(words)
        may = operation is None or operation.allows(operator.role)
        record.leave("refused" if may else "forbidden")

    async def suggest(self, operator: Operator, front: str, parameter: Parameter, begun: str) -> list[str]:
        """Values that a parameter may have, from the operation that lists them for this operator."""
        return await suggested(parameter, begun, partial(self._listed, operator, front))

    async def _listed(self, operator: Operator, front: str, words: str, field: str) -> list[str]:
        operation = TABLE.get(words)
        if operation is None or not operation.allows(operator.role):
            return []
        try:
            return [str(getattr(one, field)) for one in await self.perform(operator, front, words, {})]
        except (*EXPECTED, Busy, OSError):
            return []  # what cannot be listed can be typed

    async def _run(self, operation: Operation, call: Call, arguments: Mapping[str, Any]) -> Any:
        if inspect.iscoroutinefunction(operation.run):
            return await operation.run(call, **arguments)
        return await self.pool.run(operation.run, call, **arguments)

    def _require_unchanged(self, operator: Operator) -> None:
        """A stream ends with the rights of who reads it; so does waiting for one's turn."""
        if self.operators.current(operator) != operator:
            raise Forbidden(f"{operator.name} has other rights now")

    def _admit(self, record: Record, words: str, given: Mapping[str, object], *, stream: bool) -> Operation:
        """The operation, if the operator may; its arguments are in `record`. Raises Refused, Missing."""
        operation = record.operation = TABLE.get(words) if isinstance(words, str) else None
        current = self.operators.current(record.operator)
        if current is None:
            raise Forbidden(f"{record.operator.name} is no operator any more")
        record.operator = operator = current
        if operation is None:
            raise Refused("no such command")
        if not operation.allows(operator.role):
            raise Forbidden(f"{operator.name} may not {words}")
        if operation.stream is not stream:
            raise Refused(f"{words} has {'one answer' if stream else 'no end: it is a stream'}")
        if operation.scope is Scope.MAILBOX and operator.role is Role.USER:
            given = {"address": str(operator.address), **given}
        record.arguments = operation.read(given)
        _require_scope(operator, operation, record.arguments)
        return operation


def _require_scope(operator: Operator, operation: Operation, arguments: Mapping[str, Any]) -> None:
    """Raises Forbidden; or Missing for what an operator does not see, as for what is not there."""
    if operator.role is Role.OWNER or operation.scope is Scope.VIEW:
        return
    if operation.scope is Scope.SERVER:
        if not operator.of_server:
            raise Forbidden(f"{operator.name} may not {operation.words}")
        return
    address: Address | None = arguments.get("address")
    if operation.scope is Scope.MAILBOX and operator.role is Role.USER:
        if address is None or operator.address is None or _key(address) != _key(operator.address):
            raise Forbidden(f"{operator.name} may do this for himself alone")
        return
    domain = arguments.get("domain") if address is None else address.domain
    if domain is None or not operator.sees(domain):
        raise Missing(f"no domain {domain}")


def _key(address: Address) -> tuple[str, str]:
    return fold_local(address.local), address.domain


def _outcome(error: BaseException) -> str:
    if isinstance(error, Forbidden):
        return "forbidden"
    if isinstance(error, (*EXPECTED, Busy)):
        return "refused"
    return "abandoned" if isinstance(error, CancelledError) else "failed"


def _for(operator: Operator, error: BaseException) -> BaseException:
    """The error as the operator gets it: files of the server are no business of those who see a part."""
    if isinstance(error, Unavailable) and not operator.of_server:
        return Refused("a file of this server cannot be read; its log says which")
    return error


def _log_fault(error: BaseException, record: Record) -> None:
    """A fault of this program."""
    if isinstance(error, (*EXPECTED, Busy, OSError)) or not isinstance(error, Exception):
        return
    maillog.fault("operation-failed", error, operation=record.operation and record.operation.words)

"""Operations on operators, and on oneself. Not here: their files (`operator_files`), logins (`operators`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailserver.admin.entries import OperatorEntry, WhoAmI
from mailserver.admin.operation import DOMAIN, SECRET, TEXT, Kind, Operation, Parameter, Scope, choice
from mailserver.admin.operator_files import ROLES
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Operator, Role

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

OPERATOR = Kind("NAME", str, listed=("operator list", "name"))

_NAME = Parameter("name", OPERATOR)
_PASSWORD = Parameter("password", SECRET)
_ACCOUNT = "An account of this machine that is this operator without a password."
_READS = frozenset({Role.AUDITOR})


def add(
    call: Call,
    name: str,
    role: str,
    password: str,
    domains: tuple[str, ...] = (),
    account: str | None = None,
) -> OperatorEntry:
    if role == Role.DOMAIN_ADMIN.value and not domains:
        raise Refused("a domain-admin needs --domains")
    return call.operators.add(name, role, password, domains, account)


def list_(call: Call) -> list[OperatorEntry]:
    return call.operators.list()


def show(call: Call, name: str) -> OperatorEntry:
    return call.operators.show(name)


def passwd(call: Call, name: str, password: str) -> OperatorEntry:
    found = call.operators.show(name)
    call.operators.set_password(Operator(name, Role(found.role)), password)
    return found


def remove(call: Call, name: str) -> OperatorEntry:
    found = call.operators.show(name)
    call.operators.remove(name)
    return found


async def own_passwd(call: Call, old: str, password: str) -> None:
    """The old one is asked for: a console that somebody left alone must not become another's."""
    operator = call.operator
    if not operator.kept:
        raise Refused(f"{operator.name} has no password here")
    if await call.operators.authenticate(operator.name, old, f"operator {operator.name}") is None:
        raise Refused("the old password is wrong, or there were too many guesses")
    await call.blocking(call.operators.set_password, operator, password)


def whoami(call: Call) -> WhoAmI:
    operator = call.operator
    domains = None if operator.domains is None else tuple(sorted(operator.domains))
    return WhoAmI(operator.name, operator.role.value, domains, call.front)


OPERATIONS = (
    Operation(
        "operator add",
        "Add an operator.",
        add,
        (
            _NAME,
            Parameter("role", choice(*ROLES)),
            _PASSWORD,
            Parameter("domains", DOMAIN, "Those that are there for him.", False, many=True, option=True),
            Parameter("account", TEXT, _ACCOUNT, False, option=True),
        ),
        changes=True,
    ),
    Operation("operator list", "All operators.", list_, roles=_READS),
    Operation("operator show", "One operator.", show, (_NAME,), _READS),
    Operation("operator passwd", "Set an operator's password.", passwd, (_NAME, _PASSWORD), changes=True),
    Operation("operator remove", "Remove an operator.", remove, (_NAME,), changes=True, destroys=True),
    Operation(
        "passwd",
        "Set your own password.",
        own_passwd,
        (Parameter("old", SECRET, "Old password"), Parameter("password", SECRET, "New password")),
        frozenset(Role),
        Scope.VIEW,
        changes=True,
    ),
    Operation("whoami", "Who you are here.", whoami, roles=frozenset(Role), scope=Scope.VIEW),
)

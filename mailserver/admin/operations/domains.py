"""Operations on domains. Not here: the files (`accounts`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailserver.admin.entries import DomainDetails, DomainEntry
from mailserver.admin.operation import DOMAIN, Operation, Parameter, Scope
from mailserver.admin.roles import Role

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_DOMAIN = Parameter("domain", DOMAIN)


def show(call: Call, domain: str) -> DomainDetails:
    return call.accounts.show_domain(domain)


def list_(call: Call) -> list[DomainEntry]:
    return [entry for entry in call.accounts.list_domains() if call.operator.sees(entry.domain)]


OPERATIONS = (
    Operation(
        "domain list",
        "All domains.",
        list_,
        roles=frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR}),
        scope=Scope.VIEW,
    ),
    Operation(
        "domain show",
        "One domain.",
        show,
        (_DOMAIN,),
        roles=frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR}),
        scope=Scope.DOMAIN,
    ),
)

"""Operations on aliases. Not here: the files (`accounts`), following aliases (`mta.routing`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mailserver.admin.entries import AddedAlias, AliasEntry, ListedAlias
from mailserver.admin.operation import ADDRESS, DOMAIN, Operation, Parameter, Scope
from mailserver.admin.roles import Role
from mailserver.config.aliases import is_somebody
from mailserver.mail.address import Address

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_ADDRESS = Parameter("address", ADDRESS)
_LOOKS = frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR})
_CHANGES = frozenset({Role.DOMAIN_ADMIN})


def add(call: Call, address: Address, targets: tuple[Address, ...]) -> AddedAlias:
    found = call.accounts.add_alias(address, targets)
    return AddedAlias(found.address, found.targets, unknown(call, targets))


def unknown(call: Call, targets: Iterable[Address]) -> tuple[str, ...]:
    """Who is nobody. Who exists in a domain that is not his is nothing to an operator."""
    directory, delimiter = call.accounts.directory, call.config.addresses.recipient_delimiter
    seen = [one for one in targets if call.operator.sees(one.domain) and directory.domain(one.domain)]
    return tuple(str(one) for one in seen if not is_somebody(directory, one, delimiter))


def list_(call: Call, domain: str | None = None) -> list[ListedAlias]:
    return [entry for part in call.parts(domain) for entry in call.accounts.list_aliases(part)]


def show(call: Call, address: Address) -> AliasEntry:
    return call.accounts.show_alias(address)


def remove(call: Call, address: Address) -> AliasEntry:
    found = call.accounts.show_alias(address)
    call.accounts.remove_alias(address)
    return found


OPERATIONS = (
    Operation(
        "alias add",
        "Add an alias: mail for it goes to all targets.",
        add,
        (_ADDRESS, Parameter("targets", ADDRESS, "Where its mail goes.", many=True)),
        _CHANGES,
        Scope.DOMAIN,
        changes=True,
    ),
    Operation(
        "alias list",
        "The aliases of a domain, or of all.",
        list_,
        (Parameter("domain", DOMAIN, needed=False),),
        _LOOKS,
        Scope.VIEW,
    ),
    Operation("alias show", "One alias.", show, (_ADDRESS,), _LOOKS, Scope.DOMAIN),
    Operation(
        "alias remove",
        "Remove an alias.",
        remove,
        (_ADDRESS,),
        _CHANGES,
        Scope.DOMAIN,
        changes=True,
    ),
)

"""Operations on domains. Not here: the files (`accounts`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mailserver.admin.entries import ChangedDomain, DomainDetails, DomainEntry, RemovedDomain
from mailserver.admin.operation import (
    ADDRESS,
    COUNT,
    DOMAIN,
    FLAG,
    PATH,
    SIZE,
    TRUTH,
    Operation,
    Parameter,
    Scope,
    choice,
)
from mailserver.admin.operations.aliases import unknown
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.mail.address import Address

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

KEEP_OR_DELETE = choice("keep", "delete")

_DOMAIN = Parameter("domain", DOMAIN)
_CATCH_ALL = Parameter("catch_all", ADDRESS, "Who gets mail for names that nobody has.", False, option=True)
_UNDELIVERABLE = "Postmaster gets mail for names that nobody has."
_QUOTA = Parameter("quota", SIZE, "What each mailbox may hold, such as 1G; 0: no limit.", False, option=True)
_QUOTA_MESSAGES = Parameter("quota_messages", COUNT, "And how many messages.", False, option=True)
_LOOKS = frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR})


def add(
    call: Call,
    domain: str,
    catch_all: Address | None = None,
    undeliverable_to_postmaster: bool = False,
    **settings: str | int,
) -> ChangedDomain:
    given: dict[str, str | int | bool] = dict(settings)
    if catch_all is not None:
        given["catch_all"] = str(catch_all)
    if undeliverable_to_postmaster:
        given["undeliverable_to_postmaster"] = True
    return _changed(call, call.accounts.add_domain(domain, given), catch_all)


def _changed(call: Call, found: DomainDetails, catch_all: Address | None) -> ChangedDomain:
    nobody = unknown(call, [] if catch_all is None else [catch_all])
    return ChangedDomain(**msgspec.structs.asdict(found), unknown=nobody)


def list_(call: Call) -> list[DomainEntry]:
    return [entry for part in call.parts(None) for entry in call.accounts.list_domains(part)]


def show(call: Call, domain: str) -> DomainDetails:
    return call.accounts.show_domain(domain)


def set_(
    call: Call,
    domain: str,
    catch_all: Address | None = None,
    no_catch_all: bool = False,
    **settings: str | int | bool,
) -> ChangedDomain:
    changes: dict[str, str | int | bool | None] = dict(settings)
    if catch_all is not None:
        changes["catch_all"] = str(catch_all)
    if no_catch_all:
        changes["catch_all"] = None
    if not changes or (no_catch_all and catch_all is not None):
        raise Refused("say what is to be set, and each thing once")
    return _changed(call, call.accounts.set_domain(domain, changes), catch_all)


def remove(call: Call, domain: str, with_users: bool = False, mail: str = "keep") -> RemovedDomain:
    return call.accounts.remove_domain(domain, with_users=with_users, delete_mail=mail == "delete")


OPERATIONS = (
    Operation(
        "domain add",
        "Add a domain.",
        add,
        (
            _DOMAIN,
            _CATCH_ALL,
            Parameter("undeliverable_to_postmaster", FLAG, _UNDELIVERABLE, False, option=True),
            _QUOTA,
            _QUOTA_MESSAGES,
            Parameter("maildirs", PATH, "Where its mailboxes are, an absolute path.", False, option=True),
        ),
        changes=True,
    ),
    Operation("domain list", "The domains.", list_, roles=_LOOKS, scope=Scope.VIEW),
    Operation("domain show", "One domain and its settings.", show, (_DOMAIN,), _LOOKS, Scope.DOMAIN),
    Operation(
        "domain set",
        "Change a domain's settings.",
        set_,
        (
            _DOMAIN,
            _CATCH_ALL,
            Parameter("no_catch_all", FLAG, "Nobody gets it any more.", False, option=True),
            Parameter("undeliverable_to_postmaster", TRUTH, _UNDELIVERABLE, False, option=True),
            _QUOTA,
            _QUOTA_MESSAGES,
        ),
        frozenset({Role.DOMAIN_ADMIN}),
        Scope.DOMAIN,
        changes=True,
    ),
    Operation(
        "domain remove",
        "Remove a domain and its aliases; with users only if that is said.",
        remove,
        (
            _DOMAIN,
            Parameter("with_users", FLAG, "Remove its users too.", False, option=True),
            Parameter(
                "mail", KEEP_OR_DELETE, "What becomes of their mail: keep it aside.", False, option=True
            ),
        ),
        changes=True,
        destroys=True,
    ),
)

"""Operations on users and their passwords. Not here: the files (`accounts`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailserver.admin.entries import AddedUser, RemovedUser, UserDetails, UserEntry
from mailserver.admin.operation import (
    ADDRESS,
    COUNT,
    DOMAIN,
    FLAG,
    SECRET,
    SIZE,
    TRUTH,
    Operation,
    Parameter,
    Scope,
)
from mailserver.admin.operations.domains import KEEP_OR_DELETE
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.mail.address import Address

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_ADDRESS = Parameter("address", ADDRESS)
_PASSWORD = Parameter("password", SECRET)
_QUOTA = Parameter("quota", SIZE, "What the mailbox may hold, such as 1G; 0: no limit.", False, option=True)
_QUOTA_MESSAGES = Parameter("quota_messages", COUNT, "And how many messages.", False, option=True)
_INHERIT = "Both quotas as the domain says."
_LOOKS = frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR})
_CHANGES = frozenset({Role.DOMAIN_ADMIN})


def add(call: Call, address: Address, password: str, **quotas: str | int) -> AddedUser:
    settings = {key: str(value) for key, value in quotas.items()}
    return call.accounts.add_user(address, password, settings)


def list_(call: Call, domain: str | None = None) -> list[UserEntry]:
    return [entry for part in call.parts(domain) for entry in call.accounts.list_users(part)]


def show(call: Call, address: Address) -> UserDetails:
    return call.accounts.show_user(address)


def passwd(call: Call, address: Address, password: str) -> UserDetails:
    call.accounts.set_password(address, password)
    return call.accounts.show_user(address)


def set_(
    call: Call,
    address: Address,
    enabled: bool | None = None,
    inherit_quota: bool = False,
    **quotas: str | int,
) -> UserDetails:
    if (inherit_quota and quotas) or not (inherit_quota or quotas or enabled is not None):
        raise Refused("say what is to be set, and each thing once")
    changes: dict[str, str | None] = {key: str(value) for key, value in quotas.items()}
    if inherit_quota:
        changes = {"quota": None, "quota_messages": None}
    if enabled is not None:
        changes["enabled"] = "yes" if enabled else "no"
    return call.accounts.set_user(address, changes)


def remove(call: Call, address: Address, mail: str = "keep") -> RemovedUser:
    return call.accounts.remove_user(address, delete_mail=mail == "delete")


OPERATIONS = (
    Operation(
        "user add",
        "Add a user with an empty mailbox.",
        add,
        (_ADDRESS, _PASSWORD, _QUOTA, _QUOTA_MESSAGES),
        _CHANGES,
        Scope.DOMAIN,
        changes=True,
    ),
    Operation(
        "user list",
        "The users of a domain, or of all.",
        list_,
        (Parameter("domain", DOMAIN, needed=False),),
        _LOOKS,
        Scope.VIEW,
    ),
    Operation("user show", "One user.", show, (_ADDRESS,), _LOOKS, Scope.DOMAIN),
    Operation(
        "user passwd",
        "Set a user's password.",
        passwd,
        (_ADDRESS, _PASSWORD),
        frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK}),
        Scope.DOMAIN,
        changes=True,
    ),
    Operation(
        "user set",
        "Change a user's settings.",
        set_,
        (
            _ADDRESS,
            Parameter("enabled", TRUTH, "no: no login and no new mail for now.", False, option=True),
            _QUOTA,
            _QUOTA_MESSAGES,
            Parameter("inherit_quota", FLAG, _INHERIT, False, option=True),
        ),
        _CHANGES,
        Scope.DOMAIN,
        changes=True,
    ),
    Operation(
        "user remove",
        "Remove a user.",
        remove,
        (
            _ADDRESS,
            Parameter("mail", KEEP_OR_DELETE, "What becomes of the mail: keep it aside.", False, option=True),
        ),
        _CHANGES,
        Scope.DOMAIN,
        changes=True,
        destroys=True,
    ),
)

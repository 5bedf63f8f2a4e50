"""Operations on mailboxes and deleted mail, also for users themselves. Not here: the work (`mailboxes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailserver.admin import mailboxes
from mailserver.admin.entries import MailboxSummary, TrashEntry, TrashResult
from mailserver.admin.operation import ADDRESS, DURATION, FLAG, ID, Operation, Parameter, Scope
from mailserver.admin.refused import Refused
from mailserver.admin.roles import Role
from mailserver.mail.address import Address

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

_ADDRESS = Parameter("address", ADDRESS)
_IDS = Parameter("ids", ID, "As `trash list` shows them.", needed=False, many=True)
_ALL = Parameter("all", FLAG, "All of them.", needed=False, option=True)
_OLDER = Parameter("older_than", DURATION, "All deleted longer ago, such as 7d.", needed=False, option=True)
_LOOKS = frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR, Role.USER})


def show(call: Call, address: Address) -> MailboxSummary:
    return mailboxes.summary(call.accounts, address)


def list_(call: Call, address: Address) -> list[TrashEntry]:
    return mailboxes.list_trash(call.accounts, address)


def restore(call: Call, address: Address, ids: tuple[str, ...] = (), all: bool = False) -> TrashResult:
    if bool(ids) == all:
        raise Refused("name the messages, or say --all")
    return mailboxes.restore(call.accounts, address, None if all else ids)


def purge(
    call: Call,
    address: Address,
    ids: tuple[str, ...] = (),
    all: bool = False,
    older_than: float | None = None,
) -> TrashResult:
    if bool(ids) + all + (older_than is not None) != 1:
        raise Refused("name the messages, or say --all or --older-than")
    return mailboxes.purge(call.accounts, address, ids or None, older_than)


OPERATIONS = (
    Operation("mailbox show", "What a mailbox holds.", show, (_ADDRESS,), _LOOKS, Scope.MAILBOX),
    Operation("trash list", "Deleted mail, newest first.", list_, (_ADDRESS,), _LOOKS, Scope.MAILBOX),
    Operation(
        "trash restore",
        "Put deleted messages back.",
        restore,
        (_ADDRESS, _IDS, _ALL),
        _LOOKS - {Role.AUDITOR},
        Scope.MAILBOX,
        changes=True,
    ),
    Operation(
        "trash purge",
        "Remove deleted messages for good.",
        purge,
        (_ADDRESS, _IDS, _ALL, _OLDER),
        frozenset({Role.DOMAIN_ADMIN, Role.USER}),
        Scope.MAILBOX,
        changes=True,
        destroys=True,
    ),
)

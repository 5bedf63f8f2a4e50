"""Operations on the queue, as far as it is an operator's business. Not here: the queue (`admin.queue`).

Who sees a part of the domains sees a message of them whole: what their users submitted, and what their
aliases send on. Of another message he sees what is about his recipients. He commands those of his domains
alone: the others are somebody else's mail as well. The sender proves nothing: anybody can write it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mailserver.admin.entries import QueueDestination, QueueDetails, QueueEntry, QueueResult
from mailserver.admin.operation import COUNT, FLAG, Kind, Operation, Parameter, Scope
from mailserver.admin.queue import Office
from mailserver.admin.refused import Forbidden, Refused
from mailserver.admin.requests import Verb
from mailserver.admin.roles import Operator, Role
from mailserver.directory.entries import Missing
from mailserver.queue.entry import is_id

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

MOST = 10_000  # entries of an answer
WATCHED = 1000  # of the queue, its head, that is looked at again and again
_EVERY = 1.0  # seconds between two looks


def _id(text: str) -> object:
    if not is_id(text):
        raise ValueError("no id of a message")
    return text


QUEUE_ID = Kind("ID", _id, listed=("queue list", "id"))


async def list_(call: Call, after: str = "", most: int = MOST) -> list[QueueEntry]:
    found: list[QueueEntry] = []
    async for entry in Office(call.server.ask_queue).entries(after):
        if len(found) >= min(most, MOST):
            break
        if (seen := _seen(call.operator, entry)) is not None:
            found.append(seen)
    return found


async def watch(call: Call) -> AsyncIterator[list[QueueEntry]]:
    shown: list[QueueEntry] | None = None
    while True:
        found = await list_(call, most=WATCHED)
        if found != shown:
            yield found
        shown = found
        await asyncio.sleep(_EVERY)


async def show(call: Call, id: str) -> QueueDetails:
    return _details(call.operator, await Office(call.server.ask_queue).show(id))


async def destinations(call: Call) -> list[QueueDestination]:
    return list(await Office(call.server.ask_queue).destinations())


async def _command(call: Call, verb: Verb, ids: tuple[str, ...], all: bool) -> QueueResult:
    if bool(ids) == all:
        raise Refused("name the messages, or say --all")
    office = Office(call.server.ask_queue)
    for one in ids if call.operator.domains is not None else ():
        if not _commands(call.operator, _details(call.operator, await office.show(one))):
            raise Forbidden(f"{one} is not of your domains")
    return await office.command(verb, None if all else ids, partial(_commands, call.operator))


def _obeyed(verb: Verb) -> Callable[..., Awaitable[QueueResult]]:
    async def obey(call: Call, ids: tuple[str, ...] = (), all: bool = False) -> QueueResult:
        return await _command(call, verb, ids, all)

    return obey


# ---- what is an operator's business


def _commands(operator: Operator, entry: QueueEntry | QueueDetails) -> bool:
    return operator.sees(entry.domain)


def _seen(operator: Operator, entry: QueueEntry) -> QueueEntry | None:
    if _commands(operator, entry):
        return entry
    recipients = tuple(one for one in entry.recipients if operator.sees(_domain(one)))
    return replace(entry, recipients=recipients, reply="", domain="") if recipients else None  # whose reply?


def _details(operator: Operator, found: QueueDetails) -> QueueDetails:
    """Raises Missing for a message that is not there for the operator."""
    user = found.user if operator.sees(_domain(found.user)) else ""
    if _commands(operator, found):
        return replace(found, user=user)
    recipients = tuple(one for one in found.recipients if operator.sees(_domain(one.address)))
    if not recipients:
        raise Missing(f"no message {found.id} in the queue")
    return replace(found, recipients=recipients, user=user, domain="")


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


# ---- the operations

_IDS = Parameter("ids", QUEUE_ID, "As `queue list` shows them.", needed=False, many=True)
_ALL = Parameter("all", FLAG, "All of them.", needed=False, option=True)
_LOOKS = frozenset({Role.DOMAIN_ADMIN, Role.HELP_DESK, Role.AUDITOR})
_COMMANDS: tuple[tuple[Verb, str], ...] = (
    ("retry", "Make messages due now, whatever their schedule says; held ones stay held."),
    ("hold", "Keep messages until they are released."),
    ("release", "Let held messages go; they are due now."),
    ("drop", "Remove messages for good; their senders hear nothing."),
)

OPERATIONS = (
    Operation(
        "queue list",
        "Messages that wait to leave, the oldest first.",
        list_,
        (
            Parameter("after", QUEUE_ID, "Begin after this one.", needed=False, option=True),
            Parameter("most", COUNT, f"How many, at most {MOST}.", needed=False, option=True),
        ),
        _LOOKS,
        Scope.VIEW,
    ),
    Operation(
        "queue list --watch",
        f"The first {WATCHED} messages, at once and whenever they have changed.",
        watch,
        roles=_LOOKS,
        scope=Scope.VIEW,
        stream=True,
    ),
    Operation(
        "queue show",
        "One message, with each recipient and what was said about it.",
        show,
        (Parameter("id", QUEUE_ID),),
        _LOOKS,
        Scope.VIEW,
    ),
    Operation(
        "queue destinations",
        "Where mail is going now, and where it cannot go, and why.",
        destinations,
        roles=frozenset({Role.HELP_DESK, Role.AUDITOR}),
    ),
    *(
        Operation(
            f"queue {verb}",
            text,
            _obeyed(verb),
            (_IDS, _ALL),
            frozenset({Role.DOMAIN_ADMIN}),
            Scope.VIEW,
            changes=True,
            destroys=verb == "drop",
        )
        for verb, text in _COMMANDS
    ),
)

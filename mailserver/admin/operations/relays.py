"""Operations on relays. Not here: their settings (`operations.settings`), the visit (`admin.relays`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from mailserver.admin import relays
from mailserver.admin.entries import RelayEntry, RelayStep
from mailserver.admin.operation import Kind, Operation, Parameter
from mailserver.admin.refused import Refused
from mailserver.admin.requests import Request
from mailserver.admin.roles import Role
from mailserver.config import outgoing

if TYPE_CHECKING:
    from mailserver.admin.administration import Call

RELAY = Kind("NAME", str, listed=("relay list", "name"))
HOST = Kind("HOST:PORT", str)


async def list_(call: Call) -> list[RelayEntry]:
    try:
        troubles = (await call.server.ask_queue(Request("troubles"))).troubles
    except Refused:  # nobody runs the queue just now
        troubles = {}
    return relays.list_relays(outgoing.relays(call.config), troubles)


def test(call: Call, name: str) -> AsyncIterator[RelayStep]:
    return relays.test(outgoing.relays(call.config), name, call.config.hostname)


OPERATIONS = (
    Operation(
        "relay list",
        "All relays, which mail takes them, and what is wrong with them.",
        list_,
        roles=frozenset({Role.AUDITOR}),
    ),
    Operation(
        "relay test",
        "Connect and log in as mail would, and say what is wrong; nothing is sent.",
        test,
        (Parameter("name", RELAY),),
        stream=True,
    ),
)

"""The dialogues of SMTP, LMTP and submission, played against a started server over TCP, TLS and UNIX sockets.

Their settings: `mail_dialogues`. Which dialogue is played on which connection:

- mail from outside: without TLS and over UNIX sockets all; over STARTTLS and TLS all but those that begin TLS
  themselves or list what is offered without it. Within STARTTLS the greeting before TLS stands for the dialogue's.
- submission: those with `secure` over STARTTLS and TLS, the others without, those with a `peer` over UNIX sockets.
- `memory` says why a dialogue is not played here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

import pytest
import serving
from conversation import Dialogue, play
from mail_dialogues import DIALOGUES, check_mailboxes, check_queue, given_senders, opening, protocol
from started_office import StartedOffice
from wire import IMPATIENT, KINDS, begins_tls, connected


def kinds(dialogue: Dialogue) -> Iterator[str]:
    if dialogue.setting("peer"):
        yield "unix"
    elif dialogue.setting("secure"):
        yield from ("starttls", "tls")
    elif protocol(dialogue) == "submission":
        yield "plain"
    else:
        yield from (kind for kind in KINDS if kind in ("plain", "unix") or not begins_tls(dialogue))


PLAYS = [
    pytest.param(kind, dialogue, id=f"{kind}-{dialogue.file}:{dialogue.name}")
    for dialogue in DIALOGUES
    if not dialogue.setting("memory")
    for kind in kinds(dialogue)
]


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[Dialogue], StartedOffice]]:
    """The server for a dialogue: one for each value of what holds for a whole server, a fresh one where it counts."""
    servers: dict[tuple[str, ...], StartedOffice] = {}

    def of(dialogue: Dialogue) -> StartedOffice:
        key = tuple(dialogue.all("others"))
        if key not in servers or dialogue.setting("hourly"):
            site = life.enter_context(serving.site())
            servers[key] = StartedOffice(site, int(dialogue.setting("hourly", "0")), given_senders(dialogue))
            life.enter_context(servers[key].site.serve(command=IMPATIENT))
        return servers[key]

    with contextlib.ExitStack() as life:
        yield of


@pytest.mark.parametrize(("kind", "dialogue"), PLAYS)
def test_dialogues(kind: str, dialogue: Dialogue, started: Callable[[Dialogue], StartedOffice]) -> None:
    uid = int(dialogue.setting("peer").partition(" ")[2] or os.geteuid())
    if uid != os.geteuid() != 0:
        pytest.skip("only root can be another user")
    server = started(dialogue)
    name = protocol(dialogue)
    hello = b"LHLO client.test" if name == "lmtp" else b"EHLO client.test"
    user = dialogue.setting("login")
    before = {entry_id for entry_id, _ in server.spool.ids()}

    async def converse() -> None:
        async with (
            asyncio.timeout(20),
            connected(server.places[name, kind], tls=kind == "tls", uid=uid) as wire,
        ):
            if kind == "starttls":
                await wire.over_tls((hello, b"250 "), (b"STARTTLS", b"220 "))
            with server.enabled(user) if user else contextlib.nullcontext():
                await play(opening(dialogue), wire.send, wire.receive)
            await play(dialogue, wire.send, wire.receive, wire.start_tls)

    try:
        asyncio.run(converse())
        check_mailboxes(dialogue, server.site.mail)
        check_queue(dialogue, server.spool, server.forwarding, before)
    finally:
        server.clear()

"""The dialogues of SMTP, LMTP and submission, played against a started server over TCP, TLS and UNIX sockets.

Mail for other hosts stays in the queue: its relay refuses every connection. Their settings: `mail_dialogues`.
Which dialogue is played on which connection:

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
from pathlib import Path

import pytest
import serving
from conversation import Dialogue, play
from mail_dialogues import DIALOGUES, check_mailboxes, check_queue, given_senders, opening, protocol
from office import HASH
from outbound import BOB, PEOPLE, TRUSTED
from wire import IMPATIENT, KINDS, begins_tls, connected, endpoint

from mailserver.directory import Directory
from mailserver.mail.srs import Srs
from mailserver.mta.forwarding import Forwarding
from mailserver.queue.spool import Spool
from mailserver.server.state import srs_key

SETTINGS = """\
[[relay]]
name = "nobody"
hosts = ["127.0.0.1:{nobody}"]
tls = "none"
default = true
[limits]
message_size = "100000"
recipients = 100
[submission]
recipients = 100
messages_per_hour = {hourly}
accounts = {{ root = "*", {trusted} = "*", {bob} = "bob@example.test" }}
senders = {{ {senders} }}
"""


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


class Played:
    """A server with the people and aliases of the office. `hourly` and `others` as in the dialogue."""

    def __init__(self, site: serving.Site, dialogue: Dialogue) -> None:
        self.site = site
        self.spool = Spool(str(site.mail / ".queue"))
        self.places: dict[tuple[str, str], int | Path] = {}
        for name in ("smtp", "lmtp", "submission"):
            for kind in ("plain", "tls", "unix"):
                place = site.root / f"{name}.sock" if kind == "unix" else site.ports.take()
                self.places[name, kind] = place
            self.places[name, "starttls"] = self.places[name, "plain"]
        senders = ", ".join(f'"{user}" = {given}' for user, given in given_senders(dialogue).items())
        hourly = dialogue.setting("hourly", "0")
        site.configure(
            [
                (name, endpoint(kind, place))
                for (name, kind), place in self.places.items()
                if kind != "starttls"
            ],
            SETTINGS.format(
                nobody=site.ports.take(), hourly=hourly, senders=senders, trusted=TRUSTED, bob=BOB
            ),
            users=[],
            top="workers = 1\n" if hourly != "0" else "",  # each counts for itself
        )
        site.root.chmod(0o755)
        for name, text in PEOPLE.items():
            site.write(f"domains/{name}", text.replace(HASH, serving.HASH))

    @property
    def forwarding(self) -> Forwarding:
        directory = Directory(str(self.site.config / "domains"))
        return Forwarding(directory, Srs(srs_key(str(self.site.mail))))

    @contextlib.contextmanager
    def enabled(self, user: str) -> Iterator[None]:
        """Somebody who may log in meanwhile, whatever he may afterwards."""
        name = f"domains/example.test/users/{user}"
        self.site.write(name, serving.HASH)
        yield
        if text := PEOPLE.get(name.removeprefix("domains/")):
            self.site.write(name, text.replace(HASH, serving.HASH))
        else:
            (self.site.config / name).unlink()

    def clear(self) -> None:
        for mailbox in self.site.mail.glob("[!.]*/*"):
            self.site.empty(f"{mailbox.name}@{mailbox.parent.name}")


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[[Dialogue], Played]]:
    """The server for a dialogue: one for each value of what holds for a whole server, a fresh one where it counts."""
    servers: dict[tuple[str, ...], Played] = {}

    def of(dialogue: Dialogue) -> Played:
        key = tuple(dialogue.all("others"))
        if key not in servers or dialogue.setting("hourly"):
            servers[key] = Played(life.enter_context(serving.site()), dialogue)
            life.enter_context(servers[key].site.serve(command=IMPATIENT))
        return servers[key]

    with contextlib.ExitStack() as life:
        yield of


@pytest.mark.parametrize(("kind", "dialogue"), PLAYS)
def test_dialogues(kind: str, dialogue: Dialogue, started: Callable[[Dialogue], Played]) -> None:
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

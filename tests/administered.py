"""A server's administration in a directory: two domains with people and mail, and a stand-in for what runs."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from destinations import put

from mailserver.admin.accounts import Accounts
from mailserver.admin.administration import Administration
from mailserver.admin.operators import Operators
from mailserver.admin.refused import Refused
from mailserver.admin.requests import Answer, Request, perform
from mailserver.admin.roles import NOWHERE, Operator, Role
from mailserver.admin.server import ServerStatus, SessionEntry
from mailserver.admin.still_queue import StillQueue
from mailserver.config.load import load
from mailserver.config.model import Config
from mailserver.directory import passwords
from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.envelope import Envelope, Recipient
from mailserver.pool import Pool
from mailserver.queue.spool import Spool

NOW = 1_700_000_000.0
PASSWORD = "a good password"

SETTINGS = """\
hostname = "mail.a.test"
log_file = "../mail.log"

[passwords]
failure_delay = 0

[[listener]]  # for the world
protocol = "smtp"
endpoint = "tcp:127.0.0.1:2525"

[[relay]]
name = "out"
hosts = ["127.0.0.1:9"]
tls = "none"
recipient_domains = ["far.test"]
"""

OWNER = Operator("olga", Role.OWNER)
AUDITOR = Operator("aude", Role.AUDITOR)
HELP_DESK = Operator("hal", Role.HELP_DESK)
ADMIN = Operator("dan", Role.DOMAIN_ADMIN, frozenset({"a.test"}))
ANN = Operator("ann@a.test", Role.USER, NOWHERE, Address("ann", "a.test"))
EVERYBODY = (OWNER, ADMIN, HELP_DESK, AUDITOR, ANN)


@functools.cache
def hashed() -> str:
    """The hash of PASSWORD, made once."""
    return passwords.hash_password(PASSWORD)


class Running:
    """A running server as operations see it, which writes down what it was asked."""

    running = True

    def __init__(self, spool: Spool) -> None:
        self.asked: list[str] = []
        self.refuses = ""
        self._queue = StillQueue(spool, lambda: NOW)

    async def reload(self) -> None:
        self.asked.append("reload")
        if self.refuses:
            raise Refused(self.refuses)

    async def stop(self, *, drain: bool) -> None:
        self.asked.append("drain" if drain else "stop")

    async def sessions(self) -> list[SessionEntry]:
        return [SessionEntry("1-1", "pop3", "192.0.2.1", "ann@a.test", "2023-11-14T22:13:20+00:00", True, 1)]

    async def close_session(self, session_id: str) -> None:
        self.asked.append(f"close {session_id}")

    async def status(self) -> ServerStatus:
        return ServerStatus("1", 1, "2023-11-14T22:13:20+00:00", 1, 1, 0, 0, 1)

    async def counters(self) -> dict[str, int]:
        return {"login.ok": 1}

    async def events(self) -> AsyncIterator[str]:
        yield "T event=login outcome=ok"

    async def ask_queue(self, request: Request) -> Answer:
        return await perform(self._queue, request)


class Administered:
    """The administration of what lies below `root`; `perform` and `watch` wait for the answer."""

    def __init__(self, root: Path, settings: str = SETTINGS) -> None:
        self.directory = root / "config"
        if not self.directory.exists():
            self.directory.mkdir()
            (self.directory / "mailserver.toml").write_text(settings)
        self.pool = Pool("test", threads=2, waiting=100)
        config = self.config
        os.makedirs(config.maildirs, exist_ok=True)
        self.accounts = Accounts(config.domains, config.maildirs)
        self.spool = Spool(os.path.join(config.maildirs, ".queue"), lambda: NOW)
        self.spool.prepare()
        self.server = Running(self.spool)
        self.operators = Operators(config, self.pool)
        self.administration = Administration(config, self.server, self.pool, self.operators)

    @property
    def config(self) -> Config:
        return load(str(self.directory))

    def add_user(self, text: str, **settings: str) -> None:
        address = parse_mailbox(text)
        self.accounts.directory.add_user(address, hashed(), settings)
        self.accounts.user(address)[1].create()

    def trash(self, text: str, unique: str) -> None:
        """Let a user have a deleted message."""
        _, maildir = self.accounts.user(parse_mailbox(text))
        for name in ("tmp", "cur", "new"):
            os.makedirs(f"{maildir.path}/.Trash/{name}", exist_ok=True)
        with open(f"{maildir.path}/.Trash/cur/{unique}:2,T", "wb") as file:
            file.write(b"From: eve@far.test\nSubject: hi\n\nx\n")

    def queue(
        self, entry_id: str, sender: str, *recipients: str, user: str | None = None, forwarded_by: str = ""
    ) -> None:
        """Put a message into the queue, from a sender who has logged in, or from `user`."""
        given = tuple(Recipient(parse_mailbox(recipient)) for recipient in recipients)
        envelope = Envelope(parse_mailbox(sender) if sender else None, given, forwarded_by=forwarded_by)
        user = sender if user is None else user
        departure = self.spool.destination(entry_id, envelope, size=14, wire_size=17, user=user)
        put(self.spool, departure, b"Subject: x\n\nx\n")

    def perform(self, operator: Operator, words: str, /, **given: object) -> Any:
        return asyncio.run(self.administration.perform(operator, "test", words, given))

    def watch(self, operator: Operator, words: str, /, most: int = 1, **given: object) -> list[Any]:
        async def watched() -> list[Any]:
            found: list[Any] = []
            values = self.administration.watch(operator, "test", words, given)
            async for value in values:
                found.append(value)
                if len(found) == most:
                    break
            await values.aclose()
            return found

        return asyncio.run(watched())

    def close(self) -> None:
        self.pool.close()


def populated(root: Path) -> Administered:
    """Ann and Bob in a.test, Ann in b.test, an alias in each, a message in Ann's Trash, three in the queue."""
    made = Administered(root)
    for domain in ("a.test", "b.test"):
        made.accounts.add_domain(domain)
        made.add_user(f"ann@{domain}")
        made.accounts.add_alias(Address("info", domain), [Address("ann", domain)])
        made.trash(f"ann@{domain}", "1700000000.M1P1.host")
    made.add_user("bob@a.test")
    made.queue("M1", "ann@a.test", "x@far.test")
    made.queue("M2", "ann@b.test", "y@far.test")
    made.queue("M3", "ann@b.test", "y@far.test", "bob@a.test")
    made.queue("M4", "", "z@far.test")
    return made

"""The POP3 dialogues, played against a started server over TCP, TLS and UNIX sockets.

All are played without TLS, over STARTTLS, TLS and UNIX sockets, but: those about what is without TLS over no other;
a `peer` is said by a PROXY header, so over TCP and TLS only; `secure` is TLS from the first octet; `memory` says why
a dialogue is not played here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import serving
from conversation import Dialogue, play, read, unescape
from wire import IMPATIENT, KINDS, connected, endpoint

HERE = Path(__file__).parent.parent / "dialogues" / "pop3"


def kinds(dialogue: Dialogue) -> Iterator[str]:
    if dialogue.setting("secure"):
        yield "tls"
        return
    for kind in KINDS:
        if kind == "unix" and dialogue.setting("peer"):
            continue
        if kind in ("starttls", "tls") and (dialogue.setting("peer") or dialogue.setting("starttls")):
            continue  # without TLS is what they are about
        yield kind


PLAYS = [
    pytest.param(kind, dialogue, id=f"{kind}-{dialogue.file}:{dialogue.name}")
    for dialogue in read(HERE)
    if not dialogue.setting("memory")
    for kind in kinds(dialogue)
]

PROXY = 'proxy_from = ["127.0.0.1"]\n'
LISTENERS = {
    "plain": "",
    "tls": "",
    "unix": "",
    "plain-proxied": PROXY,
    "plain-proxied-cleartext": f"{PROXY}allow_cleartext_login = true\n",
    "tls-proxied": PROXY,
}


class Pop3:
    """A server for the POP3 corpus."""

    def __init__(self, site: serving.Site, *, certificate: bool, delay: str) -> None:
        self.site = site
        self.places = {
            kind: site.root / "pop3.sock" if kind == "unix" else site.ports.take()
            for kind in LISTENERS
            if certificate or not kind.startswith("tls")
        }
        site.configure(
            [
                ("pop3", endpoint(kind.partition("-")[0], place), LISTENERS[kind])
                for kind, place in self.places.items()
            ],
            f'[trash]\nretention = "14d"\n[pop3]\nlogin_delay = "{delay}s"\n',
            users=["ann@example.test", "jürgen@example.test"],
            certificate=certificate,
        )

    def place(self, kind: str, dialogue: Dialogue) -> int | Path:
        proxied = "-proxied" if dialogue.setting("peer") else ""
        cleartext = "-cleartext" if dialogue.setting("cleartext") else ""
        return self.places[f"{'plain' if kind == 'starttls' else kind}{proxied}{cleartext}"]

    def deliver(self, dialogue: Dialogue) -> None:
        for part in ("tmp", "cur", "new"):
            (new := self.site.mailbox("ann") / part).mkdir(parents=True)
        for number, text in enumerate(dialogue.all("message"), 1):
            wire = unescape(text)
            file = wire.replace(b"\r\n", b"\n")
            name = f"{1000 + number}.M1P1Q{number}.host,S={len(file)},W={len(wire)}"
            (new / name).write_bytes(file)

    def clear(self) -> None:
        """Empty the mailbox as soon as the last session has let go of it."""
        lock = self.site.mailbox("ann") / "pop3.lock"
        if lock.exists():
            with open(lock) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
        self.site.empty("ann")


@pytest.fixture(scope="module")
def pop3() -> Iterator[Callable[[str, Dialogue], Pop3]]:
    """The server for a dialogue: one for each value of what holds for a whole server."""
    started: dict[tuple[bool, str], Pop3] = {}

    def of(kind: str, dialogue: Dialogue) -> Pop3:
        certificate = bool(dialogue.setting("starttls")) or kind in ("starttls", "tls")
        key = certificate, dialogue.setting("login-delay", "0")
        if key not in started:
            made = Pop3(life.enter_context(serving.site()), certificate=key[0], delay=key[1])
            life.enter_context(made.site.serve(command=IMPATIENT))
            started[key] = made
        return started[key]

    with contextlib.ExitStack() as life:
        yield of


@pytest.mark.parametrize(("kind", "dialogue"), PLAYS)
def test_pop3(kind: str, dialogue: Dialogue, pop3: Callable[[str, Dialogue], Pop3]) -> None:
    server = pop3(kind, dialogue)

    async def converse() -> None:
        async with (
            asyncio.timeout(20),
            locked(server.place(kind, dialogue), dialogue, tls=kind == "tls"),
            connected(
                server.place(kind, dialogue), tls=kind == "tls", proxied=dialogue.setting("peer")
            ) as wire,
        ):
            if kind == "starttls":
                await wire.over_tls((b"STLS", b"+OK"))
            await play(dialogue, wire.send, wire.receive, wire.start_tls)

    server.deliver(dialogue)
    try:
        asyncio.run(converse())
    finally:
        server.clear()


@contextlib.asynccontextmanager
async def locked(place: int | Path, dialogue: Dialogue, *, tls: bool) -> AsyncIterator[None]:
    """Somebody else in the mailbox, where the dialogue is about that."""
    if not dialogue.setting("locked"):
        yield
        return
    async with connected(place, tls=tls) as wire:
        wire.send(f"USER ann@example.test\r\nPASS {serving.PASSWORD}\r\nNOOP\r\n".encode())
        heard = b""
        while b"Nothing done" not in heard:
            heard += await wire.receive()
        yield

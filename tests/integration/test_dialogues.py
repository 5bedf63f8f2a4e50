"""The dialogue corpora, played against a started server over TCP, TLS and UNIX sockets.

Which dialogue is played on which connection:

- `plain` and `unix`: all. `starttls` and `tls`: all but those that begin TLS themselves or list what is
  offered without it; within STARTTLS the greeting before TLS stands for the dialogue's.
- SMTP settings `size` and `recipients` are below what a configuration may say, and a started server has a
  queue (`queue: none`): in memory only.
- POP3 settings that are faults of the mailbox or the authenticator (`outcome`, `trouble`, `stuck`,
  `permanent`) need a stand-in that fails: in memory only. `peer` is said by a PROXY header, so TCP and TLS
  only; `secure` is TLS from the first octet.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import serving
from conversation import Dialogue, play, read, unescape
from office import CONFIGURATION, content

HERE = Path(__file__).parent.parent / "dialogues"
# What is no setting, because it is the same for everybody: how long a client in error is made to wait.
IMPATIENT = serving.patched(
    {
        "mailserver.smtp.server:ERROR_DELAY": 0.0,
        "mailserver.smtp.server:SMUGGLING_WAIT": 0.05,
        "mailserver.mta.guesses:Line.FREE": 1_000_000,
    }
)
IN_MEMORY = {"size", "recipients", "queue", "outcome", "trouble", "stuck", "permanent"}
KINDS = ("plain", "starttls", "tls", "unix")


def begins_tls(dialogue: Dialogue) -> bool:
    return any(step.kind == "T!" or "STARTTLS" in step.text or "STLS" in step.text for step in dialogue.steps)


def smtp_kinds(dialogue: Dialogue) -> Iterator[str]:
    for kind in KINDS:
        if kind in ("plain", "unix") or not begins_tls(dialogue):
            yield kind


def pop3_kinds(dialogue: Dialogue) -> Iterator[str]:
    if dialogue.setting("secure"):
        yield "tls"
        return
    for kind in KINDS:
        if kind == "unix" and dialogue.setting("peer"):
            continue
        if kind in ("starttls", "tls") and (dialogue.setting("peer") or dialogue.setting("starttls")):
            continue  # without TLS is what they are about
        yield kind


def plays(protocol: str, kinds: object) -> list[object]:
    return [
        pytest.param(kind, dialogue, id=f"{kind}-{dialogue.file}:{dialogue.name}")
        for dialogue in read(HERE / protocol)
        if not IN_MEMORY & {key for key, _ in dialogue.settings}
        for kind in kinds(dialogue)
    ]


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Wire:
    """A connection on which a dialogue is played."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._greeting = b""

    async def receive(self) -> bytes:
        held, self._greeting = self._greeting, b""
        return held or await self._reader.read(65536)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def start_tls(self) -> None:
        await self._writer.start_tls(client_tls())

    async def over_tls(self, *commands: tuple[bytes, bytes]) -> None:
        """Begin TLS by `commands`, each with the beginning of its last line of answer."""
        greeting = await self._reader.readline()
        for command, answer in commands:
            self.send(command + b"\r\n")
            while not (await self._reader.readline()).startswith(answer):
                pass
        await self.start_tls()
        self._greeting = greeting


@contextlib.asynccontextmanager
async def connected(place: int | Path, *, tls: bool = False, proxied: str = "") -> AsyncIterator[Wire]:
    """A connection to a port of loopback, or to a socket."""
    if isinstance(place, Path):
        reader, writer = await asyncio.open_unix_connection(place)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", place)
    try:
        if proxied:
            writer.write(f"PROXY TCP4 {proxied} 127.0.0.1 40000 110\r\n".encode())
        if tls:
            await writer.start_tls(client_tls())
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


# ---- SMTP and LMTP


class Smtp:
    """A server for the SMTP corpus, with the people and aliases of the office."""

    def __init__(self, site: serving.Site) -> None:
        self.site = site
        self.places: dict[tuple[str, str], int | Path] = {}
        for protocol in ("smtp", "lmtp"):
            for kind in ("plain", "tls", "unix"):
                place = site.root / f"{protocol}.sock" if kind == "unix" else site.ports.take()
                self.places[protocol, kind] = place
            self.places[protocol, "starttls"] = self.places[protocol, "plain"]
        site.configure(
            [
                (protocol, endpoint(kind, place))
                for (protocol, kind), place in self.places.items()
                if kind != "starttls"
            ],
            '[limits]\nmessage_size = "100000"\nrecipients = 100\n',
            users=[],
        )
        for name, text in CONFIGURATION.items():
            site.write(f"domains/{name}", text)

    def delivered(self) -> Counter[str]:
        return Counter(
            f"{file.parent.parent.name}@{file.parent.parent.parent.name}"
            for file in self.site.mail.glob("*/*/new/*")
        )

    def last(self, user: str) -> bytes:
        return content(max((self.site.mailbox(user) / "new").iterdir()))

    def clear(self) -> None:
        for mailbox in self.site.mail.glob("*/*"):
            if not mailbox.parent.name.startswith("."):
                self.site.empty(f"{mailbox.name}@{mailbox.parent.name}")


def endpoint(kind: str, place: int | Path) -> str:
    return (
        f"unix:{place}"
        if isinstance(place, Path)
        else f"{'tls' if kind == 'tls' else 'tcp'}:127.0.0.1:{place}"
    )


@pytest.fixture(scope="module")
def smtp() -> Iterator[Smtp]:
    with serving.site() as site:
        made = Smtp(site)
        with site.serve(command=IMPATIENT):
            yield made


@pytest.mark.parametrize(("kind", "dialogue"), plays("smtp", smtp_kinds))
def test_smtp(kind: str, dialogue: Dialogue, smtp: Smtp) -> None:
    protocol = dialogue.setting("protocol", "smtp")
    hello = b"LHLO client.test" if protocol == "lmtp" else b"EHLO client.test"

    async def converse() -> None:
        async with (
            asyncio.timeout(20),
            connected(smtp.places[protocol, kind], tls=kind == "tls") as wire,
        ):
            if kind == "starttls":
                await wire.over_tls((hello, b"250 "), (b"STARTTLS", b"220 "))
            await play(dialogue, wire.send, wire.receive, wire.start_tls)

    try:
        asyncio.run(converse())
        assert smtp.delivered() == Counter(
            {
                user if "@" in user else f"{user}@example.test": int(n)
                for user, n in (line.split() for line in dialogue.all("got"))
            }
        )
        for line in dialogue.all("content"):
            user, _, text = line.partition(" ")
            assert smtp.last(user) == unescape(text)
    finally:
        smtp.clear()


# ---- POP3

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


@pytest.mark.parametrize(("kind", "dialogue"), plays("pop3", pop3_kinds))
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

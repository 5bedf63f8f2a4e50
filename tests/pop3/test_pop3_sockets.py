"""The dialogue corpus again, over TCP, TLS and UNIX sockets, on mailboxes on disk: all parts but the server's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from conversation import Dialogue, play, read, unescape
from memory_maildrop import MemoryAuthenticator, policy

from mailserver.mailbox.maildir import Maildir
from mailserver.pool import Pool
from mailserver.pop3 import LINE_LIMIT, Pop3
from mailserver.transport.driver import Connections, Driver, Timeouts
from mailserver.transport.listener import Peer
from mailserver.transport.tls import Certificates, make_self_signed

ANYWHERE = {"message", "starttls", "login-delay"}  # settings that need no stand-in
DIALOGUES = [
    dialogue
    for dialogue in read(Path(__file__).parent.parent / "dialogues" / "pop3")
    if {key for key, _ in dialogue.settings} <= ANYWHERE
]
PLAYS = [
    (kind, dialogue)
    for kind in ("tcp", "tls", "unix")
    for dialogue in DIALOGUES
    if kind != "tls" or not dialogue.setting("starttls")
]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("tls")
    make_self_signed(str(directory), ["mail.example.test"])
    loaded = Certificates(str(directory), "mail.example.test")
    assert loaded.reload() == []
    return loaded


def deliver(directory: Path, dialogue: Dialogue) -> Maildir:
    maildir = Maildir(str(directory / "ann"))
    for name in ("tmp", "new", "cur"):
        Path(maildir.path, name).mkdir(parents=True)
    for number, text in enumerate(dialogue.all("message"), 1):
        message = unescape(text)
        content = message.replace(b"\r\n", b"\n")
        name = f"{1000 + number}.M1P1Q{number}.host,S={len(content)},W={len(message)}"
        Path(maildir.path, "new", name).write_bytes(content)
    return maildir


@contextlib.asynccontextmanager
async def served(
    kind: str, maildir: Maildir, dialogue: Dialogue, certificates: Certificates, directory: Path
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection of `kind` to a server for one mailbox."""
    pool = Pool("test", 2, 10)
    connections = Connections()
    pop3 = Pop3(MemoryAuthenticator(), lambda user: maildir, pool)
    rules = policy(
        starttls=bool(dialogue.setting("starttls")), login_delay=float(dialogue.setting("login-delay", "0"))
    )
    peer = Peer("127.0.0.1", 40000, None, kind == "tls")

    def factory() -> Driver:
        return Driver(
            pop3.session(peer, rules),
            peer,
            pool=pool,
            timeouts=Timeouts(600, 3600),
            line_limit=LINE_LIMIT,
            tls=lambda: certificates.context,
            connections=connections,
        )

    loop = asyncio.get_running_loop()
    path = str(directory / "pop3.sock")
    if kind == "unix":
        server = await loop.create_unix_server(factory, path)
        streams = await asyncio.open_unix_connection(path)
    else:
        context = certificates.context if kind == "tls" else None
        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        streams = await asyncio.open_connection("127.0.0.1", port, ssl=client_tls() if context else None)
    try:
        yield streams
    finally:
        streams[1].close()
        server.close()
        await connections.drain(5)
        pool.close()


def client_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("kind", "dialogue"), PLAYS, ids=[f"{kind}-{dialogue.file}:{dialogue.name}" for kind, dialogue in PLAYS]
)
def test_on_a_socket(dialogue: Dialogue, kind: str, certificates: Certificates, tmp_path: Path) -> None:
    async def converse() -> None:
        maildir = deliver(tmp_path, dialogue)
        async with (
            asyncio.timeout(20),
            served(kind, maildir, dialogue, certificates, tmp_path) as (reader, writer),
        ):
            start_tls = partial(writer.start_tls, client_tls())
            await play(dialogue, writer.write, partial(reader.read, 65536), start_tls)

    asyncio.run(converse())

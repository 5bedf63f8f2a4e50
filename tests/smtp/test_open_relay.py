"""Every known way to ask a mail server for a relay, by somebody who is not logged in: none may leave.

In memory, as a client of every kind: mail from outside, LMTP, and submission without a login.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from conversation import Memory
from outbound import NOBODY, ROOT, Outbound
from relay_attempts import FORMS, HERE_AFTER_ALL, attempts

import mailserver.smtp.conversation as conversation
from mailserver.smtp.server import Session
from mailserver.transport.listener import Peer


def test_there_are_enough() -> None:
    assert len(FORMS) >= 114


def sessions(office: Outbound) -> Iterator[tuple[str, Session]]:
    yield "smtp", office.session()
    yield "smtp over TLS", office.session(secure=True)
    yield "smtp on loopback", office.session(peer="127.0.0.1")
    yield "smtp on a socket", office.session(peer="unix")
    yield "lmtp", office.session(lmtp=True)
    yield "submission", office.submission(peer=Peer("127.0.0.1", 40000, None, True))
    yield "submission on a socket", office.submission(peer=Peer("unix", 0, NOBODY, False))
    yield "a uid without a socket", office.submission(peer=Peer("192.0.2.1", 0, ROOT, True))


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outbound]:
    made = Outbound(tmp_path_factory.mktemp("office"))
    yield made
    made.close()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_leaves(form: str, office: Outbound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "ERROR_DELAY", 0.0)

    async def converse(hello: str, session: Session) -> bytes:
        wire = Memory(session)
        wire.send("\r\n".join([f"{hello} client.test", *attempts([form]), "QUIT", ""]).encode())
        heard = b""
        while block := await wire.receive():
            heard += block
        return heard

    async def every_way() -> dict[str, bytes]:
        async with asyncio.timeout(20):
            return {
                name: await converse("LHLO" if name == "lmtp" else "EHLO", session)
                for name, session in sessions(office)
            }

    for name, heard in asyncio.run(every_way()).items():
        assert heard.endswith(b"221 2.0.0 mx.example.test closing connection\r\n"), name
        assert b"\r\n4" not in heard, f"{name}: a refusal that invites to try again"
        assert b"250 2.1.5" not in heard or form in HERE_AFTER_ALL, name
    assert list(office.spool.ids()) == []

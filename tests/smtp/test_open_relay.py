"""Every known way to ask a mail server for a relay, by somebody who is not logged in: none may leave.

Each form is tried with several senders on a port for mail from outside, by LMTP, and, not logged in, on the
port for submission. A form that names somebody here (a source route to him) may be taken: for him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from conversation import Memory
from outbound import NOBODY, ROOT, Outbound

import mailserver.smtp.server as server
from mailserver.smtp.server import Session
from mailserver.transport.listener import Peer

AWAY = "elsewhere.test"
HERE = ("example.test", "EXAMPLE.TEST", "catch.test", "bounce.test", "xn--bcher-kva.example")
OURS = (
    *HERE,
    "mx.example.test",
    "localhost",
    "localhost.localdomain",
    "[127.0.0.1]",
    "[192.0.2.1]",
    "[IPv6:::1]",
)
LOCALS = (
    "{victim}%{away}",
    "{victim}%{away}%{here}",
    '"{victim}@{away}"',
    '"{victim}%{away}"',
    "{away}!{victim}",
    "{here}!{away}!{victim}",
    '"{away}!{victim}"',
    "{victim}@{away}",
    '"{victim}@{away}@{here}"',
    "victim={away}",
)
ALONE = (
    f"<victim@{AWAY}>",
    f'<"victim"@{AWAY}>',
    f"victim@{AWAY}",
    f"<victim@{AWAY}.>",
    f"<victim@[{AWAY}]>",
    "<victim@[10.0.0.1]>",
    "<victim@[IPv6:2001:db8::1]>",
    "<victim@10.0.0.1>",
    "<victim@2130706433>",
    f"<@{AWAY}>",
    f"<@example.test:victim@{AWAY}>",
    f"<@localhost:victim@{AWAY}>",
    f"<@[127.0.0.1]:victim@{AWAY}>",
    f"<@{AWAY}:victim@{AWAY}>",
    f"<@example.test,@{AWAY}:victim@{AWAY}>",
    f"<@example.test:@{AWAY}:victim@{AWAY}>",
    f"<@example.test;victim@{AWAY}>",
    f"<@example.test:{AWAY}!victim>",
    f"<@example.test:victim%{AWAY}@example.test>",
    f"<@{AWAY}:ann%{AWAY}@example.test>",
    f"<example.test:victim@{AWAY}>",
    f"<victim@example.test@{AWAY}>",
    f"<victim@{AWAY}@example.test>",
    f"<victim%example.test@{AWAY}>",
    f"<example.test!victim@{AWAY}>",
    f"<{AWAY}!victim>",
    f"<{AWAY}!victim@localhost>",
    f"<victim%{AWAY}>",
    f"<victim%{AWAY}@>",
    f"<victim@{AWAY}%example.test>",
    f"<victim@{AWAY}:25>",
    f"<victim@{AWAY},ann@example.test>",
    f"<ann@example.test,victim@{AWAY}>",
    f"<ann@example.test> <victim@{AWAY}>",
    f"<ann@example.test>,<victim@{AWAY}>",
    f"<ann@example.test>victim@{AWAY}",
    f"<<victim@{AWAY}>>",
    f"<victim@{AWAY}> <ann@example.test>",
    f"victim@{AWAY} <ann@example.test>",
    f'"ann@example.test" <victim@{AWAY}>',
    f"<smtp:victim@{AWAY}>",
    f"<mailto:victim@{AWAY}>",
    f"<victim@{AWAY}(example.test)>",
    f"<victim(example.test)@{AWAY}>",
    f"<victim@example.test.{AWAY}>",
    "<victim@sub.example.test>",
    "<victim@notexample.test>",
    "<victim@example.test.evil.test>",
    "<victim@test>",
    "<victim@localhost>",
    "<victim@[127.0.0.1]>",
    f"<|/usr/sbin/sendmail victim@{AWAY}>",
    '<"|/usr/sbin/sendmail victim"@example.test>',
    '<"/tmp/file"@example.test>',
    '<":include:/etc/passwd"@example.test>',
    f'<"ann@example.test> ORCPT=rfc822;victim@{AWAY}"@{AWAY}>',
    f'<"ann\\@example.test"@{AWAY}>',
    f'<"victim@{AWAY}\\""@example.test>',
    f"<ann+victim@{AWAY}>",
    f"<ann+victim%{AWAY}@{AWAY}>",
    f"<victim+{AWAY}@{AWAY}>",
    f"<victim=40{AWAY}@{AWAY}>",
    f"<SRS0=aaaaaaaa=aa={AWAY}=victim@example.test>",
    f"<SRS0=aaaa=aa={AWAY}=victim@example.test>",
    f"<srs0-aaaaaaaa=aa={AWAY}=victim@example.test>",
    f"<SRS1=aaaaaaaa={AWAY}==aaaa=aa=client.test=victim@example.test>",
    f"<SRS1=aaaaaaaa={AWAY}==victim@example.test>",
    f"<SRS0=aaaaaaaa=aa={AWAY}=victim@{AWAY}>",
    f"<prvs=1234567890=victim@{AWAY}>",
    "<victim@ELSEWHERE.TEST>",
    f"<victim%{AWAY}@away.test>",
    f"<{AWAY}!victim@away.test>",
    f'<"victim@{AWAY}"@away.test>',
    "<victim@xn--lsewhere-90a.test>",
    "<victim@\u212axample.test>",
    "<victim@example\uff0etest.evil.test>",
)
BUILT = tuple(
    f"<{local.format(victim='victim', away=AWAY, here=here.strip('[]'))}@{here}>"
    for local in LOCALS
    for here in OURS
)
FORMS = tuple(dict.fromkeys(ALONE + BUILT))
SENDERS = ("<>", "<spam@client.test>", f"<victim@{AWAY}>", "<ann@example.test>", "<spam@localhost>")


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
    monkeypatch.setattr(server, "ERROR_DELAY", 0.0)
    lines = []
    for sender in SENDERS:
        lines += [f"MAIL FROM:{sender} SMTPUTF8", f"RCPT TO:{form}", "BDAT 3 LAST\r\nx", "RSET"]

    async def converse(hello: str, session: Session) -> bytes:
        wire = Memory(session)
        wire.send("\r\n".join([f"{hello} client.test", *lines, "QUIT", ""]).encode())
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


# What names somebody here, whatever else it says.
HERE_AFTER_ALL = {
    "<victim=elsewhere.test@catch.test>",
    "<victim=elsewhere.test@bounce.test>",
}

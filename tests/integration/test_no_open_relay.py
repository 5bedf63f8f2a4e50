"""A started server, asked for a relay in every known way by clients who are not logged in: nothing leaves.

On the ports for mail from outside and for submission, without TLS, over STARTTLS and TLS, over UNIX sockets as
another user, by LMTP, and after a login that failed; and by clients who pretend to be somebody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
import serving
from outbound import NOBODY
from relay_attempts import FORMS, HERE_AFTER_ALL, PRETENCES, SENDERS, attempts, pretended
from started_office import StartedOffice
from wire import IMPATIENT, connected

AT_ONCE = 6  # forms tried over a connection: after a hundred refusals it is closed
WAYS = [
    *[("smtp", kind) for kind in ("plain", "starttls", "tls", "unix")],
    *[("submission", kind) for kind in ("plain", "starttls", "tls", "unix")],
    *[("lmtp", kind) for kind in ("plain", "unix")],
]
WRONG = "AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAd3Jvbmc="  # ann, with the password "wrong"


@pytest.fixture(scope="module")
def office() -> Iterator[tuple[StartedOffice, serving.Server]]:
    with serving.site() as site:
        made = StartedOffice(site)
        with site.serve(command=IMPATIENT) as server:
            yield made, server


every_way = pytest.mark.parametrize(("protocol", "kind"), WAYS, ids=["-".join(way) for way in WAYS])


async def ask(server: StartedOffice, protocol: str, kind: str, lines: list[str]) -> bytes:
    """All that the server says to these commands, which come at once."""
    uid = NOBODY if kind == "unix" and os.geteuid() == 0 else None
    if protocol == "submission" and kind == "unix" and uid is None:
        pytest.skip("only root can be another user, and this one may send")
    async with connected(server.places[protocol, kind], tls=kind == "tls", uid=uid) as wire:
        if kind == "starttls":
            await wire.over_tls((hello(protocol).encode(), b"250 "), (b"STARTTLS", b"220 "))
        wire.send("".join(f"{line}\r\n" for line in [*lines, "QUIT"]).encode())
        heard = b""
        while block := await wire.receive():
            heard += block
    assert heard.endswith(b"\r\n221 2.0.0 mx.example.test closing connection\r\n"), lines
    return heard


def hello(protocol: str) -> str:
    return "LHLO client.test" if protocol == "lmtp" else "EHLO client.test"


@every_way
def test_nothing_leaves(protocol: str, kind: str, office: tuple[StartedOffice, serving.Server]) -> None:
    server = office[0]
    login = [WRONG] if protocol == "submission" else []

    async def every_form() -> None:
        async with asyncio.timeout(60):
            for begin in range(0, len(FORMS), AT_ONCE):
                forms = FORMS[begin : begin + AT_ONCE]
                heard = await ask(server, protocol, kind, [hello(protocol), *login, *attempts(forms)])
                assert b"\r\n4" not in heard, f"a refusal that invites to try again: {forms}"
                here = len(SENDERS) * len(HERE_AFTER_ALL.intersection(forms))
                assert heard.count(b"250 2.1.5") == (0 if protocol == "submission" else here), forms

    asyncio.run(every_form())
    assert list(server.spool.ids()) == []


@every_way
def test_nobody_is_believed(protocol: str, kind: str, office: tuple[StartedOffice, serving.Server]) -> None:
    server = office[0]

    async def every_pretence() -> None:
        async with asyncio.timeout(60):
            for pretence in PRETENCES:
                heard = await ask(server, protocol, kind, pretended(pretence))
                assert b"\r\n235" not in heard, pretence
                assert b"\r\n250 2.1.5" not in heard, pretence

    asyncio.run(every_pretence())
    assert list(server.spool.ids()) == []


def test_what_was_taken_was_for_somebody_here(office: tuple[StartedOffice, serving.Server]) -> None:
    server, process = office
    assert process.events("delivery") == []
    stored = [mailbox for mailbox in server.site.mail.glob("[!.]*/*/new") if any(mailbox.iterdir())]
    assert {mailbox.parent.relative_to(server.site.mail).as_posix() for mailbox in stored} == {
        "catch.test/all",
        "bounce.test/postmaster",
    }

"""Which relay a message takes, and what the doctor says about one."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from remote_host import HANGUP, RemoteHost, Script

from mailserver.delivery import doctor
from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.relays import Relays
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.mail.address import parse_mailbox
from mailserver.pool import Pool

LOGIN_AND_TLS = "250-remote.test\n250-STARTTLS\n250-SIZE 10\n250 AUTH PLAIN"


def relay(name: str, **more: Any) -> Relay:
    return Relay(name=name, hosts=(Host("127.0.0.1", 25),), **more)


RELAYS = Relays(
    [
        relay("boss", senders=("ann@here.test",)),
        relay("house", senders=("here.test",)),
        relay("partner", recipients=("partner.test",)),
        relay("rest", default=True),
        relay("second", default=True, senders=("here.test",), recipients=("partner.test",)),
    ]
)


@pytest.mark.parametrize(
    ("sender", "recipient", "expected"),
    [
        ("ann@here.test", "x@partner.test", "boss"),
        ("Ann@here.test", "x@y.test", "boss"),
        ("bob@here.test", "x@partner.test", "house"),
        ("eve@other.test", "x@partner.test", "partner"),
        ("eve@other.test", "x@sub.partner.test", "rest"),
        ("eve@sub.here.test", "x@y.test", "rest"),
        (None, "x@partner.test", "partner"),
        (None, "x@y.test", "rest"),
    ],
)
def test_choice(sender: str | None, recipient: str, expected: str) -> None:
    chosen = RELAYS.choose(parse_mailbox(sender) if sender else None, parse_mailbox(recipient))
    assert chosen is RELAYS.named(expected)


def test_without_a_default_mail_goes_straight() -> None:
    relays = Relays([relay("boss", senders=("ann@here.test",))])
    assert relays.choose(parse_mailbox("bob@here.test"), parse_mailbox("x@y.test")) is None
    assert relays.named("other") is None
    assert [one.name for one in relays] == ["boss"]


def examine(
    path: Path, script: Script, *, port: int = 0, certificate: str = "127.0.0.1", **more: Any
) -> list[doctor.Step]:
    """What the doctor says about a relay with this host."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(certificate).configure_cert(context)
    secret = path / "secret"
    secret.touch(0o600)
    secret.write_text("pass word\n")

    async def whole() -> list[doctor.Step]:
        pool = Pool("test", 1, 5)
        async with RemoteHost(script, tls=context) as host:
            hosts = more.pop("hosts", (Host("127.0.0.1", port or host.port),))
            one = Relay(name="out", hosts=hosts, authorities=str(path / "ca.pem"), **more)
            steps = [step async for step in doctor.test(one, Manner("here.test", Limits(greeting=1)), pool)]
            assert not any(command.startswith("MAIL") for command in host.commands)
        pool.close()
        return steps

    steps = asyncio.run(whole())
    assert not any("pass word" in step.text or "cGFzcyB3b3Jk" in step.text for step in steps)
    return steps


def test_a_relay_that_is_well(tmp_path: Path) -> None:
    steps = examine(tmp_path, {"EHLO": LOGIN_AND_TLS}, user="me", secret=str(tmp_path / "secret"))
    assert all(step.good for step in steps)
    text = "\n".join(step.text for step in steps)
    for part in (
        "secret of me",
        "remote.test ESMTP",
        "TLSv1.3",
        "good for 127.0.0.1",
        "login of me",
        "AUTH, SIZE",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("script", "more", "part"),
    [
        (
            {"EHLO": LOGIN_AND_TLS, "AUTH": "535 5.7.8 wrong"},
            {"user": "me"},
            "check the user's name and the secret",
        ),
        ({"EHLO": LOGIN_AND_TLS}, {"certificate": "other.test"}, "certificate is not accepted"),
        ({}, {}, "does not offer STARTTLS"),
        ({"greeting": "554 5.7.1 not you"}, {}, "not you"),
        ({"greeting": HANGUP}, {}, "closed the connection"),
        ({}, {"hosts": (Host("nowhere.invalid", 587),)}, "nowhere.invalid"),
        ({}, {"tls": Level.NONE, "hosts": (Host("127.0.0.77", 25),)}, "block port 25"),
        (
            {"EHLO": LOGIN_AND_TLS},
            {"user": "me", "secret": "/nonexistent/secret"},
            "secret file cannot be read",
        ),
    ],
)
def test_a_relay_that_is_not(tmp_path: Path, script: Script, more: dict[str, Any], part: str) -> None:
    settings = {"secret": str(tmp_path / "secret"), **more} if "user" in more else more
    steps = examine(tmp_path, script, **settings)
    assert part in "\n".join(step.text for step in steps if not step.good)


@pytest.mark.parametrize("text", [None, "", "no certificate", "a pipe"])
def test_a_file_of_authorities_that_cannot_be_used(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "authorities.pem"
    if text == "a pipe":  # which nobody writes to
        os.mkfifo(path)
    elif text is not None:
        path.write_text(text)
    one = Relay(name="out", hosts=(Host("127.0.0.1", 1),), authorities=str(path))

    async def whole() -> list[doctor.Step]:
        pool = Pool("test", 1, 5)
        steps = [step async for step in doctor.test(one, Manner("here.test", Limits()), pool)]
        pool.close()
        return steps

    (step,) = asyncio.run(whole())
    assert not step.good
    assert "file of authorities cannot be used" in step.text
    assert str(path) not in step.text

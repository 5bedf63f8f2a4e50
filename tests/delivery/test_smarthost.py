"""The courier of a relay: fail-over, TLS and login, and trouble that never bounces a message."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from deliveries import delivery
from msgspec.structs import replace
from remote_host import HANGUP, STALL, RemoteHost, Script

from mailserver import maillog
from mailserver.delivery.limits import Limits
from mailserver.delivery.relay import Host, Relay
from mailserver.delivery.security import Level
from mailserver.delivery.session import Manner
from mailserver.delivery.smarthost import Smarthost
from mailserver.pool import Pool
from mailserver.queue.courier import Delivery, Kind, Outcome

IN_A_MOMENT = Limits(
    connect=2, tls=0.5, greeting=0.2, mail=0.2, recipient=0.2, data=0.2, block=0.2, end=0.2, quit=0.2
)
OFFERS_TLS = "250-remote.test\n250-STARTTLS\n250 AUTH PLAIN LOGIN"
OFFERS_LOGIN = "250-remote.test\n250 AUTH PLAIN LOGIN"


class Site:
    """An authority, hosts with certificates of it, and a secret."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ca = trustme.CA()
        self.authorities = str(path / "authorities.pem")
        self.ca.cert_pem.write_to_path(self.authorities)
        self.secret = path / "secret"
        self.secret.write_text("pass word\n")
        self.secret.chmod(0o600)
        self.letters = path / "letters"
        self.letters.mkdir()

    def server_context(self, name: str = "127.0.0.1", *, trusted: bool = True) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (self.ca if trusted else trustme.CA()).issue_cert(name).configure_cert(context)
        return context

    def letter(self, *to: str, **more: Any) -> Delivery:
        return delivery(self.letters, *to, **more)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, object]]]:
    seen: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
    return seen


def relay(site: Site, *ports: int, **more: Any) -> Relay:
    settings: dict[str, Any] = {"tls": Level.NONE, "authorities": site.authorities, **more}
    if settings.get("user"):
        settings.setdefault("secret", str(site.secret))
    return Relay(name="out", hosts=tuple(Host("127.0.0.1", port) for port in ports), **settings)


def play(
    test: Callable[[Callable[[Relay], Smarthost]], Awaitable[None]], limits: Limits = IN_A_MOMENT
) -> None:
    """Run a test with a maker of couriers, which are closed afterwards."""

    async def whole() -> None:
        pool = Pool("test", 2, 100)
        made: list[Smarthost] = []

        def courier(relay: Relay) -> Smarthost:
            made.append(Smarthost(relay, Manner("here.test", limits), pool))
            return made[-1]

        try:
            await test(courier)
        finally:
            for one in made:
                await one.close()
            pool.close()

    asyncio.run(whole())


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind.value for outcome in outcomes]


def test_a_letter_arrives_as_it_is(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            outcomes = await courier(relay(site, host.port)).deliver(
                site.letter("ann@there.test", "bob@there.test")
            )
            assert kinds(outcomes) == ["delivered", "delivered"]
            assert outcomes[0].reply == "250 2.0.0 taken"
            assert outcomes[0].remote == f"127.0.0.1[127.0.0.1]:{host.port}"
            (message,) = host.messages
            assert message.mail == f"MAIL FROM:<a@here.test> SIZE={site.letter().size}"
            assert message.rcpts == ["RCPT TO:<ann@there.test>", "RCPT TO:<bob@there.test>"]
            assert message.wire.endswith(b"\r\n\r\nfirst line\r\n..\r\n...two dots\r\nlast line\r\n.\r\n")
            assert host.commands[0] == "EHLO here.test"

    play(test)


def test_the_next_host_is_asked(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with (
            RemoteHost({"greeting": "554 not today"}) as full,
            RemoteHost({"MAIL": HANGUP}) as broken,
            RemoteHost() as good,
        ):
            closed = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
            nobody = closed.sockets[0].getsockname()[1]
            closed.close()
            out = courier(relay(site, nobody, full.port, broken.port, good.port))
            outcomes = await out.deliver(site.letter())
            assert kinds(outcomes) == ["delivered"]
            assert full.connections == broken.connections == 1
            assert len(good.messages) == 1

    play(test)


def test_two_hosts_that_break_off_are_enough(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"MAIL": HANGUP}) as broken, RemoteHost() as good:
            outcomes = await courier(relay(site, broken.port, broken.port, good.port)).deliver(site.letter())
            assert kinds(outcomes) == ["deferred"]
            assert not outcomes[0].unreachable
            assert good.connections == 0

    play(test)


@pytest.mark.parametrize(
    "script", [{"greeting": "554 5.7.1 go away"}, {"EHLO": "550 no", "HELO": "550 no"}, {"greeting": STALL}]
)
def test_a_relay_that_does_not_let_us_in_bounces_nothing(site: Site, script: Script) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost(script) as host:
            (outcome,) = await courier(relay(site, host.port)).deliver(site.letter())
            assert outcome.kind is Kind.DEFERRED
            assert outcome.unreachable
            assert outcome.status.startswith("4.")

    play(test)


def test_login_plain(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_LOGIN}) as host:
            outcomes = await courier(relay(site, host.port, user="me")).deliver(site.letter())
            assert kinds(outcomes) == ["delivered"]
            assert host.commands[1] == "AUTH PLAIN " + base64.b64encode(b"\0me\0pass word").decode()

    play(test)


def test_login_login(site: Site) -> None:
    async def test(courier: Any) -> None:
        offer = "250-remote.test\n250 AUTH=LOGIN"
        script: Script = {"EHLO": offer, "AUTH": ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"]}
        async with RemoteHost(script) as host:
            outcomes = await courier(relay(site, host.port, user="me")).deliver(site.letter())
            assert kinds(outcomes) == ["delivered"]
            assert host.commands[1:4] == [
                "AUTH LOGIN",
                base64.b64encode(b"me").decode(),
                base64.b64encode(b"pass word").decode(),
            ]

    play(test)


def test_a_refused_login_defers_and_is_told_once(site: Site, events: list[tuple[str, Any]]) -> None:
    async def test(courier: Any) -> None:
        script: Script = {
            "EHLO": OFFERS_LOGIN,
            "AUTH": ["535 5.7.8 wrong, id 1", "535 5.7.8 wrong, id 2", "235 ok"],
        }
        async with RemoteHost(script) as host, RemoteHost({"EHLO": OFFERS_LOGIN}) as other:
            out = courier(relay(site, host.port, other.port, user="me"))
            for _ in range(2):
                outcomes = await out.deliver(site.letter("ann@there.test", "bob@there.test"))
                assert kinds(outcomes) == ["deferred", "deferred"]
                assert outcomes[0].unreachable
                assert (outcomes[0].code, outcomes[0].status) == (535, "4.7.8")
            assert other.connections == 0, "a second refusal of the same password may lock the account"
            ((name, told),) = events
            assert name == "relay-trouble"
            assert told["relay"] == "out"
            assert "secret" in told["advice"]
            assert "pass" not in str(told)
            assert out.troubles
            assert kinds(await out.deliver(site.letter())) == ["delivered"]
            assert [name for name, _ in events] == ["relay-trouble", "relay-well"]
            assert not out.troubles

    play(test)


def test_a_login_that_cannot_be_checked_now_is_no_trouble(site: Site, events: list[tuple[str, Any]]) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_LOGIN, "AUTH": "454 4.7.0 later"}) as host:
            (outcome,) = await courier(relay(site, host.port, user="me")).deliver(site.letter())
            assert (outcome.kind, outcome.status) == (Kind.DEFERRED, "4.7.0")
            assert events == []

    play(test)


@pytest.mark.parametrize(
    ("mode", "text"), [(0o644, "x\n"), (0o600, "\n"), (0o600, "y" * 2000), (0o600, None)], ids=str
)
def test_a_secret_that_cannot_be_used(
    site: Site, events: list[tuple[str, Any]], mode: int, text: str | None
) -> None:
    if text is None:
        site.secret.unlink()
    else:
        site.secret.write_text(text)
        site.secret.chmod(mode)

    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_LOGIN}) as host:
            (outcome,) = await courier(relay(site, host.port, user="me")).deliver(site.letter())
            assert (outcome.kind, outcome.status) == (Kind.DEFERRED, "4.3.5")
            assert host.connections == 0
            assert [name for name, _ in events] == ["relay-trouble"]
            assert str(site.secret) not in str(events) + str(outcome)

    play(test)


@pytest.mark.parametrize("code", [530, 535])
def test_a_relay_that_wants_a_login_bounces_nothing(
    site: Site, events: list[tuple[str, Any]], code: int
) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"MAIL": f"{code} 5.7.0 authentication required"}) as host:
            (outcome,) = await courier(relay(site, host.port)).deliver(site.letter())
            assert outcome.kind is Kind.DEFERRED
            assert outcome.unreachable
            assert [name for name, _ in events] == ["relay-trouble"]

    play(test)


@pytest.mark.parametrize("level", [Level.REQUIRED, Level.OPPORTUNISTIC])
def test_starttls(site: Site, level: Level) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_TLS}, tls=site.server_context()) as host:
            outcomes = await courier(relay(site, host.port, tls=level, user="me")).deliver(site.letter())
            assert kinds(outcomes) == ["delivered"]
            assert [command.split(" ")[0] for command in host.commands[:4]] == [
                "EHLO",
                "STARTTLS",
                "EHLO",
                "AUTH",
            ]

    play(test)


def test_implicit_tls(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_LOGIN}, tls=site.server_context(), implicit=True) as host:
            out = courier(relay(site, host.port, tls=Level.IMPLICIT, user="me"))
            assert kinds(await out.deliver(site.letter())) == ["delivered"]

    play(test)


@pytest.mark.parametrize("level", [Level.REQUIRED, Level.IMPLICIT])
@pytest.mark.parametrize("fault", ["name", "authority"])
def test_a_certificate_that_proves_nothing(
    site: Site, events: list[tuple[str, Any]], level: Level, fault: str
) -> None:
    context = site.server_context("other.test" if fault == "name" else "127.0.0.1", trusted=fault == "name")

    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": OFFERS_TLS}, tls=context, implicit=level is Level.IMPLICIT) as host:
            (outcome,) = await courier(relay(site, host.port, tls=level, user="me")).deliver(site.letter())
            assert (outcome.kind, outcome.status) == (Kind.DEFERRED, "4.7.5")
            assert outcome.unreachable
            assert [name for name, _ in events] == ["relay-trouble"]
            assert not any(command.startswith(("AUTH", "MAIL")) for command in host.commands)
            unproven = relay(site, host.port, tls=level, user="me", verify=False)
            assert kinds(await courier(unproven).deliver(site.letter())) == ["delivered"]

    play(test)


def test_authorities_that_were_changed_count_at_once(site: Site) -> None:
    async def test(courier: Any) -> None:
        context = site.server_context("127.0.0.1")
        async with RemoteHost({"EHLO": OFFERS_TLS}, tls=context) as host:
            out = courier(relay(site, host.port, tls=Level.REQUIRED))
            assert kinds(await out.deliver(site.letter())) == ["delivered"]
            for authority, expected in ((trustme.CA(), "deferred"), (site.ca, "delivered")):
                fresh = Path(f"{site.authorities}.new")
                authority.cert_pem.write_to_path(str(fresh))
                fresh.replace(site.authorities)
                assert kinds(await out.deliver(site.letter())) == [expected]

    play(test, replace(IN_A_MOMENT, messages=1))


def test_required_tls_that_is_not_offered(site: Site, events: list[tuple[str, Any]]) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            (outcome,) = await courier(relay(site, host.port, tls=Level.REQUIRED)).deliver(site.letter())
            assert (outcome.kind, outcome.status) == (Kind.DEFERRED, "4.7.4")
            assert host.messages == []
            assert [name for name, _ in events] == ["relay-trouble"]

    play(test)


@pytest.mark.parametrize(
    "script", [{"STARTTLS": "454 4.7.0 no"}, {"STARTTLS": "220 go\n"}, {"STARTTLS": HANGUP}]
)
def test_opportunistic_tls_that_fails(site: Site, script: Script) -> None:
    """The letter goes in clear text, a password never does."""

    async def test(courier: Any) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate: every handshake fails
        async with RemoteHost({"EHLO": OFFERS_TLS, **script}, tls=context) as host:
            opportunistic = relay(site, host.port, tls=Level.OPPORTUNISTIC)
            assert kinds(await courier(opportunistic).deliver(site.letter())) == ["delivered"]
            with_login = relay(site, host.port, tls=Level.OPPORTUNISTIC, user="me")
            assert kinds(await courier(with_login).deliver(site.letter())) == ["deferred"]
            assert not any(command.startswith("AUTH") for command in host.commands)

    play(test)


def test_what_is_said_before_tls_is_forgotten(site: Site) -> None:
    async def test(courier: Any) -> None:
        script: Script = {
            "EHLO": [OFFERS_TLS + "\n", "250 remote.test"],
            "STARTTLS": b"220 go\r\n250-AUTH PLAIN\r\n",
        }
        async with RemoteHost(script, tls=site.server_context()) as host:
            (outcome,) = await courier(relay(site, host.port, tls=Level.REQUIRED, user="me")).deliver(
                site.letter()
            )
            assert outcome.kind is Kind.DEFERRED
            assert not any(command.startswith("AUTH") for command in host.commands)

    play(test)


def test_a_relay_that_is_ourselves(site: Site, events: list[tuple[str, Any]]) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"EHLO": "250-here.test at your service\n250 SIZE"}) as host:
            (outcome,) = await courier(relay(site, host.port)).deliver(site.letter())
            assert (outcome.kind, outcome.status) == (Kind.DEFERRED, "4.4.6")
            assert [name for name, _ in events] == ["relay-trouble"]

    play(test)


def test_connections_are_used_again(site: Site) -> None:
    limits = IN_A_MOMENT.__class__(
        **{**{f: getattr(IN_A_MOMENT, f) for f in IN_A_MOMENT.__struct_fields__}, "messages": 3}
    )

    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            out = courier(relay(site, host.port))
            for _ in range(7):
                assert kinds(await out.deliver(site.letter())) == ["delivered"]
            assert host.connections == 3
            await out.close()
            await host.closed()
            assert host.commands.count("QUIT") == 3

    play(test, limits)


def test_a_kept_connection_that_was_closed_is_no_failure(site: Site) -> None:
    async def test(courier: Any) -> None:
        replies = ["250 ok", HANGUP, "250 ok", "421 4.3.2 idle too long", "250 ok"]
        async with RemoteHost({"MAIL": replies}) as host:
            out = courier(relay(site, host.port))
            for _ in range(3):
                assert kinds(await out.deliver(site.letter())) == ["delivered"]
            assert host.connections == 3

    play(test)


def test_idle_connections_are_left(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            out = courier(relay(site, host.port))
            await out.deliver(site.letter())
            await host.closed()
            assert host.commands[-1] == "QUIT"
            assert kinds(await out.deliver(site.letter())) == ["delivered"]

    play(test, Limits(idle=0.01))


def test_other_routes_do_not_share_a_connection(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            out = courier(relay(site, host.port))
            await out.deliver(site.letter(route="one"))
            await out.deliver(site.letter(route="two"))
            assert host.connections == 2

    play(test)


def test_a_cancelled_attempt_leaves_no_connection(site: Site) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost({"end": STALL}) as host:
            out = courier(relay(site, host.port))
            job = asyncio.create_task(out.deliver(site.letter()))
            await host.received()
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            await host.closed()

    play(test, Limits())


def test_a_name_without_address(site: Site, events: list[tuple[str, Any]]) -> None:
    async def test(courier: Any) -> None:
        async with RemoteHost() as host:
            hosts = (Host("nowhere.invalid", 25), Host("127.0.0.1", host.port))
            out = courier(Relay(name="out", hosts=hosts, tls=Level.NONE))
            assert kinds(await out.deliver(site.letter())) == ["delivered"]
            lost = courier(Relay(name="out", hosts=hosts[:1], tls=Level.NONE))
            (outcome,) = await lost.deliver(site.letter())
            assert (outcome.kind, outcome.unreachable) == (Kind.DEFERRED, True)

    play(test)

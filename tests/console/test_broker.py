"""Perspective Broker with stock Twisted clients: the ways in, what each role finds, what is told."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import Office, client
from serving import PASSWORD

from mailserver import maillog
from mailserver.transport.tls import Certificates, make_self_signed

REFUSED = "mailserver.console.pb.values.Refused"
NO_METHOD = "twisted.spread.flavors.NoSuchMethod"


@pytest.fixture
def office(tmp_path):
    office = Office(tmp_path)
    yield office
    office.pool.close()


@pytest.fixture
def events(monkeypatch):
    """Events logged, as (name, fields)."""
    seen = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append((name, fields)))
    monkeypatch.setattr(maillog, "fault", lambda name, error, /, **_: seen.append((name, repr(error))))
    return seen


@pytest.fixture
def says(office, tmp_path):
    """What a client `say`s whose `main` goes on like this, over a UNIX socket."""

    def says(body):
        async def conversation():
            with office.listening(f"unix:{tmp_path}/pb.sock"):
                return await client(f"unix:{tmp_path}/pb.sock", body)

        return asyncio.run(conversation())

    return says


def authenticated(name, body):
    return f'me = await root.callRemote("authenticate", {name!r}, {PASSWORD!r})\n' + body


LIST = """
domains = await me.callRemote("domains")
say([entry["domain"] for entry in await domains.callRemote("list")])
"""


# ---- ways in


def test_over_a_unix_socket_the_account_of_the_process_is_enough(says):
    assert says('me = await root.callRemote("login")\n' + LIST) == [["example.test", "other.test"]]


def test_an_account_that_is_nobodys_logs_in_with_a_password(says, office, monkeypatch):
    monkeypatch.setattr(office.operators, "of_uid", lambda uid: None)
    body = 'await wrong(root.callRemote("login"))\n' + authenticated("owen", LIST)
    [refused, domains] = says(body)
    assert refused == [REFUSED, "this account is no operator: log in with a name and a password"]
    assert domains == ["example.test", "other.test"]


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_over_tcp_and_tls_by_name_and_password(kind, office, tmp_path):
    if kind == "tls":
        pytest.importorskip(
            "OpenSSL", reason="a stock client speaks TLS with pyOpenSSL, which is not installed"
        )
    make_self_signed(str(tmp_path / "tls"), ["mx.example.test"])
    certificates = Certificates(str(tmp_path / "tls"))
    assert certificates.reload() == []

    async def conversation():
        with office.listening(f"{kind}:127.0.0.1:0", certificates=certificates) as listener:
            address = f"{kind}:{listener.port}"
            if kind == "tls":
                address += f":{tmp_path}/tls/mx.example.test/fullchain.pem"
            return await client(
                address, 'await wrong(root.callRemote("login"))\n' + authenticated("owen", LIST)
            )

    assert asyncio.run(conversation()) == [[NO_METHOD, "no such method"], ["example.test", "other.test"]]


def test_a_wrong_password_says_nothing_of_the_name_and_the_third_ends_the_connection(says):
    guess = 'await wrong(root.callRemote("authenticate", {!r}, "guess"))\n'
    told = says("".join(map(guess.format, ("owen", "nobody", "ann@example.test", "owen"))))
    assert told[:3] == [[REFUSED, "wrong name or password"]] * 3
    assert told[3][0] in ("PBConnectionLost", "DeadReferenceError")


@pytest.mark.parametrize("arguments", ["", "'owen'", "1, 2", "['owen'], {}", "None, None", "'a', 'b', 'c'"])
def test_a_login_takes_a_name_and_a_password(arguments, says):
    [refused] = says(f'await wrong(root.callRemote("authenticate", {arguments}))')
    assert refused[0] == REFUSED and refused[1].startswith("expected ")


def test_nobody_logs_in_twice(says):
    body = authenticated("owen", 'await wrong(root.callRemote("login"))')
    assert says(body) == [[REFUSED, "logged in already, as owen"]]


# ---- what there is


def test_a_user_is_added_looked_at_and_removed(says, office):
    body = """
users = await me.callRemote("users")
added = await users.callRemote("add", "bob@example.test", "a good password", quota="1G")
say(added["address"])
bob = await users.callRemote("user", "bob@example.test")
say((await bob.callRemote("show"))["quota"])
await bob.callRemote("set", enabled=False)
say((await bob.callRemote("show"))["enabled"])
say((await bob.callRemote("mailbox_show"))["messages"])
await bob.callRemote("remove", mail="delete")
await wrong(bob.callRemote("show"))
await wrong(users.callRemote("user", "bob@example.test"))
"""
    missing = [REFUSED, "no user bob@example.test"]
    assert says(authenticated("owen", body)) == [
        "bob@example.test",
        1 << 30,
        False,
        0,
        missing,
        missing,
    ]


def test_a_reference_nobody_keeps_is_good_for_the_call_it_was_made_for(says):
    """A stock client lets go of it right behind the call, in the same segment."""
    body = """
ann = await (await me.callRemote("users")).callRemote("user", "ann@example.test")
say((await ann.callRemote("show"))["address"])
say((await (await (await me.callRemote("users")).callRemote("user", "ann@example.test")).callRemote("show"))["address"])
"""
    assert says(authenticated("owen", body)) == ["ann@example.test"] * 2


def test_arguments_that_make_no_sense_are_refused_in_words(says):
    body = """
domains, aliases = await me.callRemote("domains"), await me.callRemote("aliases")
await wrong(domains.callRemote("add"))
await wrong(domains.callRemote("add", "new.test", "another"))
await wrong(domains.callRemote("add", "new.test", domain="new.test"))
await wrong(domains.callRemote("add", "new.test", colour="red"))
await wrong(domains.callRemote("add", {"a": [1]}))
await wrong(domains.callRemote("add", "..", quota="1G"))
await wrong(domains.callRemote("list", 1.5))
await wrong(domains.callRemote("list", object()))
say((await aliases.callRemote("add", "all@example.test", "ann@example.test", "x@other.test"))["targets"])
say((await aliases.callRemote("add", "few@example.test", ["ann@example.test"]))["targets"])
"""
    assert says(authenticated("owen", body)) == [
        [REFUSED, "domain add needs DOMAIN (domain)"],
        [REFUSED, "domain add takes domain"],
        [REFUSED, "domain is given twice"],
        [REFUSED, "domain add knows no 'colour'"],
        [REFUSED, "domain: expected a text of at most 8192 characters"],
        [REFUSED, "domain: '..': no domain such as example.org"],
        [REFUSED, "only texts, whole numbers, True, False, None, lists, tuples and dictionaries are taken"],
        [REFUSED, "only texts, whole numbers, True, False, None, lists, tuples and dictionaries are taken"],
        ["ann@example.test", "x@other.test"],
        ["ann@example.test"],
    ]

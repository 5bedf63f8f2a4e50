"""Perspective Broker with stock Twisted clients: the ways in, what each role finds, what is told."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("twisted", reason="the extra `console` is not installed")

from perspectives import PASSWORD, Office, client

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
    make_self_signed(str(tmp_path), ["mx.example.test"])
    certificates = Certificates(str(tmp_path))
    assert certificates.reload() == []

    async def conversation():
        with office.listening(f"{kind}:127.0.0.1:0", certificates=certificates) as listener:
            address = f"{kind}:{listener.port}"
            if kind == "tls":
                address += f":{tmp_path}/mx.example.test/fullchain.pem"
            return await client(
                address, 'await wrong(root.callRemote("login"))\n' + authenticated("owen", LIST)
            )

    assert asyncio.run(conversation()) == [[NO_METHOD, "no such method"], ["example.test", "other.test"]]

"""The resolver against real name servers: Knot DNS, and Unbound that validates what Knot has signed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import name_servers
import pytest
import uvloop

from mailserver.transport.resolver import DnsResolver, Found, Mx, NoSuchDomain, ResolverTrouble, Tlsa

SIGNED = f"""\
@ 60 IN MX 20 mx2
@ 60 IN MX 10 mx1
mx1 60 IN A 127.0.0.1
mx1 60 IN AAAA ::1
mx2 60 IN CNAME mx1
_25._tcp.mx1 60 IN TLSA 3 1 1 {"ab" * 32}
"""
PLAIN = 'null 60 IN MX 0 .\n_mta-sts 60 IN TXT "v=STSv1; id=1;"\n' + "".join(
    f"many 60 IN MX {number} a-name-that-takes-some-room-{number}\n" for number in range(80)
)
BOGUS = "@ 60 IN MX 10 mx1\n"


@pytest.fixture(scope="module")
def servers() -> Iterator[name_servers.Names]:
    zones = {
        "signed.test": SIGNED,
        "plain.test": PLAIN,
        "bogus.test": BOGUS,
        "broken.test": "@ 60 IN NONSENSE\n",
    }
    with name_servers.names(zones, frozenset({"signed.test"}), frozenset({"bogus.test"})) as running:
        yield running


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    def run(coroutine: Coroutine[Any, Any, Found[Any]]) -> Found[Any]:
        found: Found[Any] = request.param(coroutine)
        return found

    return run


def test_what_is_signed_is_secure(servers: name_servers.Names, run: Any) -> None:
    names = DnsResolver([("127.0.0.1", servers.validator)])
    found = run(names.mx("signed.test"))
    assert set(found.values) == {Mx(10, "mx1.signed.test"), Mx(20, "mx2.signed.test")}
    assert found.secure
    assert run(names.addresses("mx1.signed.test")) == Found(("::1", "127.0.0.1"), "mx1.signed.test", True)
    assert run(names.addresses("mx2.signed.test")).name == "mx1.signed.test"
    found = run(names.tlsa("_25._tcp.mx1.signed.test"))
    assert found == Found((Tlsa(3, 1, 1, b"\xab" * 32),), "_25._tcp.mx1.signed.test", True)


def test_what_is_not_signed_is_not(servers: name_servers.Names, run: Any) -> None:
    names = DnsResolver([("127.0.0.1", servers.validator)])
    assert run(names.mx("null.plain.test")) == Found((Mx(0, ""),), "null.plain.test", False)
    assert run(names.txt("_mta-sts.plain.test")).values == ("v=STSv1; id=1;",)
    authority = DnsResolver([("127.0.0.1", servers.authority)])
    assert not run(authority.mx("signed.test")).secure, "nobody has validated it"


def test_a_wrong_signature_is_trouble(servers: name_servers.Names, run: Any) -> None:
    with pytest.raises(ResolverTrouble):
        run(DnsResolver([("127.0.0.1", servers.validator)]).mx("bogus.test"))


def test_never_and_later(servers: name_servers.Names, run: Any) -> None:
    for port in servers:
        names = DnsResolver([("127.0.0.1", port)])
        with pytest.raises(NoSuchDomain):
            run(names.mx("nothing.signed.test"))
        with pytest.raises(ResolverTrouble):
            run(names.mx("broken.test"))  # SERVFAIL: the zone cannot be loaded
    with pytest.raises(ResolverTrouble):
        run(DnsResolver([("127.0.0.1", servers.authority)]).mx("elsewhere.test"))  # REFUSED


def test_an_answer_too_big_for_a_datagram(servers: name_servers.Names, run: Any) -> None:
    assert len(run(DnsResolver([("127.0.0.1", servers.authority)]).mx("many.plain.test")).values) == 80

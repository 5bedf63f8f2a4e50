"""Senders of forwarded mail and the way back for bounces; nobody without the secret makes such an address."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mailserver.mail.address import Address, parse_mailbox
from mailserver.mail.path import forward_path
from mailserver.mail.srs import VALID, Srs

SRS = Srs(b"a secret of enough octets")
OTHER = Srs(b"another secret of enough octets")
TODAY = 19_876
ANN = Address("Ann.O'Hara", "client.test")
DOMAINS = st.sampled_from(["client.test", "xn--bcher-kva.example", "a.b.c.d.test"])
LOCALS = st.text(st.sampled_from('abcXYZ019.=+-_!%@/ "\\ü日'), min_size=1, max_size=40)


def rewritten(sender: Address, srs: Srs = SRS, domain: str = "example.test", day: int = TODAY) -> Address:
    found = srs.forward(sender, domain, day)
    assert found is not None
    return found


@given(LOCALS, DOMAINS)
def test_a_bounce_finds_its_way_back(local: str, domain: str) -> None:
    sender = Address(local, domain)
    assume(not local.upper().startswith("SRS"))
    wire = f"<{rewritten(sender)}>"
    found, _ = forward_path(wire)
    assert isinstance(found, Address)
    assert found.domain == "example.test"
    assert SRS.reverse(found.local, TODAY) == sender


@given(LOCALS, DOMAINS, st.sampled_from(["lower", "upper"]))
def test_case_may_change_on_the_way(local: str, domain: str, change: str) -> None:
    assume(not local.upper().startswith("SRS"))
    found = SRS.reverse(getattr(rewritten(Address(local, domain)).local, change)(), TODAY)
    assert found is not None
    assert found.domain == domain
    assert found.local.casefold() == local.casefold()


def test_it_is_readable() -> None:
    assert str(rewritten(ANN)).endswith("=client.test=Ann.O'Hara@example.test")


def test_long_senders_of_mailing_services_fit() -> None:
    sender = Address("bounces+1234567-89ab-" + "x" * 43, "em1234.mailings.example")
    wire = f"<{rewritten(sender)}>"
    found, _ = forward_path(wire)
    assert isinstance(found, Address)
    assert SRS.reverse(found.local, TODAY) == sender


def test_what_cannot_be_rewritten() -> None:
    assert SRS.forward(Address("a", "[192.0.2.1]"), "example.test", TODAY) is None
    assert (
        SRS.forward(Address("a" * 64, "b" * 60 + ".test"), "c" * 60 + "." + "d" * 60 + ".test", TODAY) is None
    )


@pytest.mark.parametrize(
    ("age", "known"), [(-2, False), (-1, True), (0, True), (VALID, True), (VALID + 1, False), (500, False)]
)
def test_days(age: int, known: bool) -> None:
    local = rewritten(ANN, day=TODAY).local
    assert (SRS.reverse(local, TODAY + age) == ANN) is known


@given(st.data())
def test_forgeries(data: st.DataObject) -> None:
    """Any other address than one that was made, of the same form, is nobody's."""
    local = rewritten(ANN).local
    at = data.draw(st.integers(0, len(local) - 1))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567=+-@%"))
    forged = local[:at] + other + local[at + 1 :]
    assume(forged.casefold() != local.casefold())
    assert SRS.reverse(forged, TODAY) is None


@pytest.mark.parametrize(
    "local",
    [
        "SRS0",
        "SRS0=",
        "SRS0====",
        "SRS0=aaaaaaaa=aa=elsewhere.test=victim",
        "SRS0=aaaa=aa=elsewhere.test=victim",
        "SRS1=aaaaaaaa=elsewhere.test==aaaa=aa=client.test=victim",
        "SRS1=aaaaaaaa=elsewhere.test=victim",
        "SRS0=ääääääää=aa=elsewhere.test=victim",
        "victim",
        "",
    ],
)
def test_made_up(local: str) -> None:
    assert SRS.reverse(local, TODAY) is None


def test_another_secret_is_another_server() -> None:
    assert SRS.reverse(rewritten(ANN, OTHER).local, TODAY) is None
    with pytest.raises(ValueError, match="octets"):
        Srs(b"short")


def test_through_three_forwarders() -> None:
    """The second and every later one keep the first one's address: its own length is bounded."""
    third_srs = Srs(b"the third secret of enough octets")
    first = rewritten(ANN, domain="one.test")
    second = rewritten(first, OTHER, "two.test")
    third = rewritten(second, third_srs, "three.test")
    assert second.local.startswith("SRS1=")
    assert len(third.local) == len(second.local)
    assert third_srs.reverse(third.local, TODAY) == first
    assert OTHER.reverse(second.local, TODAY) == first
    assert SRS.reverse(first.local, TODAY) == ANN


@pytest.mark.parametrize("foreign", ["SRS0+ab+cd=client.test=ann", "srs0-ab=cd=client.test=ann", "SRS0=x"])
def test_other_separators_of_the_first_forwarder(foreign: str) -> None:
    found = SRS.reverse(rewritten(Address(foreign, "one.test")).local, TODAY)
    assert found == Address("SRS0" + foreign[4:], "one.test")
    assert parse_mailbox(str(found)) == found


def test_an_srs1_that_names_no_domain_is_an_address_like_others() -> None:
    sender = Address("SRS1=ab=no domain==x=y", "one.test")
    assert SRS.reverse(rewritten(sender).local, TODAY) == sender

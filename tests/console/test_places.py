"""Places of operators: those who have not logged in keep nobody out, nor does one address or one name."""

from __future__ import annotations

import os

from mailserver.console.places import OF_NAME, Places
from mailserver.transport.listener import Peer


def peer(address: str) -> Peer:
    return Peer(address, 4000, None, False)


def test_before_the_login_there_is_a_part_of_the_places() -> None:
    places = Places(80)
    for number in range(20):
        assert places.enter(f"192.0.2.{number}") is None
    assert places.enter("192.0.2.99") == "before-login"
    assert places.admit(peer("192.0.2.0"), "owen")
    assert places.enter("192.0.2.99") is None
    places.leave("192.0.2.1")
    assert places.enter("192.0.2.98") is None
    assert places.enter("192.0.2.97") == "before-login"


def test_and_of_that_a_part_for_each_address() -> None:
    places = Places(80)
    for _ in range(10):
        assert places.enter("192.0.2.1") is None
    assert places.enter("192.0.2.1") == "before-login-per-address"
    assert places.enter("192.0.2.2") is None
    for number in range(5):
        assert places.admit(peer("192.0.2.1"), f"user{number}")
        assert places.enter("192.0.2.1") is None
    places.dismiss(peer("192.0.2.1"), "user0")
    places.leave("192.0.2.1")
    assert places.enter("192.0.2.1") == "before-login-per-address"


def test_one_address_has_half_of_all_and_there_is_an_end() -> None:
    places = Places(80)
    for number in range(40):
        assert places.enter("192.0.2.1") is None
        assert places.admit(peer("192.0.2.1"), f"user{number}")
    assert places.enter("192.0.2.1") == "per-address"
    for number in range(40):
        assert places.enter("192.0.2.2") is None
        assert places.admit(peer("192.0.2.2"), f"user{number}")
    assert places.enter("192.0.2.3") == "connections"


def test_a_name_has_so_many_connections_wherever_from() -> None:
    places = Places()
    for number in range(OF_NAME):
        assert places.admit(peer(f"192.0.2.{number}"), "ann@example.test")
    assert not places.admit(peer("192.0.2.99"), "ann@example.test")
    assert places.admit(peer("192.0.2.99"), "owen")
    places.dismiss(peer("192.0.2.0"), "ann@example.test")
    assert places.admit(peer("192.0.2.99"), "ann@example.test")


def test_the_servers_own_account_is_not_counted() -> None:
    places = Places()
    own = Peer("unix", 0, os.geteuid(), False)
    assert all(places.admit(own, "root") for _ in range(OF_NAME + 1))
    assert places.admit(Peer("unix", 0, os.geteuid() + 12345, False), "root")


def test_other_accounts_of_the_machine_are_counted_as_addresses_are() -> None:
    places = Places(16)
    other = Peer("unix", 0, os.geteuid() + 12345, False)
    for _ in range(2):
        assert places.enter(f"uid {other.uid}") is None
    assert places.enter(f"uid {other.uid}") == "before-login-per-address"
    assert places.admit(other, "carol")
    assert places.enter(f"uid {other.uid}") is None

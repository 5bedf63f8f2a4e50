"""A user's route that is known goes by the files as they are: whatever changes them counts at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from office import HASH, Office

from mailserver.directory import cache
from mailserver.mail.address import Address
from mailserver.mail.quota import Quota
from mailserver.mta import routing
from mailserver.mta.route import DISABLED, TROUBLE, UNKNOWN, Local, Route

BOB = Address("bob", "example.test")


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    monkeypatch.setattr(cache, "_SETTLED_NS", -1 << 60)  # files are believed however new they are
    office = Office(tmp_path)
    assert decide(office) is decide(office), "it is not known"
    yield office
    office.close()


def decide(office: Office, address: Address = BOB) -> Route:
    found = office.routing.decide(address, 0)
    assert isinstance(found, tuple)
    return found


def place(office: Office, address: Address = BOB) -> Local:
    (found,) = decide(office, address)
    assert isinstance(found, Local)
    return found


def file(office: Office, name: str) -> Path:
    return Path(office.directory.root, "example.test", name)


def test_a_change_of_the_user(office: Office) -> None:
    file(office, "users/bob").write_text(f"{HASH}\nquota = 1M\n")
    (found,) = asyncio.run(office.routing.route(BOB, 0))
    assert isinstance(found, Local)
    assert found.quota == Quota(1 << 20)
    file(office, "users/bob").write_text(f"{HASH}\nenabled = no\n")
    assert office.routing.decide(BOB, 0) == DISABLED
    file(office, "users/bob").unlink()
    assert office.routing.decide(BOB, 0) == UNKNOWN


def test_a_link_to_another_file(office: Office) -> None:
    user = file(office, "users/bob")
    user.rename(file(office, "users/robert"))
    user.symlink_to("robert")
    assert decide(office) is decide(office), "it is not known"
    file(office, "users/robert").write_text(f"{HASH}\nenabled = no\n")
    assert office.routing.decide(BOB, 0) == DISABLED
    file(office, "users/robert").unlink()
    assert office.routing.decide(BOB, 0) == TROUBLE


def test_another_spelling_of_the_domain(office: Office) -> None:
    """Where both are there the A-labels count, also if they come later."""
    root, bob = Path(office.directory.root), Address("bob", "xn--mller-kva.test")
    (root / "müller.test" / "users").mkdir(parents=True)
    (root / "müller.test" / "users" / "bob").write_text(HASH)
    for _ in range(2):
        (found,) = decide(office, bob)
        assert isinstance(found, Local)
    (root / "xn--mller-kva.test").mkdir()
    assert office.routing.decide(bob, 0) == UNKNOWN


def test_files_that_are_too_new_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within one tick of the file system's clock look like one."""
    monkeypatch.setattr(cache, "_SETTLED_NS", 1 << 60)
    office = Office(tmp_path)
    assert decide(office) is not decide(office)
    office.close()


def test_an_alias_in_his_place(office: Office) -> None:
    file(office, "users/bob").rename(file(office, "users/robert"))
    file(office, "aliases/bob").write_text("robert\n")
    assert place(office).address == Address("robert", "example.test")


def test_settings_of_the_domain(office: Office, tmp_path: Path) -> None:
    before = place(office).maildir.path
    elsewhere = tmp_path / "elsewhere"
    settings = file(office, "domain.toml")
    settings.write_text(f'maildirs = "{elsewhere}"\n')
    assert place(office).maildir.path == f"{elsewhere}/bob"
    settings.unlink()
    assert place(office).maildir.path == before


def test_each_spelling_keeps_its_own(office: Office) -> None:
    spelled, tagged = Address("BOB", "example.test"), Address("bob+tag", "example.test")
    for _ in range(2):
        assert place(office, spelled) == place(office)._replace(maildir=place(office, spelled).maildir)
        assert place(office, tagged).address == BOB
    file(office, "users/bob+tag").write_text(HASH)
    assert place(office, tagged).address == tagged
    file(office, "users/bob+tag").unlink()
    assert place(office, tagged).address == BOB


def test_so_many_are_kept(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "KNOWN", 2)
    for local in ("ann", "bob", "postmaster"):
        decide(office, Address(local, "example.test"))
    assert len(office.routing._known) <= 2

"""MTA-STS policies outlive the process (RFC 8461 §3.3): a restart strips nobody of TLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_names import TROUBLE, FakeNames

from mailserver import maillog
from mailserver.delivery.mta_sts import POLICIES, Mode, Policies, PolicyError
from mailserver.delivery.policy_file import PolicyFile
from mailserver.pool import Pool

GOOD = b"version: STSv1\nmode: enforce\nmx: mx1.there.test\nmx: *.mail.test\nmax_age: 86400\n"


class World:
    """Two clocks, a web server, names; `live` is one life of the server."""

    def __init__(self, path: Path, pool: Pool) -> None:
        self.file = path / "mta-sts.json"
        self.pool = pool
        self.names = FakeNames()
        self.steady, self.wall = 50.0, 1_700_000_000.0
        self.texts: dict[str, bytes] = {}

    def publish(self, domain: str, text: bytes = GOOD) -> None:
        self.names.txts[f"_mta-sts.{domain}"] = ["v=STSv1; id=1;"]
        self.texts[domain] = text

    def unpublish(self) -> None:
        """What somebody in the middle does."""
        self.texts.clear()
        self.names.txts = dict.fromkeys(self.names.txts, TROUBLE)

    async def fetch(self, domain: str) -> bytes:
        if domain not in self.texts:
            raise PolicyError("nobody there")
        return self.texts[domain]

    def live(self, *domains: str) -> list[Mode | None]:
        """Start, ask for policies at once, stop."""
        self.steady += 7

        async def whole() -> list[Mode | None]:
            keeper = PolicyFile(str(self.file), self.pool)
            policies = Policies(self.names, self.fetch, lambda: self.steady, keeper, lambda: self.wall)
            found = await asyncio.gather(*map(policies.policy, domains))
            await policies.close()
            return [policy.mode if policy else None for policy in found]

        return asyncio.run(whole())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    pool = Pool("test", 1, 10)
    yield World(tmp_path, pool)
    pool.close()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append(name))
    return seen


def test_policies_outlive_a_restart(world: World) -> None:
    names = ("a.test", "b.test", "c.test")
    for name in names:
        world.publish(name)
    assert world.live(*names) == [Mode.ENFORCE] * 3
    assert world.file.stat().st_mode & 0o077 == 0
    world.unpublish()
    world.wall += 86_000
    assert world.live(*names, "d.test") == [Mode.ENFORCE] * 3 + [None]
    world.wall += 401
    assert world.live(*names) == [None] * 3, "to their end"


def test_a_newer_policy_replaces_the_one_that_is_kept(world: World) -> None:
    world.publish("a.test")
    world.live("a.test")
    world.names.txts["_mta-sts.a.test"] = ["v=STSv1; id=2;"]
    world.texts["a.test"] = GOOD.replace(b"enforce", b"none")
    assert world.live("a.test") == [Mode.NONE]
    world.unpublish()
    assert world.live("a.test") == [Mode.NONE]


def test_a_clock_that_was_set_back_makes_no_policy_last_longer(world: World) -> None:
    world.publish("a.test")
    world.live("a.test")
    world.unpublish()
    world.wall -= 10 * 365 * 86_400
    keeper = PolicyFile(str(world.file), world.pool)

    async def until() -> list[Mode | None]:
        policies = Policies(world.names, world.fetch, lambda: world.steady, keeper, lambda: world.wall)
        before = await policies.policy("a.test")
        world.steady += 86_401
        after = await policies.policy("a.test")
        return [policy.mode if policy else None for policy in (before, after)]

    assert asyncio.run(until()) == [Mode.ENFORCE, None]


LINE = {
    "domain": "a.test",
    "id": "1",
    "mode": "enforce",
    "hosts": ["mx.a.test"],
    "max_age": 86_400,
    "expires": 1_700_086_400.0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "A.test"},
        {"domain": "../a.test"},
        {"id": "1\n2"},
        {"hosts": []},
        {"hosts": ["mx.a.test\r\n"]},
        {"max_age": -1},
        {"max_age": 10**9},
        {"expires": -1e300},
    ],
    ids=str,
)
def test_lines_that_are_no_policies_are_left_out(world: World, change: dict[str, object]) -> None:
    world.names.txts["_mta-sts.a.test"] = TROUBLE
    world.file.write_text(json.dumps([LINE]))
    assert world.live("a.test") == [Mode.ENFORCE]
    world.file.write_text(json.dumps([LINE | change]))
    assert world.live("a.test") == [None]


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b'[{"domain": 1}]', b"null"])
def test_a_damaged_file_is_replaced(world: World, events: list[str], text: bytes) -> None:
    world.file.write_bytes(text)
    world.publish("a.test")
    assert world.live("a.test") == [Mode.ENFORCE]
    assert events == ["mta-sts-not-kept"]
    world.unpublish()
    assert world.live("a.test") == [Mode.ENFORCE]


def test_a_file_that_cannot_be_read_or_written_stops_no_mail(world: World, events: list[str]) -> None:
    world.file.mkdir()
    world.publish("a.test")
    assert world.live("a.test") == [Mode.ENFORCE]
    assert set(events) == {"mta-sts-not-kept"}


def test_the_file_is_bounded(world: World) -> None:
    names = [f"d{number}.test" for number in range(POLICIES + 10)]
    for name in names:
        world.publish(name)
    world.live(*names)
    assert len(json.loads(world.file.read_bytes())) == POLICIES
    world.file.write_text(json.dumps([LINE | {"domain": name} for name in names]))
    world.unpublish()
    assert world.live(names[0], names[-1]) == [None, Mode.ENFORCE]
    assert not list(world.file.parent.glob(".tmp*"))

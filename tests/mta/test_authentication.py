"""Logins: who gets in, what failures tell, what guessing costs, what is remembered. Time is simulated."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mailserver import maillog
from mailserver.directory import Directory, passwords
from mailserver.mail.address import Address
from mailserver.mta import guesses
from mailserver.mta.authentication import Authenticator, Login, Outcome, Verified
from mailserver.mta.counts import Counts
from mailserver.pool import Busy, Pool

SSHA = "{SSHA}fqwy2eYTg1eu6XFNklJifEBjHMUIy+Se"  # "test"
BCRYPT = "$2y$05$dSvp98B06Y.QFi6jnGk3HeRWvgB55.q4XcceVGrWGQWu/xdLYXRw2"  # "test"
DELAY = 2.0
HOME = "192.0.2.1"
AWAY = "198.51.100.7"


class Time:
    """A clock that stands still while anything can go on, and then leaps to the next sleeper."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), waiter))
        await waiter

    async def until(self, done: Callable[[], bool]) -> None:
        while True:
            for _ in range(20):
                await asyncio.sleep(0)
            if done():
                return
            assert self._sleepers, "everybody waits and nobody sleeps"
            self.now, _, waiter = heapq.heappop(self._sleepers)
            if not waiter.done():
                waiter.set_result(None)


class InlinePool:
    """Runs the work at once, at the price of some simulated time."""

    def __init__(self, time: Time) -> None:
        self.time = time
        self.costs: Callable[..., float] = lambda *_: 0.03
        self.busy = False
        self.verified: list[str] = []  # the stored hashes that were checked

    async def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        if self.busy:
            raise Busy
        if fn is passwords.verify:
            self.verified.append(args[1])
            await self.time.sleep(self.costs(*args))
        return fn(*args)


class World:
    """A directory with users of one domain, and the authenticator under test."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.directory = Directory(str(root))
        self.directory.add_domain("example.org")
        self.time = Time()
        self.pool = InlinePool(self.time)
        settings: dict[str, Any] = {
            "default_domain": None,
            "upgrade": False,
            "failure_delay": DELAY,
        } | options
        self.authenticator = Authenticator(
            self.directory,
            self.pool,  # type: ignore[arg-type]
            clock=self.time.clock,
            sleep=self.time.sleep,
            **settings,
        )

    def add(self, local: str, stored: str = SSHA, **settings: str) -> None:
        self.directory.add_user(Address(local, "example.org"), stored, settings)

    def login(self, name: str, password: str = "test", source: str = HOME) -> Coroutine[Any, Any, Login]:
        return self.authenticator.login(name, password, source, "pop3")

    def run(self, *logins: Coroutine[Any, Any, Login]) -> list[tuple[Outcome, float]]:
        """The outcomes of logins that begin together, and the seconds each took."""

        async def timed(login: Awaitable[Login], began: float) -> tuple[Outcome, float]:
            return (await login).outcome, round(self.time.now - began, 3)

        async def all_of_them() -> list[tuple[Outcome, float]]:
            tasks = [asyncio.ensure_future(timed(login, self.time.now)) for login in logins]
            await self.time.until(lambda: all(task.done() for task in tasks))
            return [task.result() for task in tasks]

        return asyncio.run(all_of_them())

    def one(self, name: str, password: str = "test", source: str = HOME) -> Outcome:
        return self.run(self.login(name, password, source))[0][0]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "domains")
    world.add("ann")
    return world


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(maillog, "event", lambda name, /, **fields: seen.append({"event": name, **fields}))
    return seen


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """No real hash for the unknown: where many are guessed, real ones would take the test's time."""
    monkeypatch.setattr(passwords, "DUMMY", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=")


# ---- who gets in


def test_right_and_wrong(world: World) -> None:
    assert world.one("ann@example.org") is Outcome.OK
    assert world.one("ANN@Example.ORG") is Outcome.OK
    assert world.one('"ann"@example.org') is Outcome.OK
    assert world.one("ann@example.org", "Test") is Outcome.WRONG
    assert world.one("ann@example.org", "") is Outcome.WRONG


def test_login_gives_the_user(world: World) -> None:
    login = asyncio.run(_finish(world, world.login("Ann@example.org")))
    assert login.user and login.user.address == "ann@example.org"
    login = asyncio.run(_finish(world, world.login("Ann@example.org", "no")))
    assert login.user is None


async def _finish(world: World, login: Coroutine[Any, Any, Login]) -> Login:
    task = asyncio.ensure_future(login)
    await world.time.until(task.done)
    return task.result()


def test_local_part_alone_needs_a_default_domain(world: World, tmp_path: Path) -> None:
    assert world.one("ann") is Outcome.WRONG
    other = World(tmp_path / "other", default_domain="Example.ORG")
    other.add("ann")
    assert other.one("ann") is Outcome.OK
    assert other.one("ann@example.org") is Outcome.OK
    assert other.one("ann@example.net") is Outcome.WRONG


@pytest.mark.parametrize(
    "name",
    [
        "",
        "@",
        "ann@",
        "@example.org",
        "ann+tag@example.org",
        "team@example.org",
        "ann@example.org.",
        "ann@example.org\0",
        "ann@[127.0.0.1]",
        "<ann@example.org>",
        "ann@example.org ann@example.org",
        "../users/ann@example.org",
        "ann@../example.org",
        "ann@example.org/users",
        "ann%example.org",
        "ann\udcff@example.org",
        "x" * 400 + "@example.org",
        "ann@" + "example." * 100 + "org",
    ],
)
def test_other_names_cost_the_same_and_get_nobody_in(world: World, name: str) -> None:
    world.directory.add_alias(Address("team", "example.org"), [Address("ann", "example.org")])
    assert world.run(world.login(name)) == [(Outcome.WRONG, DELAY)]
    assert world.pool.verified == [passwords.DUMMY]


def test_quoted_name_is_another_spelling_of_nobody(world: World) -> None:
    assert world.one('"ann "@example.org') is Outcome.WRONG


@pytest.mark.parametrize("password", ["x" * 1025, "é" * 513, "test\0", "test\udcff"])
def test_impossible_passwords_are_not_hashed(world: World, password: str) -> None:
    assert world.run(world.login("ann@example.org", password)) == [(Outcome.WRONG, DELAY)]
    assert world.pool.verified == []


# ---- what a failure tells


def test_each_failure_costs_one_hash_and_one_time(tmp_path: Path) -> None:
    """Counted and in simulated time: half a second for an old scheme shows no more than nothing at all."""
    world = World(tmp_path / "domains")
    world.add("ann", BCRYPT)
    world.add("bob", SSHA)
    world.add("off", SSHA, enabled="no")
    world.pool.costs = lambda _, stored: {BCRYPT: 0.5, SSHA: 0.0}.get(stored, 0.03)
    for number, name in enumerate(("ann", "bob", "off", "nobody")):
        before = len(world.pool.verified)
        source = f"192.0.2.{number}"
        assert world.run(world.login(f"{name}@example.org", "wrong", source)) == [(Outcome.WRONG, DELAY)]
        assert len(world.pool.verified) == before + 1
    assert world.pool.verified == [BCRYPT, SSHA, passwords.DUMMY, passwords.DUMMY]


def test_right_password_of_a_disabled_user_looks_wrong(world: World) -> None:
    world.add("off", enabled="no")
    assert world.run(world.login("off@example.org")) == [(Outcome.WRONG, DELAY)]


def test_hash_that_takes_longer_than_the_delay_is_rounded_up(world: World) -> None:
    world.pool.costs = lambda *_: DELAY + 0.1
    assert world.run(world.login("ann@example.org", "wrong")) == [(Outcome.WRONG, 2 * DELAY)]


def test_good_login_is_not_held_back(world: World) -> None:
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.03)]


def test_log_has_no_password(world: World, events: list[dict[str, Any]]) -> None:
    world.one("Ann@example.org")
    world.one("ann@example.org", "hunter2")
    world.one("x" * 1000, "hunter2")
    assert [e["outcome"] for e in events] == ["ok", "failed", "failed"]
    assert [len(e["user"]) for e in events] == [15, 15, 320]
    assert {(e["event"], e["peer"], e["protocol"]) for e in events} == {("login", HOME, "pop3")}
    assert "hunter2" not in repr(events)


def test_failure_is_logged_though_the_client_hangs_up_before_the_answer(
    world: World, events: list[dict[str, Any]]
) -> None:
    async def hang_up() -> None:
        task = asyncio.ensure_future(world.login("ann@example.org", "wrong"))
        await world.time.until(lambda: bool(events))
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(hang_up())
    assert [e["outcome"] for e in events] == ["failed"]


# ---- trouble of ours


def test_trouble_is_no_verdict(world: World, events: list[dict[str, Any]]) -> None:
    users = Path(world.directory.root) / "example.org/users"
    (users / "bob").write_text("")
    (users / "eva").write_text("{PLAIN}test")
    assert world.one("bob@example.org") is Outcome.UNAVAILABLE
    assert world.one("eva@example.org") is Outcome.UNAVAILABLE
    assert world.one("ann@example.org") is Outcome.OK
    assert "store a hash" in next(e for e in events if e.get("user") == "eva@example.org")["reason"]
    world.pool.busy = True
    assert world.one("ann@example.org", "other") is Outcome.BUSY
    world.pool.busy = False
    assert world.run(world.login("nobody@example.org")) == [(Outcome.WRONG, DELAY)]


def test_trouble_is_no_guess(world: World) -> None:
    world.pool.busy = True
    for _ in range(50):
        assert world.one("ann@example.org") is Outcome.BUSY
    world.pool.busy = False
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.03)]


def test_full_pool_is_busy_at_once(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path / "domains"))
    directory.add_domain("example.org")
    directory.add_user(Address("ann", "example.org"), SSHA)

    async def scenario() -> tuple[Login, Login]:
        pool = Pool("hashing", 1, 0)
        authenticator = Authenticator(directory, pool, None, False, 0)
        free = threading.Event()
        blocker = asyncio.ensure_future(pool.run(free.wait))
        await asyncio.sleep(0)
        first = await authenticator.login("ann@example.org", "test", HOME)
        free.set()
        await blocker
        await asyncio.sleep(0)
        second = await authenticator.login("ann@example.org", "test", HOME)
        pool.close()
        return first, second

    first, second = asyncio.run(scenario())
    assert (first.outcome, second.outcome) == (Outcome.BUSY, Outcome.OK)


# ---- guessing


def guess_for(
    world: World, seconds: float, connections: int, source: Callable[[int], str], hang_up: bool
) -> int:
    """Guess on many connections for a while, hanging up after half a second or not; the guesses looked at."""
    end = world.time.now + seconds

    async def guesser(number: int) -> None:
        while world.time.now < end:
            task = asyncio.ensure_future(world.login("ann@example.org", "wrong", source(number)))
            if hang_up:
                await world.time.sleep(0.5)
                task.cancel()
            outcome = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(outcome, Login) and outcome.outcome is Outcome.DELAYED:
                await world.time.sleep(1)  # and back

    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(guesser(number)) for number in range(connections)]
        await world.time.until(lambda: all(task.done() for task in tasks))

    asyncio.run(all_of_them())
    return len(world.pool.verified)


@pytest.mark.parametrize("hang_up", [False, True])
@pytest.mark.parametrize(
    "source",
    [lambda _: HOME, lambda n: f"2001:db8:0:1::{n:x}", lambda n: ("::ffff:" if n % 2 else "") + HOME],
)
def test_guesses_of_one_source_are_few(world: World, source: Callable[[int], str], hang_up: bool) -> None:
    guessed = guess_for(world, 60, 16, source, hang_up)
    assert 5 <= guessed <= 20  # a third of one a second, the first ones included


def test_hanging_up_during_the_check_is_a_failure(world: World) -> None:
    world.pool.costs = lambda *_: 1.0
    assert guess_for(world, 60, 1, lambda _: HOME, hang_up=True) <= 20


def test_owner_from_elsewhere_notices_nothing(world: World, cheap: None) -> None:
    guess_for(world, 60, 16, lambda _: HOME, hang_up=False)
    assert world.run(world.login("ann@example.org", source=AWAY)) == [(Outcome.OK, 0.03)]
    assert world.run(world.login("ann@example.org", source=AWAY)) == [(Outcome.OK, 0.0)]
    assert world.run(world.login("ann@example.org", source="2001:db8::1")) == [(Outcome.OK, 0.03)]


def test_owner_at_the_same_source_waits_a_bounded_time(world: World) -> None:
    for _ in range(20):
        world.one("ann@example.org", "wrong")
    ((outcome, seconds),) = world.run(world.login("ann@example.org"))
    assert outcome is Outcome.OK
    assert 1 < seconds <= 15.1


def test_typing_errors_cost_only_the_delay(world: World) -> None:
    for _ in range(2):
        assert world.run(world.login("ann@example.org", "wrong")) == [(Outcome.WRONG, DELAY)]
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.03)]


def test_more_failures_wait_longer_and_time_forgets(world: World) -> None:
    took = [world.run(world.login("ann@example.org", "wrong"))[0][1] for _ in range(12)]
    assert took[:4] == [DELAY] * 4
    assert took == sorted(took)
    assert took[-1] == pytest.approx(8, abs=0.1)
    world.time.now += 61
    for _ in range(2):
        assert world.run(world.login("ann@example.org", "wrong")) == [(Outcome.WRONG, DELAY)]


def test_success_does_not_buy_guesses(world: World) -> None:
    world.add("mallory", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=")
    for _ in range(8):
        world.one("ann@example.org", "wrong")
        world.one("mallory@example.org")
    assert world.run(world.login("ann@example.org", "wrong"))[0][1] > 5


def test_many_good_logins_of_one_source_are_not_slowed(world: World) -> None:
    for number in range(60):
        world.add(f"user{number}")
    results = world.run(*(world.login(f"user{number}@example.org") for number in range(60)))
    assert {outcome for outcome, _ in results} == {Outcome.OK}
    assert max(seconds for _, seconds in results) < 1


def test_too_many_at_once_are_delayed(world: World, cheap: None) -> None:
    results = world.run(*(world.login("nobody@example.org", str(n)) for n in range(200)))
    outcomes = [outcome for outcome, _ in results]
    assert outcomes.count(Outcome.DELAYED) >= 96
    assert len(world.pool.verified) <= 12
    assert all(seconds <= 40 for _, seconds in results)


def test_line_of_one_source_is_bounded(world: World, cheap: None) -> None:
    results = world.run(*(world.login("ann@example.org") for _ in range(200)))
    outcomes = [outcome for outcome, _ in results]
    assert outcomes.count(Outcome.OK) == guesses.Line.AT_A_TIME + guesses.Line.MOST_WAITING
    assert [seconds for outcome, seconds in results if outcome is Outcome.DELAYED] == [0.0] * 96


def test_many_sessions_of_one_user_share_a_check(world: World) -> None:
    results = world.run(*(world.login("ann@example.org") for _ in range(50)))
    assert results == [(Outcome.OK, 0.03)] * 50
    assert len(world.pool.verified) == guesses.Line.AT_A_TIME


def test_removed_user_is_out_though_already_in_line(world: World) -> None:
    for _ in range(8):
        world.one("nobody@example.org", "wrong")

    async def scenario() -> Login:
        task = asyncio.ensure_future(world.login("ann@example.org"))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        world.directory.remove_user(Address("ann", "example.org"))
        return await _finish(world, task)  # type: ignore[arg-type]

    assert asyncio.run(scenario()).outcome is Outcome.WRONG


def test_table_of_sources_is_bounded() -> None:
    time = Time()
    sources = guesses.Sources(time.clock, time.sleep)
    busy = sources.line(HOME)
    for number in range(30_000):
        sources.line(f"2001:db8:{number:x}::1")
        assert sources.line(HOME) is busy
    assert len(sources._lines) == guesses.Sources.MOST


@pytest.mark.parametrize("source", ["unix", "", "fe80::1%eth0", "::ffff:192.0.2.1", "not an address"])
def test_any_source_has_a_line(world: World, source: str) -> None:
    assert world.one("ann@example.org", "test", source) is Outcome.OK


# ---- what is remembered


def test_polling_client_costs_one_hash_in_five_minutes(world: World) -> None:
    for _ in range(10):
        assert world.one("ann@example.org") is Outcome.OK
        world.time.now += 60
    assert len(world.pool.verified) == 2


def test_only_the_very_password_is_remembered(world: World) -> None:
    assert world.one("ann@example.org") is Outcome.OK
    world.add("bob", SSHA)
    assert world.one("ann@example.org", "Test") is Outcome.WRONG
    assert world.one("ann@example.org", "Test") is Outcome.WRONG
    assert world.one("bob@example.org", "wrong") is Outcome.WRONG
    assert len(world.pool.verified) == 4


def test_what_is_remembered_ends_with_the_file(world: World) -> None:
    ann = Address("ann", "example.org")
    assert world.one("ann@example.org") is Outcome.OK
    world.directory.set_password(ann, "{SHA}n4bQgYhMfWWaL+qgxVrQFaO/Txs=")
    assert world.one("ann@example.org") is Outcome.WRONG
    world.directory.set_password(ann, SSHA)
    assert world.one("ann@example.org") is Outcome.OK
    world.directory.set_user(ann, {"enabled": "no"})
    assert world.one("ann@example.org") is Outcome.WRONG
    world.directory.remove_user(ann)
    assert world.one("ann@example.org") is Outcome.WRONG


def test_remembered_login_passes_the_line_of_guessers(world: World) -> None:
    assert world.one("ann@example.org") is Outcome.OK
    for _ in range(20):
        world.one("nobody@example.org", "wrong")
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.0)]


def test_guesser_elsewhere_is_not_told_what_is_remembered(world: World) -> None:
    assert world.one("ann@example.org") is Outcome.OK
    world.run(*(world.login("ann@example.org", f"guess{number}", AWAY) for number in range(120)))
    guesses = [world.login("ann@example.org", f"more{number}", AWAY) for number in range(120)]
    outcomes = world.run(*guesses, world.login("ann@example.org", "test", AWAY))
    assert outcomes[-1] == (Outcome.DELAYED, 0.0)
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.0)]


def test_guesser_of_the_same_network_cannot_ask_the_memory(world: World) -> None:
    """Whoever comes from there stands in line as soon as one password was wrong; the owner does, too."""
    assert world.one("ann@example.org") is Outcome.OK
    world.time.now += 61
    guesses = [world.login("ann@example.org", f"guess{number}") for number in range(120)]
    outcomes = world.run(*guesses, world.login("ann@example.org", "more"), world.login("ann@example.org"))
    assert outcomes[-2:] == [(Outcome.DELAYED, 0.0)] * 2
    world.time.now += 61
    assert world.run(world.login("ann@example.org")) == [(Outcome.OK, 0.0)]


def test_guesser_at_one_user_leaves_the_others_their_memory(world: World) -> None:
    world.add("bob")
    assert world.one("bob@example.org") is Outcome.OK
    world.time.now += 61
    guesses = [world.login("ann@example.org", f"guess{number}") for number in range(120)]
    assert world.run(*guesses, world.login("bob@example.org"))[-1] == (Outcome.OK, 0.0)


def test_right_password_is_hashed_once_for_each_network(world: World) -> None:
    for source in (HOME, AWAY, "2001:db8::1", HOME, AWAY, "2001:db8::2", "::ffff:192.0.2.1"):
        assert world.one("ann@example.org", "test", source) is Outcome.OK
    assert len(world.pool.verified) == 3


def test_owner_who_was_hashed_asks_the_memory_at_once(world: World) -> None:
    """Not remembered yet, his password looked like a guess; it was none."""
    assert world.one("ann@example.org") is Outcome.OK
    guesses = [world.login("nobody@example.org", f"guess{number}") for number in range(120)]
    assert world.run(*guesses, world.login("ann@example.org"))[-1] == (Outcome.OK, 0.0)


def test_memory_of_logins_ends_with_time_and_is_known_by_its_key_alone(world: World) -> None:
    counts, other = Counts(), Counts()
    verified = Verified(300, world.time.clock, counts)
    user = world.directory.user("example.org", "ann")
    assert user
    for number in range(100):
        verified.add(user, f"password{number}", HOME)
        world.time.now += 1
    assert all(verified.knows(user, f"password{number}", HOME) for number in range(100))
    world.time.now += 250
    assert [verified.knows(user, f"password{number}", HOME) for number in (49, 50, 51)] == [
        False,
        False,
        True,
    ]
    other.logins = counts.logins
    assert not Verified(300, world.time.clock, other).knows(user, "password99", HOME)


# ---- old hashes


def stored(world: World) -> str:
    user = world.directory.user("example.org", "ann")
    assert user
    return user.password


def test_old_hash_is_renewed_at_a_good_login(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    world = World(tmp_path / "domains", upgrade=True)
    world.add("ann", SSHA, quota="1G")
    assert world.one("ann@example.org", "wrong") is Outcome.WRONG
    assert stored(world) == SSHA
    assert world.one("ann@example.org") is Outcome.OK
    assert stored(world).startswith("$argon2id$")
    assert passwords.verify("test", stored(world)) == (True, False)
    user = world.directory.user("example.org", "ann")
    assert user and user.quota.storage == 1 << 30
    renewed = stored(world)
    world.time.now += 1000
    assert world.one("ann@example.org") is Outcome.OK
    assert stored(world) == renewed
    assert {"event": "hash-renewed", "user": "ann@example.org", "outcome": "ok"} in events


def test_without_the_setting_nothing_is_written(world: World) -> None:
    assert world.one("ann@example.org") is Outcome.OK
    assert stored(world) == SSHA


def test_password_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    world = World(tmp_path / "domains", upgrade=True)
    world.add("ann", SSHA)

    def change_then_verify(*_: Any) -> float:
        world.directory.set_password(Address("ann", "example.org"), BCRYPT)
        return 0.1

    world.pool.costs = change_then_verify
    assert world.one("ann@example.org") is Outcome.OK
    assert stored(world) == BCRYPT


@pytest.mark.parametrize("trouble", [OSError(30, "Read-only file system"), KeyError("gone"), ValueError("x")])
def test_failure_to_renew_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]], trouble: Exception
) -> None:
    world = World(tmp_path / "domains", upgrade=True)
    world.add("ann", SSHA)

    def fail(*_: Any, **__: Any) -> bool:
        raise trouble

    monkeypatch.setattr(world.directory, "set_password", fail)
    assert world.one("ann@example.org") is Outcome.OK
    assert {"event": "hash-renewed", "user": "ann@example.org", "outcome": type(trouble).__name__} in events

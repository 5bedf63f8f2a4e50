"""Sweeping: what is too old goes, in small steps, and a clock that leaps makes nothing old."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mailserver.mailbox import sweep
from mailserver.mailbox.maildir import Maildir, Message
from mailserver.mailbox.steady import DAY, SteadyClock
from mailserver.mailbox.sweep import Sweeper
from mailserver.mailbox.trash import Trash

Deliver = Callable[..., Message]
HOUR = 3600.0
RETENTION = 7 * DAY


class World:
    """A machine with a clock, a server on it that sweeps at least twice a day, and files whose ages we choose."""

    def __init__(self, maildir: Maildir, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.maildir = maildir
        self.state = state
        self.wall, self.since_boot = 1_700_000_000.0, 100.0
        self.changed: dict[str, float] = {}
        real = os.stat

        def stat(path: str, **kwargs: int) -> object:
            found = real(path, **kwargs)
            if not isinstance(path, str) or path not in self.changed:
                return found
            return os.stat_result(found, {"st_ctime": self.changed[path]})

        monkeypatch.setattr(sweep.os, "stat", stat)
        self.restart()

    def restart(self) -> None:
        clock = SteadyClock(str(self.state), lambda: self.wall, lambda: self.since_boot)
        self.sweeper = Sweeper(lambda: [self.maildir.path], RETENTION, clock)

    def leave(self, *place: str) -> Path:
        """A file that comes here now."""
        path = Path(self.maildir.path, *place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.changed[path.name] = self.wall
        return path

    def run(self, seconds: float) -> int:
        """The server runs and makes its passes; how much they remove."""
        removed, step = 0, HOUR
        while seconds > 0:
            self.wall += step
            self.since_boot += step
            removed += sum(self.sweeper.sweep())
            seconds -= step
            step = min(seconds, 12 * HOUR)
        return removed

    def leap(self, seconds: float) -> None:
        self.wall += seconds

    def outage(self, seconds: float) -> None:
        self.wall += seconds
        self.since_boot = 100.0
        self.restart()


@pytest.fixture
def world(maildir: Maildir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    maildir.create()
    made = World(maildir, tmp_path / "sweep", monkeypatch)
    assert made.run(2 * DAY) == 0
    return made


def test_trash_expires_after_its_time_and_not_before(world: World) -> None:
    old, seen = world.leave(".Trash/cur/1.a,S=1:2,S"), world.leave(".Trash/new/2.b")
    assert world.run(RETENTION) == 0
    kept = world.leave(".Trash/cur/3.c:2,")
    assert world.run(HOUR) == 2
    assert (old.exists(), seen.exists(), kept.exists()) == (False, False, True)


def test_only_trash_and_temporary_files_expire(world: World) -> None:
    places = [
        "new/1.a",
        "cur/2.b:2,",
        ".Sent/cur/3.c:2,",
        ".Trash.Old/cur/4.d:2,",
        "pop3-uidl",
        "tmp/.hidden",
        ".Trash/cur/.keep",
    ]
    for place in places:
        world.leave(place)
    assert world.run(30 * DAY) == 0


def test_temporary_files_of_dead_programs_go_after_36_hours(world: World) -> None:
    for place in ("tmp/1.a", ".Trash/tmp/2.b", ".Sent/tmp/3.c", ".tmp-123-4"):
        world.leave(place)
    assert world.run(36 * HOUR) == 0
    assert world.run(HOUR) == 4


def test_the_real_change_time_counts(maildir: Maildir, deliver: Deliver, tmp_path: Path) -> None:
    message, later = deliver(), 2 * DAY
    os.utime(Path(maildir.path, "new", message.name), (0, 0))  # the date of the mail says nothing
    Trash(maildir).discard(message)
    times = {"wall": 0.0}
    (trashed,) = Trash(maildir).list()
    clock = SteadyClock(
        str(tmp_path / "s"), lambda: trashed.trashed_at + times["wall"], lambda: times["wall"]
    )
    sweeper = Sweeper(lambda: [maildir.path], later + HOUR, clock)
    assert sum(sweeper.sweep()) == 0
    times["wall"] = later
    assert sum(sweeper.sweep()) == 0
    times["wall"] = later + 2 * HOUR
    assert sum(sweeper.sweep()) == 1


# -- the clock --


@pytest.mark.parametrize("leap", [365 * DAY, 8 * DAY, HOUR, -HOUR])
def test_nothing_expires_because_the_clock_leapt(world: World, leap: float) -> None:
    before = world.leave(".Trash/cur/1.before:2,")
    world.leap(leap)
    assert world.run(RETENTION) == 0
    assert before.exists()
    assert world.run(2 * HOUR) == 1


def test_a_file_from_a_time_when_the_clock_was_wrong_has_its_whole_time(world: World) -> None:
    """The machine starts without a battery-backed clock, and the time is set an hour later."""
    world.outage(-20 * 365 * DAY)
    assert world.run(HOUR) == 0
    young = world.leave(".Trash/cur/1.young:2,")
    world.leap(20 * 365 * DAY)
    assert world.run(RETENTION) == 0
    assert young.exists()
    assert world.run(2 * HOUR) == 1


def test_what_is_from_the_future_stays_until_then_at_least(world: World) -> None:
    world.leave(".Trash/cur/1.before:2,")
    world.leap(-20 * DAY)
    assert world.run(20 * DAY + RETENTION) == 0
    assert world.run(2 * HOUR) == 1


def test_a_leap_is_remembered_over_a_restart(world: World) -> None:
    world.leave(".Trash/cur/1.before:2,")
    world.leap(365 * DAY)
    assert world.run(HOUR) == 0
    world.outage(HOUR)
    assert world.run(5 * DAY) == 0


def test_a_clock_set_back_while_the_server_was_down(world: World) -> None:
    world.leave(".Trash/cur/1.a:2,")
    world.outage(-6 * DAY)
    assert world.run(RETENTION) == 0


def test_after_a_long_silence_nothing_expires_for_a_day(world: World) -> None:
    """An outage, or a leap while nothing ran: that cannot be told."""
    world.leave(".Trash/cur/1.a:2,")
    world.outage(30 * DAY)
    assert world.run(23 * HOUR) == 0
    assert world.run(3 * HOUR) == 1


def test_nightly_restarts_and_short_outages_do_not_stop_expiry(world: World) -> None:
    world.leave(".Trash/cur/1.a:2,")
    removed = 0
    for _ in range(9):
        removed += world.run(20 * HOUR)
        world.outage(4 * HOUR)
    assert removed == 1


def test_adjustments_of_a_healthy_clock_are_no_leaps(world: World) -> None:
    world.leave(".Trash/cur/1.a:2,")
    removed = 0
    for _ in range(16):
        world.leap(20.0)
        removed += world.run(12 * HOUR)
    assert removed == 1


@pytest.mark.parametrize("state", ["", "x y z\n", "1\n", "nan nan nan\n", "1e999 0 0\n", "\0" * 100])
def test_a_lost_state_costs_a_day_and_no_mail(world: World, state: str) -> None:
    world.leave(".Trash/cur/1.a:2,")
    assert world.run(RETENTION) == 0
    world.state.write_text(state)
    world.outage(HOUR)
    assert world.run(23 * HOUR) == 0
    assert world.run(3 * HOUR) == 1


def test_a_state_that_cannot_be_written_stops_nothing(world: World, tmp_path: Path) -> None:
    world.state.unlink()
    world.state.mkdir()
    world.leave("tmp/1.a")
    assert world.run(40 * HOUR) == 1


# -- steps --


def test_a_pass_is_made_of_short_steps(world: World) -> None:
    for i in range(sweep.BATCH * 2 + 1):
        world.leave(f".Trash/cur/{i}.h:2,")
    world.run(RETENTION)
    world.wall += HOUR
    world.since_boot += HOUR
    steps = world.sweeper.sweep()
    removed = next(steps) or next(steps)
    assert removed == sweep.BATCH
    steps.close()
    assert world.run(HOUR) == sweep.BATCH + 1


def test_one_bad_mailbox_does_not_stop_the_others(world: World, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tmp").symlink_to(Path(world.maildir.path, "tmp"))
    world.leave("tmp/1.a")
    clock = SteadyClock(str(tmp_path / "other"), lambda: world.wall, lambda: world.since_boot)
    paths = [str(tmp_path / "none"), str(linked), world.maildir.path]
    world.sweeper = Sweeper(lambda: paths, RETENTION, clock)
    assert world.run(40 * HOUR) == 1


def test_what_cannot_be_removed_keeps_nothing_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(sweep.trouble, "log", lambda event, *_: events.append(event))
    stuck = [world.leave(".Trash", "cur", "1.stuck:2,"), world.leave(".Trash", "cur", "9.stuck:2,")]
    gone = [world.leave(".Trash", "cur", "5.gone:2,"), world.leave("tmp", "5.gone")]
    unlink = os.unlink

    def immutable(name: str, **kwargs: int) -> None:
        if "stuck" in name:
            raise PermissionError(errno.EPERM, "immutable")
        unlink(name, **kwargs)

    monkeypatch.setattr(os, "unlink", immutable)
    assert world.run(RETENTION + DAY) == 2
    assert [path.exists() for path in stuck + gone] == [True, True, False, False]
    assert "sweep-failed" in events


def test_a_directory_in_trash_is_left_alone(world: World) -> None:
    world.leave(".Trash/cur/directory:2,").unlink()
    Path(world.maildir.path, ".Trash/cur/directory:2,").mkdir()
    world.leave(".Trash/cur/1.a:2,")
    assert world.run(RETENTION + 2 * HOUR) == 1

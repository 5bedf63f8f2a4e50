"""Changes that wait to be confirmed, and go back by themselves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mailserver.config import pending
from mailserver.config.confirm import restore_unconfirmed
from mailserver.config.editing import Author, EditRefused, Settings

ANN, TIMER = Author("ann", "telnet"), Author("mailserver", "auto-revert")
OLD = 'hostname = "old.test" # mine\n'
NEW = OLD.replace("old", "new")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mailserver.toml"
    path.write_text(OLD)
    return path


@pytest.fixture
def settings(file: Path) -> Settings:
    return Settings(str(file.parent))


def fronts(settings: Settings) -> list[str]:
    return [version.front for version in settings.history()]


def test_a_change_that_is_confirmed_stays(file: Path, settings: Settings) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    waiting = settings.pending()
    assert waiting is not None and (waiting.who, waiting.back) == ("ann", 1)
    assert 50 < waiting.left() <= 60
    with pytest.raises(EditRefused, match="a change by ann waits to be confirmed until 2"):
        settings.set("hostname", "other.test", ANN)
    assert settings.confirm() == waiting
    with pytest.raises(EditRefused, match="no change waits to be confirmed"):
        settings.confirm()
    with pytest.raises(EditRefused, match="no change waits to be confirmed"):
        settings.take_back(TIMER)
    assert restore_unconfirmed(str(file.parent)) is None
    assert file.read_text() == NEW


def test_a_change_that_is_not_confirmed_goes_back(file: Path, settings: Settings) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    done = settings.take_back(TIMER)
    assert (done.number, done.who, done.by_hand) == (3, "ann", False)
    assert file.read_text() == OLD
    assert fronts(settings) == ["by hand", "telnet", "auto-revert"]
    assert settings.pending() is None


def test_what_a_person_has_edited_since_stays(file: Path, settings: Settings) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    file.write_text(NEW + "# I like it\n")
    assert settings.take_back(TIMER).by_hand
    assert file.read_text() == NEW + "# I like it\n"
    assert fronts(settings) == ["by hand", "telnet", "by hand"]
    assert restore_unconfirmed(str(file.parent)) is None


def test_a_start_restores_what_was_confirmed_last(file: Path, settings: Settings) -> None:
    settings.set("hostname", "new.test", ANN, confirm=3600)
    done = restore_unconfirmed(str(file.parent))
    assert done is not None and not done.by_hand
    assert file.read_text() == OLD


def test_time_that_is_up_counts_though_nobody_was_there(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    clock = pending._clock() + 61
    monkeypatch.setattr(pending, "_clock", lambda: clock)
    waiting = settings.pending()
    assert waiting is not None and waiting.left() == 0
    settings.set("limits.received", "200", ANN)
    assert file.read_text() == OLD + "\n[limits]\nreceived = 200\n"
    assert fronts(settings) == ["by hand", "telnet", "auto-revert", "telnet"]


def test_the_clock_on_the_wall_moves_no_deadline(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    waiting = settings.pending()
    assert waiting is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86400)
    assert waiting.left() > 50
    monkeypatch.setattr(pending, "_boot", lambda: "another start of the machine")
    assert waiting.left() == 0


def test_nothing_waits_where_nothing_was_changed(file: Path, settings: Settings) -> None:
    assert not settings.set("hostname", "old.test", ANN, confirm=60).changed
    with pytest.raises(EditRefused, match="hostname: expected"):
        settings.set("hostname", "?", ANN, confirm=60)
    assert settings.pending() is None


@pytest.mark.parametrize("seconds", [0, 0.5, -1, 86401, float("nan"), float("inf")])
def test_the_time_has_bounds(file: Path, settings: Settings, seconds: float) -> None:
    with pytest.raises(EditRefused, match="expected 1 second to 24 hours"):
        settings.set("hostname", "new.test", ANN, confirm=seconds)
    assert file.read_text() == OLD


@pytest.mark.parametrize("text", ["", "{}", "[]", "\0", '{"back": "x"}'])
def test_a_damaged_note_stands_for_nothing(file: Path, settings: Settings, text: str) -> None:
    settings.set("hostname", "new.test", ANN, confirm=60)
    (file.parent / ".history" / "pending").write_text(text)
    assert restore_unconfirmed(str(file.parent)) is None
    settings.set("hostname", "other.test", ANN)

"""A fault or a kill at every step of an edit: the file is the old one or the new one, and the history knows it.

The steps are the system calls, enumerated by running once; then each is made to fail with each error, and once
the process ends there instead (in a child).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from system_calls import ERRORS, Calls, died, dying, failing

from mailserver.config.confirm import restore_unconfirmed
from mailserver.config.editing import Author, Settings
from mailserver.config.load import ConfigError
from mailserver.config.versioned import BY_HAND
from mailserver.durable import exchange

ANN = Author("ann", "telnet")
OLD = 'hostname = "old.test" # mine\n'
NEW = OLD.replace("old", "new")


def made(path: Path, name: str) -> Path:
    directory = path / name
    directory.mkdir()
    (directory / "mailserver.toml").write_text(OLD)
    Settings(str(directory)).record_hand_edit()
    return directory


def edit(directory: Path, confirm: float | None) -> None:
    Settings(str(directory)).set("hostname", "new.test", ANN, confirm)


def killed(directory: Path, monkeypatch: pytest.MonkeyPatch, at: int, work: Callable[[], object]) -> None:
    """Do `work` in a child that is killed at step `at`."""

    def watched(promise: Callable[[], None]) -> None:
        with Calls(at, dying).watched(monkeypatch):
            work()
            promise()

    assert died(watched) == 0


def steps(path: Path, monkeypatch: pytest.MonkeyPatch, confirm: float | None) -> int:
    directory = made(path, "count")
    with Calls().watched(monkeypatch) as calls:
        edit(directory, confirm)
    assert len(calls.made) > 10
    return len(calls.made)


def told(directory: Path) -> list[tuple[int, str]]:
    return [(version.number, version.front) for version in Settings(str(directory)).history()]


def assert_consistent(directory: Path) -> str:
    """The text of the file; after the next look its history ends with it, and nothing lies about."""
    text = (directory / "mailserver.toml").read_text()
    assert text in (OLD, NEW)
    settings = Settings(str(directory))
    assert settings.record_hand_edit() is None
    assert settings.diff(len(settings.history())) == ""
    assert told(directory) == [(1, BY_HAND), (2, "telnet")][: 2 if text == NEW else 1]
    assert set(os.listdir(directory)) == {"mailserver.toml", ".history"}
    assert all(not name.startswith(".") for name in os.listdir(directory / ".history"))
    return text


@pytest.mark.parametrize("confirm", [None, 60.0])
def test_killed_at_every_step_of_an_edit(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, confirm: float | None
) -> None:
    seen = set()
    for at in range(steps(memory_path, monkeypatch, confirm)):
        directory = made(memory_path, str(at))
        killed(directory, monkeypatch, at, lambda directory=directory: edit(directory, confirm))
        if confirm is None:
            seen.add(assert_consistent(directory))
            edit(directory, None)
            assert (directory / "mailserver.toml").read_text() == NEW
        else:
            restore_unconfirmed(str(directory))
            assert (directory / "mailserver.toml").read_text() == OLD
            assert [front for _, front in told(directory)] in ([BY_HAND], [BY_HAND, "telnet", "auto-revert"])
            assert Settings(str(directory)).pending() is None
            seen.add(str(len(told(directory))))
    assert len(seen) == 2  # the kills came before and after the change


def test_killed_at_every_step_of_taking_back(memory_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = made(memory_path, "count")
    edit(count, 60.0)
    with Calls().watched(monkeypatch) as calls:
        restore_unconfirmed(str(count))
    for at in range(len(calls.made)):
        directory = made(memory_path, str(at))
        edit(directory, 60.0)
        killed(directory, monkeypatch, at, lambda directory=directory: restore_unconfirmed(str(directory)))
        restore_unconfirmed(str(directory))
        assert (directory / "mailserver.toml").read_text() == OLD
        assert told(directory) == [(1, BY_HAND), (2, "telnet"), (3, "auto-revert")]
        assert Settings(str(directory)).pending() is None


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("confirm", [None, 60.0])
def test_a_fault_at_every_step_of_an_edit(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, confirm: float | None, code: int
) -> None:
    for at in range(steps(memory_path, monkeypatch, confirm)):
        directory = made(memory_path, str(at))
        made_it = False
        with Calls(at, failing(code)).watched(monkeypatch), suppress(OSError, ConfigError):
            edit(directory, confirm)
            made_it = True
        text = assert_consistent(directory)
        assert text == NEW or not made_it
        if text == NEW and confirm is not None:
            restore_unconfirmed(str(directory))
            assert (directory / "mailserver.toml").read_text() == OLD


def writing(
    monkeypatch: pytest.MonkeyPatch, file: Path, hands: dict[int, str], *, exchanges: bool = True
) -> None:
    """A person appends to the file right before the n-th exchange of an edit."""
    real, count = exchange.exchange, iter(range(100))

    def meanwhile(one: str, other: str) -> bool:
        with open(file, "a") as appended:
            appended.write(hands.get(next(count), ""))
        return exchanges and real(one, other)

    monkeypatch.setattr(exchange, "exchange", meanwhile)


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "without"])
def test_a_person_who_writes_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    """His file stays, becomes a version of its own, and the edit is made in it."""
    directory = made(tmp_path, "x")
    file = directory / "mailserver.toml"
    writing(monkeypatch, file, {0: "# first\n"}, exchanges=exchanges)
    edit(directory, 60.0)
    assert file.read_text() == NEW + "# first\n"
    assert told(directory) == [(1, BY_HAND), (2, BY_HAND), (3, "telnet")]
    pending = Settings(str(directory)).pending()
    assert pending is not None and pending.back == 2


def test_a_person_who_writes_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He wrote into what the edit had put in place: that counts, and what he wrote before is in the history."""
    directory = made(tmp_path, "x")
    file = directory / "mailserver.toml"
    writing(monkeypatch, file, {0: "# first\n", 1: "# second\n"})
    edit(directory, None)
    assert file.read_text() == NEW + "# second\n"
    assert told(directory) == [(1, BY_HAND), (2, BY_HAND), (3, BY_HAND)]
    assert "# first\n" in (directory / ".history" / "2.toml").read_text()


def test_a_person_who_does_not_stop_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = made(tmp_path, "x")
    file = directory / "mailserver.toml"
    writing(monkeypatch, file, {number: f"# {number}\n" for number in range(0, 100, 2)})
    with pytest.raises(ConfigError, match="being edited by hand just now"):
        edit(directory, 60.0)
    assert file.read_text() == OLD + "# 0\n# 2\n# 4\n"
    assert Settings(str(directory)).pending() is None


def test_a_person_who_writes_while_his_change_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = made(tmp_path, "x")
    file = directory / "mailserver.toml"
    edit(directory, 60.0)
    writing(monkeypatch, file, {0: "# mine\n"})
    done = restore_unconfirmed(str(directory))
    assert done is not None and done.by_hand
    assert file.read_text() == NEW + "# mine\n"
    assert told(directory) == [(1, BY_HAND), (2, "telnet"), (3, BY_HAND)]


def test_a_persons_file_that_a_kill_left_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He wrote in the moment before the exchange, and the server was killed right after it."""
    directory = made(tmp_path, "x")
    file = directory / "mailserver.toml"

    def wrote(one: str, other: str) -> bool:
        file.write_text(OLD + "# precious\n")
        real(one, other)
        os.kill(os.getpid(), signal.SIGKILL)
        return True

    real = exchange.exchange
    pid = os.fork()
    if pid == 0:
        exchange.exchange = wrote
        edit(directory, None)
        os._exit(0)
    os.waitpid(pid, 0)
    assert file.read_text() == NEW
    assert Settings(str(directory)).record_hand_edit() == 2
    assert file.read_text() == OLD + "# precious\n"
    assert told(directory) == [(1, BY_HAND), (2, BY_HAND)]

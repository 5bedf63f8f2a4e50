"""Settings of `mailserver.toml`, looked at and changed by machine, beside people who edit the file by hand.

An edit changes one place of the text (`layout`), is proven (`proof`), must be a configuration (`load`), and
becomes a version of the file (`versioned`); else nothing is written. Not here: having a server use it, roles,
taking back what is not confirmed (`confirm`).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from tomlkit.exceptions import TOMLKitError

from mailserver.config import document, keys, layout
from mailserver.config.history import HistoryError, Version
from mailserver.config.keys import Key, UnknownKey
from mailserver.config.load import FILE, Problem, examine
from mailserver.config.model import FIXED, Config
from mailserver.config.pending import LONGEST, Pending
from mailserver.config.proof import NotProven, prove
from mailserver.config.refused import EditRefused
from mailserver.config.statements import LayoutError, Statement, line_of, split
from mailserver.config.versioned import Author, TakenBack, VersionedFile
from mailserver.config.written import written

__all__ = ["Author", "Edit", "EditRefused", "Setting", "Settings", "Version"]

_LONGEST = 300  # characters of what a version says about itself


class Setting(Struct, frozen=True):
    """A setting: its value as a person writes it, None for none; its `line` in the file, 0: the default."""

    key: str
    value: Any
    line: int


class Edit(Struct, frozen=True):
    """What became of an edit: the newest version now, whether anything changed, what needs a restart.

    `live`: a running server has taken it over.
    """

    number: int
    changed: bool
    needs_restart: tuple[str, ...] = ()
    live: bool = False


class Settings:
    """The settings in a configuration directory. Methods block; raise EditRefused, ConfigError, OSError.

    With `confirm`, a change is taken back unless it is confirmed in so many seconds (`take_back`, which
    somebody must call when the time is up); meanwhile there are no other changes by machine.
    No edit changes the settings `kept` of those that need a restart; each with why not.
    """

    def __init__(self, directory: str, kept: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._kept = kept or {}
        self._file = VersionedFile(directory)

    # ---- looking

    def get(self, key: str = "") -> list[Setting]:
        """The setting `key`, those of the table `key`, or all of them."""
        with _told():
            text = document.decoded(self._file.read())
            values = document.parsed(text)
            wanted = keys.parse(key) if key else None
            if wanted is not None:
                keys.locate(wanted, values)
            statements = split(text)
            chosen = (one for one in keys.all_keys(values) if wanted is None or wanted.covers(one))
            return [_setting(one, text, statements, values) for one in chosen]

    def export(self) -> str:
        """The file as it is, also if it is no configuration."""
        return self._file.read().decode(errors="replace")

    def history(self) -> list[Version]:
        """All versions that are kept, the oldest first. ConfigError: there is neither one nor a file."""
        versions = self._file.history.versions()
        if not versions:
            self._file.read()
        return versions

    def diff(self, number: int | None = None) -> str:
        """What differs between a version and the file now, as a unified diff; by default, the last change."""
        with _told():
            now = self._file.content()
            number = self._before(now) if number is None else number
            return _unified(self._file.history.text(number), now, number) if number else ""

    def last_known(self) -> Config | None:
        """The newest version that is a configuration, for those who mend the file."""
        history = self._file.history
        known = (examine(history.text(number), self.directory)[0] for number in reversed(history.numbers()))
        return next((config for config in known if config is not None), None)

    # ---- changing

    def set(self, key: str, text: str, by: Author, confirm: float | None = None) -> Edit:
        """Give a setting the value that `text` means: a TOML value, or a bare word."""
        wanted = _setting_key(key)

        def change(before: str) -> str:
            refusal: Exception | None = None
            for value in keys.candidates(text):
                intended = document.parsed(before)
                path = keys.locate(wanted, intended)
                document.put(intended, path, value)
                try:
                    return self._proven(before, layout.put(before, path, value), intended)
                except (EditRefused, LayoutError, NotProven) as error:
                    refusal = refusal or error
            assert refusal is not None
            raise refusal

        return self._edit(change, by, f"set {wanted} {text}", confirm)

    def unset(self, key: str, by: Author, confirm: float | None = None) -> Edit:
        """Give a setting its default again."""
        wanted = _setting_key(key)
        return self._edit(lambda before: self._dropped(before, wanted), by, f"unset {wanted}", confirm)

    def add(self, table: str, values: Mapping[str, str], by: Author, confirm: float | None = None) -> Edit:
        """One more `[[listener]]` or `[[relay]]`; the values are given as for `set`."""
        name = _check_array(table, values)

        def change(before: str) -> str:
            intended = document.parsed(before)
            array = intended.setdefault(table, [])
            array.append(self._chosen(before, table, len(array), values))
            return self._proven(before, layout.append(before, table, array[-1]), intended)

        return self._edit(change, by, f"add {keys.table_text(table, name)}", confirm)

    def remove(self, table: str, name: str, by: Author, confirm: float | None = None) -> Edit:
        """Take a `[[listener]]` or `[[relay]]` out; comments in it stay."""
        _check_array(table, {})
        key = Key(table, name, "")
        return self._edit(lambda before: self._dropped(before, key), by, f"remove {key}", confirm)

    def rollback(self, number: int, by: Author, confirm: float | None = None) -> Edit:
        """Make the file again what it was in a version; that is a new version.

        It mends a file that is no configuration, or is missing.
        """
        with _told():
            former = self._file.history.text(number)
            try:
                self._require_valid(document.decoded(former))
            except (EditRefused, LayoutError) as error:
                raise EditRefused(f"version {number} is no configuration: {error}") from None
        what = f"rollback to {number}"
        if confirm is None:
            with _told():
                made = self._file.restore(former, by, what)
            if made is not None:
                return Edit(made.number, True)
        return self._replace(lambda before: former, by, what, confirm)

    def record_hand_edit(self) -> int | None:
        """Keep what a person has written as a version of its own; its number, None where nothing is new.

        What is no configuration is kept only when a machine is about to replace it.
        """
        with _told():
            return self._file.record_hand_edit(lambda data: examine(data, self.directory)[0] is not None)

    # ---- changes that wait to be confirmed (`confirm` seconds, from 1 to a day, when they are made)

    def pending(self) -> Pending | None:
        """The change that waits, until when, and which version comes again otherwise."""
        return self._file.pending()

    def confirm(self) -> Pending:
        """The change that waits, stays. Refused: none does."""
        with _told():
            pending = self._file.confirm()
        if pending is None:
            raise EditRefused("no change waits to be confirmed")
        return pending

    def take_back(self, by: Author) -> TakenBack:
        """Back to the last confirmed version, unless a person has edited since. Refused: no change waits."""
        with _told():
            done = self._file.take_back(by)
        if done is None:
            raise EditRefused("no change waits to be confirmed")
        return done

    # ---- how an edit is made

    def _edit(self, change: Callable[[str], str], by: Author, what: str, confirm: float | None) -> Edit:
        return self._replace(lambda data: change(document.decoded(data)).encode(), by, what, confirm)

    def _replace(
        self, change: Callable[[bytes], bytes], by: Author, what: str, confirm: float | None
    ) -> Edit:
        if confirm is not None and not 1 <= confirm <= LONGEST:
            raise EditRefused(f"expected 1 second to {LONGEST / 3600:.0f} hours to confirm a change")

        def checked(before: bytes) -> bytes:
            after = change(before)
            for name in _needing_restart(before, after):
                if name in self._kept:
                    raise EditRefused(f"{name}: {self._kept[name]}")
            return after

        with _told():
            done = self._file.replace(checked, by, what[:_LONGEST], confirm)
        return Edit(done.number, done.before != done.after, _needing_restart(done.before, done.after))

    def _dropped(self, before: str, key: Key) -> str:
        intended = document.parsed(before)
        path = keys.locate(key, intended)
        document.remove(intended, path)
        return self._proven(before, layout.drop(before, path), intended)

    def _chosen(self, before: str, table: str, index: int, values: Mapping[str, str]) -> dict[str, Any]:
        """The values of a new table: as TOML where they are of their settings' kinds, else as bare words."""
        meant = {key: keys.candidates(text) for key, text in values.items()}
        first = {key: candidates[0] for key, candidates in meant.items()}
        wrong = {problem.key for problem in self._problems(layout.append(before, table, first))}
        return {
            key: found[-1]
            if f"{table}[{index}].{key}" in wrong and not isinstance(found[0], str)
            else found[0]
            for key, found in meant.items()
        }

    def _proven(self, before: str, after: str, intended: Mapping[str, Any]) -> str:
        """`after`, if it is what was meant and a configuration. Raises EditRefused, NotProven."""
        prove(before, after, intended)
        self._require_valid(after)
        return after

    def _require_valid(self, text: str) -> None:
        for problem in self._problems(text):
            raise EditRefused(str(problem._replace(file="")))

    def _problems(self, text: str) -> list[Problem]:
        return examine(text.encode(), self.directory)[1]

    def _before(self, now: bytes) -> int:
        """The version before the last change, which may be one by hand that is no version yet; 0: none."""
        numbers = self._file.history.numbers()
        if len(numbers) > 1 and self._file.history.text(numbers[-1]) == now:
            return numbers[-2]
        return numbers[-1] if numbers else 0


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the parts below refuse is told to the operator by one exception."""
    try:
        yield
    except (UnknownKey, LayoutError, NotProven, HistoryError) as error:
        raise EditRefused(str(error)) from None
    except UnicodeEncodeError:
        raise EditRefused("expected UTF-8 text") from None
    except TOMLKitError:
        raise EditRefused("this place of the file cannot be edited by machine") from None


def _setting_key(text: str) -> Key:
    with _told():
        key = keys.parse(text)
    if not key.key:
        raise EditRefused(f"{key} is a table: name one of its settings")
    return key


def _check_array(table: str, values: Mapping[str, str]) -> str:
    """The name of a new table."""
    if table not in keys.NAMED_BY:
        raise EditRefused(f"expected {' or '.join(keys.NAMED_BY)}, not {table[:60]!r}")
    return values.get(keys.NAMED_BY[table], "")


def _setting(key: Key, text: str, statements: list[Statement], values: Mapping[str, Any]) -> Setting:
    path = keys.locate(key, values)
    node: Any = values
    for part in path:
        if isinstance(node, dict) and part not in node:
            default = keys.default_of(key)
            return Setting(str(key), None if default is msgspec.NODEFAULT else written(default), 0)
        node = node[part]
    return Setting(str(key), node, line_of(text, statements, path))


def _needing_restart(before: bytes, after: bytes) -> tuple[str, ...]:
    """The settings among what has changed that a running server cannot change."""
    try:
        old, new = (document.parsed(document.decoded(data)) for data in (before, after))
    except LayoutError:
        return ()  # a file that said nothing useful
    return tuple(name for name in FIXED if old.get(name) != new.get(name))


def _unified(old: bytes, new: bytes, number: int) -> str:
    before, after = (text.decode(errors="replace").splitlines() for text in (old, new))
    lines = difflib.unified_diff(before, after, f"version {number}", FILE, lineterm="")
    return "".join(f"{line}\n" for line in lines)

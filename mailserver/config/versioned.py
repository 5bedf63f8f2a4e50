"""`mailserver.toml` as a file with a history: replaced only if it still is what was read, each state kept.

What people do to it by hand becomes a version of its own before a machine touches it. A crash at any step
leaves the old file or the new one, and a history that knows it. Not here: what the text says (`editing`).
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable

from msgspec import Struct

from mailserver.config.history import About, History
from mailserver.config.load import FILE, MAX_FILE, ConfigError
from mailserver.durable import exchange

TRIES = 3  # an edit is tried again this often when a person writes at the same moment
BY_HAND = "by hand"
_TEMPORARY = f".{FILE}.new"


class Author(Struct, frozen=True):
    """Who changes something, and by which front end."""

    who: str
    front: str


class Replaced(Struct, frozen=True):
    """What became of an edit: the version in force, the file before and after."""

    number: int
    before: bytes
    after: bytes


class VersionedFile:
    """The file in a configuration directory. Methods block; they raise ConfigError, HistoryError, OSError."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE)
        self.history = History(directory)

    def read(self) -> bytes:
        """The content of the file."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise ConfigError(self.path, "", "no such file; `mailserver init DOMAIN` makes one") from None
        if len(data) > MAX_FILE:
            raise ConfigError(self.path, "", f"expected at most {MAX_FILE} octets")
        return data

    def replace(self, change: Callable[[bytes], bytes], by: Author, what: str) -> Replaced:
        """Put in place what `change` makes of the file, as a new version; what `change` raises, passes."""
        for _ in range(TRIES):
            with self.history.locked():
                self._recover()
                before = self.read()
                self._note_hand_edit(before)
                after = change(before)
                if after == before:
                    return Replaced(self.history.latest()[0], before, after)
                self.history.intend(About(utc(time.time()), by.who, by.front, what), after)
                if self._exchange(before, after):
                    return Replaced(self.history.settle(), before, after)
        raise ConfigError(self.path, "", "it is being edited by hand just now")

    def record_hand_edit(self) -> int | None:
        """Keep what a person has written as a version of its own; its number, None where nothing is new."""
        with self.history.locked():
            self._recover()
            return self._note_hand_edit(self.read())

    def _exchange(self, before: bytes, after: bytes) -> bool:
        """False, and nothing changed, where a person has written meanwhile."""
        try:
            exchange.replace_known(self._real(), self._temporary(), before, after)
        except exchange.Changed:
            self.history.forget()
            return False
        except BaseException:
            self._recover()
            raise
        return True

    def _note_hand_edit(self, data: bytes) -> int | None:
        number, last = self.history.latest()
        if number and last == data:
            return None
        status = os.stat(self.path)
        about = About(utc(status.st_mtime), _account(status.st_uid), BY_HAND, "edited by hand")
        return self.history.record(about, data)

    def _recover(self) -> None:
        """Finish or forget what a crash has cut short.

        What came out of an exchange and is neither the old text nor the new one was a person's, who wrote at
        that very moment: it goes back into its place.
        """
        intended, out = self.history.intended(), self._left_over()
        if intended is not None:
            if self.read() != intended:
                self.history.forget()
            elif out is None or intended.startswith(out) or out == self.history.latest()[1]:
                self.history.settle()
            else:
                exchange.exchange(self._temporary(), self._real())
                self.history.forget()
        if out is not None:
            os.unlink(self._temporary())

    def _left_over(self) -> bytes | None:
        try:
            with open(self._temporary(), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _real(self) -> str:
        """The file itself: a link to it stays one."""
        return os.path.realpath(self.path)

    def _temporary(self) -> str:
        return os.path.join(os.path.dirname(self._real()), _TEMPORARY)


def utc(seconds: float) -> str:
    """A time in ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)

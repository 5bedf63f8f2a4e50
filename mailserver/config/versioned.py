"""`mailserver.toml` as a file with a history: replaced only if it still is what was read, each state kept.

What people do to it by hand becomes a version of its own before a machine touches it. A crash at any step
leaves the old file or the new one, and a history that knows it. Not here: what the text says (`editing`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import time
from collections.abc import Callable

from msgspec import Struct

from mailserver.config.history import About, History, HistoryError
from mailserver.config.load import FILE, MAX_FILE, ConfigError
from mailserver.config.pending import Pending, PendingFile
from mailserver.durable import exchange, files

TRIES = 3  # an edit is tried again this often when a person writes at the same moment
BY_HAND = "by hand"
UNCONFIRMED = "auto-revert"
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


class TakenBack(Struct, frozen=True):
    """A change that nobody confirmed, by `who`; the version in force now, `by_hand` if edited since."""

    number: int
    who: str
    by_hand: bool


class VersionedFile:
    """The file in a configuration directory. Methods block; they raise ConfigError, HistoryError, OSError."""

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, FILE)
        self.history = History(directory)
        self._pending = PendingFile(self.history.directory)

    def read(self) -> bytes:
        """The content of the file."""
        try:
            with open(self.path, "rb", opener=files.regular) as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise ConfigError(self.path, "", f"no such file; {self._way_out()}") from None
        if len(data) > MAX_FILE:
            raise ConfigError(self.path, "", f"expected at most {MAX_FILE} octets")
        return data

    def content(self) -> bytes:
        """Likewise; nothing where there is no file."""
        return self.read() if os.path.exists(self.path) else b""

    def restore(self, data: bytes, by: Author, what: str) -> Replaced | None:
        """Make the file that is missing, as a new version; None, and nothing is done, where there is one."""
        with self.history.locked():
            if os.path.exists(self.path):
                return None
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary())
            self._pending.end()  # of a file that is gone nothing can be taken back
            self.history.intend(_about(by, what), data)
            try:
                files.create(self._real(), data)
            except FileExistsError:
                self.history.forget()
                return None
            return Replaced(self.history.settle(), b"", data)

    def replace(
        self, change: Callable[[bytes], bytes], by: Author, what: str, confirm: float | None = None
    ) -> Replaced:
        """Put in place what `change` makes of the file, as a new version; what `change` raises, passes.

        With `confirm` it waits so many seconds to be confirmed; meanwhile there are no other changes.
        """
        for _ in range(TRIES):
            with self.history.locked():
                self._settle()
                before = self.read()
                self._note_hand_edit(before)
                after = change(before)
                number = self.history.latest()[0]
                if after == before:
                    return Replaced(number, before, after)
                self._require_ours()
                if confirm is not None:
                    self._pending.begin(number, confirm, by.who, by.front)
                try:
                    if self._exchange(before, after, _about(by, what)):
                        return Replaced(self.history.settle(), before, after)
                finally:
                    if confirm is not None and self.read() != after:
                        self._pending.end()  # the change has not come about
        raise ConfigError(self.path, "", "it is being edited by hand just now")

    def pending(self) -> Pending | None:
        """The change that waits to be confirmed."""
        return self._pending.read()

    def confirm(self) -> Pending | None:
        """Nothing is taken back any more; what waited for this."""
        with self.history.locked():
            pending = self._pending.read()
            self._pending.end()
            return pending

    def take_back(self, by: Author) -> TakenBack | None:
        """Put the last confirmed version in place again, unless a person has edited the file since.

        None where nothing waits to be confirmed.
        """
        for _ in range(TRIES):
            with self.history.locked():
                self._recover()
                pending = self._pending.read()
                if pending is None:
                    return None
                if (done := self._take_back(pending, by)) is not None:
                    return done
        raise ConfigError(self.path, "", "it is being edited by hand just now")

    def record_hand_edit(self, is_worth: Callable[[bytes], bool]) -> int | None:
        """Keep what a person has written, if it `is_worth` that; its number, None where nothing is new."""
        with self.history.locked():
            self._recover()
            data = self.read()
            return self._note_hand_edit(data) if is_worth(data) else None

    def _settle(self) -> None:
        """Finish what a crash or a time to confirm has left. Raises HistoryError while one runs."""
        self._recover()
        pending = self._pending.read()
        if pending is not None and pending.left():
            raise HistoryError(f"a change by {pending.who} waits to be confirmed until {pending.until}")
        if pending is not None:
            self._take_back(pending, Author(pending.who, UNCONFIRMED))

    def _take_back(self, pending: Pending, by: Author) -> TakenBack | None:
        """None where a person is writing just now, and then nothing is done."""
        now = self.read()
        self._note_hand_edit(now)
        number = self.history.latest()[0]
        edited_since = number > pending.back + 1 and self.history.front(number) == BY_HAND
        if number == pending.back + 1:
            former = self.history.text(pending.back)
            if not self._exchange(now, former, _about(by, f"back to version {pending.back}")):
                return None
            number = self.history.settle()
        self._pending.end()
        return TakenBack(number, pending.who, edited_since)

    def _exchange(self, before: bytes, after: bytes, about: About) -> bool:
        """False, and nothing changed, where a person has written meanwhile."""
        self.history.intend(about, after)
        try:
            exchange.replace_known(self._real(), self._temporary(), before, after)
        except exchange.Changed as changed:
            self.history.forget()
            if changed.overtaken is not None:
                self._record_by_hand(changed.overtaken)
            return False
        except BaseException:
            self._recover()
            raise
        return True

    def _require_ours(self) -> None:
        """The new file gets the owner and group of the old one: where these are not ours, only by root."""
        status = os.stat(self.path)
        ours = status.st_uid == os.geteuid() and status.st_gid in {os.getegid(), *os.getgroups()}
        if os.geteuid() != 0 and not ours:
            who = _account(os.geteuid())
            raise ConfigError(
                self.path, "", f"not {who}'s own, or of a group {who} is not in: chown it first"
            )

    def _note_hand_edit(self, data: bytes) -> int | None:
        number, last = self.history.latest()
        return None if number and last == data else self._record_by_hand(data)

    def _record_by_hand(self, data: bytes) -> int:
        status = os.stat(self.path)
        what = "edited by hand" if self.history.numbers() else "as it was found"
        about = About(_utc(status.st_mtime), _account(status.st_uid), BY_HAND, what)
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

    def _way_out(self) -> str:
        """For those whose file is missing."""
        if self.history.numbers():
            return "`mailserver config rollback NUMBER` makes it again"
        return "`mailserver init DOMAIN` makes one"

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


def _about(by: Author, what: str) -> About:
    return About(_utc(time.time()), by.who, by.front, what)


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
